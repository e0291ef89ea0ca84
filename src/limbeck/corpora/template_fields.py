"""Which fields of a conversation no token comes of: a template prints what it knows, and says nothing of the rest.

A field is tried by changing all text in it: where the template then writes the same as before, it does not print the field.
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
_NAMES = MARKS | {"role"}  # what may be printed, or decide alone what is


@dataclass
class Unprinted:
    """A field with text: in how many documents it stands, in how many of them it is not printed, and an example of it."""

    documents: int = 0
    unprinted: int = 0
    example: str = ""


def unprinted(tokenizer: PreTrainedTokenizerBase, documents: Sequence[Document]) -> dict[str, Unprinted]:
    """The fields of some conversations that are not printed in all of them, by their names; none of what cannot be written."""
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
    """Whether a document is written the same with other text in one of its fields."""
    other = replace(
        document,
        messages=_changed(document.messages, "messages", name),
        tools=_changed(document.tools, "tools", name),
        template=_changed(document.template, "chat_template_kwargs", name),
    )
    assert other.messages is not None
    try:
        return written(tokenizer, other, other.messages) == text
    except BadRecord:  # it looks at the field, at least
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
    """The name of a field in another: the outermost two and the innermost, since those between are often a user's own."""
    outer = path.split(".")
    return ".".join([*outer[:2], key])


def _changed(value: Any, path: str, name: str) -> Any:
    """A value with other text wherever a field of this name is in it."""
    if isinstance(value, Mapping):
        return {
            key: inner if key in _NAMES else _changed(inner, _inner(path, key), name) for key, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [_changed(inner, path, name) for inner in value]
    return value + _CHANGED if isinstance(value, str) and value.strip() and path == name else value
