"""A document, where it came from, and on which side of the split it falls.

The split looks at nothing but the document itself: no order, no seed, no neighbour. So it stays when files are moved or
added, and a text that occurs twice is never on both sides.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Message = dict[str, Any]

HELD_OUT_FAMILIES = 10  # one family in ten is held out, always: shipped teachers rely on never having seen them


@dataclass(frozen=True)
class Document:
    """One text or one conversation.

    ``name`` says where it is: ``stories.jsonl:17`` is line 17, ``part.parquet:17`` row 17 (from 1), ``json.decoder`` a
    module. ``family`` is what is split as a whole, where a source has such: a top-level module of the standard library.
    ``prompt``: so many characters at the beginning of the text are read and not learned. ``tools`` and ``template`` (further
    arguments of the chat template) belong to messages. ``goes_on``: the next document is the rest of its text, so nothing
    closes it. ``form`` says as what the record was recognised, ``unread`` which of its fields hold text that is no part of the
    document.
    """

    name: str
    text: str | None = None
    messages: list[Message] | None = None
    family: str | None = None
    prompt: int = 0
    tools: list[Any] | None = None
    template: Mapping[str, Any] | None = None
    goes_on: bool = False
    form: str = field(default="", compare=False)
    unread: tuple[str, ...] = field(default=(), compare=False)

    @property
    def content(self) -> str:
        """The text, or prompt and completion or the conversation as canonical JSON.

        Without nulls: a table gives every object the keys of all others, and what is the same text is to be the same document.
        """
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


def _canonical(value: Any) -> str:
    return json.dumps(without_nulls(value), sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def without_nulls(value: Any) -> Any:
    """The same without the keys whose value is null, at all depths; elements of lists stay."""
    if isinstance(value, Mapping):
        return {key: without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [without_nulls(inner) for inner in value] if isinstance(value, list | tuple) else value


def is_held_out(document: Document, *, fraction: float = 0.05) -> bool:
    """Whether a document is kept for measuring; ``fraction`` of them are.

    A document with a family goes where its family goes, whatever the fraction: one family in ten is held out. That
    keeps near-duplicate modules of one package together, and holds out the same modules on every version of Python.
    """
    if document.family is not None:
        digest = hashlib.sha256(f"limbeck:{document.family}".encode()).digest()
        return int.from_bytes(digest[:8], "big") % HELD_OUT_FAMILIES == 0
    return int.from_bytes(document.digest()[:8], "big") < fraction * 2**64
