"""Finds the fields of conversations that a chat template ignores: no token comes from them.

All text in a field is changed. Where the template then writes the same text as before, it ignores the field.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from limbeck.corpora.chat import written
from limbeck.corpora.document import Document
from limbeck.corpora.records import MARKS
from limbeck.errors import BadRecord

_CHANGED = " \u2603"
_NAMES = MARKS | {"role"}  # keys that may be printed, or only control what is


@dataclass
class Unprinted:
    """A field with text: the number of documents with it, the number of those that do not print it, and an example of it."""

    documents: int = 0
    unprinted: int = 0
    example: str = ""


def unprinted(tokenizer: PreTrainedTokenizerBase, documents: Sequence[Document]) -> dict[str, Unprinted]:
    """The fields, by name, that some conversations contain but do not print. Those that the template rejects are skipped."""
    found: dict[str, Unprinted] = {}
    for document in documents:
        if document.messages is None:
            continue
        try:
            text = written(tokenizer, document, document.messages)
        except BadRecord:
            continue
        for name, example in dict(_texts(document)).items():
            field = found.setdefault(name, Unprinted())
            field.documents += 1
            if _same(tokenizer, document, name, text):
                field.unprinted += 1
                field.example = field.example or example
    return {name: field for name, field in found.items() if field.unprinted}


def _same(tokenizer: PreTrainedTokenizerBase, document: Document, name: str, text: str) -> bool:
    """Whether the template writes the same text when one field of the document has other text."""
    other = replace(
        document,
        messages=_changed(document.messages, "messages", name),
        tools=_changed(document.tools, "tools", name),
        template=_changed(document.template, "chat_template_kwargs", name),
    )
    assert other.messages is not None
    try:
        return written(tokenizer, other, other.messages) == text
    except BadRecord:  # the template uses the field
        return False


def _texts(document: Document) -> Iterator[tuple[str, str]]:
    """(name of a field, a text in it)."""
    yield from _under(document.messages, "messages")
    yield from _under(document.tools, "tools")
    yield from _under(document.template, "chat_template_kwargs")


def _under(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key not in _NAMES:
                yield from _under(inner, _inner(path, key))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _under(inner, path)
    elif isinstance(value, str) and value.strip():
        yield path, value


def _inner(path: str, key: str) -> str:
    """The name of a nested field: the two outermost keys and the innermost one, since keys between are often a user's own."""
    outer = path.split(".")
    return ".".join([*outer[:2], key])


def _changed(value: Any, path: str, name: str) -> Any:
    """The value with other text in all fields of this name."""
    if isinstance(value, Mapping):
        return {
            key: inner if key in _NAMES else _changed(inner, _inner(path, key), name) for key, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [_changed(inner, path, name) for inner in value]
    return value + _CHANGED if isinstance(value, str) and value.strip() and path == name else value
