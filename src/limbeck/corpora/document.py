"""A document, its origin, and its side of the split into training and held-out data.

The split depends on the document alone, not on order, seed or other documents. So it stays the same when files are moved or
added, and a text that occurs twice is never on both sides.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

Message = dict[str, Any]

PROMPTS_HELD_OUT = 0.1  # of the prompts of a reward, which are fewer than documents; no command holds out a larger part
HELD_OUT_FAMILIES = 10  # one family in ten is always held out; the built-in teachers were never trained on these


@dataclass(frozen=True)
class Document:
    """One text or one conversation.

    ``name`` is its place: ``stories.jsonl:17`` is line 17, ``part.parquet:17`` row 17 (from 1), ``json.decoder`` a module.
    ``family`` is a group that is split as a whole: a top-level module of the standard library. ``prompt`` is the number of
    leading characters of the text that have no weight in the loss. ``tools`` and ``template`` (further arguments of the chat
    template) belong to messages. ``goes_on``: the next document continues this text, so no closing token follows. ``form`` is
    the form of its record, ``unread`` the fields with text that is not part of the document. ``rejected``: in a preference pair
    the other completion of the same prompt, of which the first ``asked`` messages, or ``prompt`` characters, are the prompt.
    ``checked_by``: fields of a prompt's record that say how completions of it are checked, by the names in `records.CHECKS`.
    ``strategy``: in which way a prompt's record says that it is to be answered, as it stands there, None where it says nothing.
    ``question``: what the document is about, where several are and must be on one side of the split.
    """

    name: str
    text: str | None = None
    messages: list[Message] | None = None
    family: str | None = None
    prompt: int = 0
    tools: list[Any] | None = None
    template: Mapping[str, Any] | None = None
    goes_on: bool = False
    rejected: Document | None = None
    asked: int = 0
    checked_by: Mapping[str, Any] | None = field(default=None, compare=False)
    strategy: Any = field(default=None, compare=False)
    question: str | None = field(default=None, compare=False)
    form: str = field(default="", compare=False)
    unread: tuple[str, ...] = field(default=(), compare=False)

    @property
    def content(self) -> str:
        """The text; canonical JSON for a prompt with its completion, or a conversation.

        Nulls are left out, because a table gives every object the keys of all others, and the same text must be the same
        document.
        """
        if self.rejected is not None:
            return _canonical({"chosen": replace(self, rejected=None).content, "rejected": self.rejected.content})
        if self.text is not None and not self.prompt:
            return self.text
        if self.text is not None:
            return _canonical({"prompt": self.text[: self.prompt], "completion": self.text[self.prompt :]})
        further = {"tools": self.tools, "chat_template_kwargs": self.template}
        if any(value is not None for value in further.values()):
            return _canonical({"messages": self.messages, **further})
        return _canonical(self.messages)

    def digest(self) -> bytes:
        """SHA-256 of the content."""
        return hashlib.sha256(self.content.encode()).digest()

    def split_digest(self) -> bytes:
        """SHA-256 of what decides its side of the split: what its record says (``question``), else the content.

        Of a preference pair it is the prompt.
        """
        if self.question is not None:
            return hashlib.sha256(self.question.encode()).digest()
        if self.rejected is None:
            return self.digest()
        prompt = self.text[: self.prompt] if self.text is not None else _canonical((self.messages or [])[: self.asked])
        return hashlib.sha256(prompt.encode()).digest() if prompt.strip("[]") else self.digest()


def _canonical(value: Any) -> str:
    return json.dumps(without_nulls(value), sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def without_nulls(value: Any) -> Any:
    """The value without keys whose value is null, at all depths. Elements of lists stay."""
    if isinstance(value, Mapping):
        return {key: without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [without_nulls(inner) for inner in value] if isinstance(value, list | tuple) else value


def is_held_out(document: Document, *, fraction: float = 0.05) -> bool:
    """Whether a document is held out for evaluation. On average a ``fraction`` of documents is.

    A document with a family is on the side of its family; one family in ten is held out, whatever the fraction. This keeps
    near-duplicate modules of a package together, and holds out the same modules on every version of Python.
    """
    if document.family is not None:
        digest = hashlib.sha256(f"limbeck:{document.family}".encode()).digest()
        return int.from_bytes(digest[:8], "big") % HELD_OUT_FAMILIES == 0
    return int.from_bytes(document.split_digest()[:8], "big") < fraction * 2**64
