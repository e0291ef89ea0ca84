"""A document, where it came from, and on which side of the split it falls.

The split looks at nothing but the document itself: no order, no seed, no neighbour. So it stays when files are moved or
added, and a text that occurs twice is never on both sides.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from limbeck.errors import BadCorpus

Message = dict[str, Any]

HELD_OUT_FAMILIES = 10  # one family in ten is held out, always: shipped teachers rely on never having seen them


@dataclass(frozen=True)
class Document:
    """One text or one conversation.

    ``name`` says where it is: ``stories.jsonl:17`` is line 17, ``part.parquet:17`` row 17 (from 1), ``json.decoder`` a
    module. ``family`` is what is split as a whole, where a source has such: a top-level module of the standard library.
    """

    name: str
    text: str | None = None
    messages: list[Message] | None = None
    family: str | None = None

    @property
    def content(self) -> str:
        """The text, or the conversation as canonical JSON."""
        if self.text is not None:
            return self.text
        return json.dumps(self.messages, sort_keys=True, ensure_ascii=False, separators=(",", ":"))

    def digest(self) -> bytes:
        """SHA-256 of the content."""
        return hashlib.sha256(self.content.encode()).digest()


def is_held_out(document: Document, *, fraction: float = 0.05) -> bool:
    """Whether a document is kept for measuring; ``fraction`` of them are.

    A document with a family goes where its family goes, whatever the fraction: one family in ten is held out. That
    keeps near-duplicate modules of one package together, and holds out the same modules on every version of Python.
    """
    if document.family is not None:
        digest = hashlib.sha256(f"limbeck:{document.family}".encode()).digest()
        return int.from_bytes(digest[:8], "big") % HELD_OUT_FAMILIES == 0
    return int.from_bytes(document.digest()[:8], "big") < fraction * 2**64


def from_record(record: Mapping[str, Any], *, name: str, where: str) -> Document | None:
    """The document of one record with ``messages`` or ``text`` (``messages`` first), or None where the text is blank.

    ``where`` locates the record in an error.
    """
    messages = record.get("messages")
    if messages is not None:
        return Document(name, messages=_checked_messages(messages, where))
    if "text" not in record and "messages" not in record:
        keys = ", ".join(map(repr, list(record)[:8])) or "none"
        raise BadCorpus(
            f"{where}: expected 'text' or 'messages', got the keys {keys}: rename the one that holds the text"
        )
    return from_text(record.get("text"), name=name, where=where)


def from_text(text: Any, *, name: str, where: str, family: str | None = None) -> Document | None:
    """The document of one text, or None where the text is blank."""
    if not isinstance(text, str):
        raise BadCorpus(f"{where}: expected 'text' to be a string, got {_kind(text)}: repair or remove it")
    _check_unicode(text, where)
    return Document(name, text=text, family=family) if text.strip() else None


def _checked_messages(messages: Any, where: str) -> list[Message]:
    """The messages, if they are a conversation: a non-empty list of objects with role and content.

    Keys with null are dropped: a table gives every row every key, and templates only ask whether one is there.
    """
    if not isinstance(messages, list) or not messages:
        raise BadCorpus(
            f"{where}: expected 'messages' to be a non-empty list, got {_kind(messages)}: repair or remove it"
        )
    for i, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise BadCorpus(f"{where}: expected message {i} to be an object with a string 'role', got {_kind(message)}")
        if not isinstance(message.get("content"), str) and not message.get("tool_calls"):
            raise BadCorpus(
                f"{where}: expected the 'content' of message {i} to be a string, got {_kind(message.get('content'))}: "
                "only text conversations are read"
            )
    _check_unicode(json.dumps(messages, ensure_ascii=False, default=str), where)
    return [{key: value for key, value in message.items() if value is not None} for message in messages]


def _check_unicode(text: str, where: str) -> None:
    """JSON can spell halves of surrogate pairs (``\\ud800``), which are in no text."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadCorpus(
            f"{where}: expected Unicode text, got a lone surrogate U+{ord(text[error.start]):04X} at character "
            f"{error.start}: repair or remove it"
        ) from None


def _kind(value: Any) -> str:
    """What a JSON value is, in JSON's own words."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return f"the number {value}"
    if isinstance(value, str):
        return f"the string {value[:40]!r}"
    if isinstance(value, dict):
        return "an object with the keys " + (", ".join(map(repr, list(value)[:8])) or "none")
    return "an empty list" if value == [] else "a list"
