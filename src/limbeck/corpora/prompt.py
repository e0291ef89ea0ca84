"""What a teacher is to answer or to continue: a document up to where it speaks.

Of a conversation that is everything before the assistant's last turn, or all of it where somebody else spoke last. A text is
the beginning of one, whole as it is: nothing says where in it a teacher should take over.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from limbeck.corpora.chat import conversation_so_far
from limbeck.corpora.document import Document, Message
from limbeck.corpora.faults import BadRecords
from limbeck.corpora.records import Columns
from limbeck.corpora.source import read
from limbeck.corpora.tokenizer import Frame, document_tokens
from limbeck.errors import BadRecord


@dataclass(frozen=True)
class Prompt:
    """A document that ends where a teacher goes on; ``name`` says where it is from."""

    document: Document

    @property
    def name(self) -> str:
        """The document's."""
        return self.document.name

    @property
    def bytes(self) -> int:
        """UTF-8 bytes of its content."""
        return len(self.document.content.encode())

    @property
    def asked(self) -> list[Message] | str:
        """The messages of a conversation, or a text."""
        if self.document.messages is not None:
            return self.document.messages
        assert self.document.text is not None, "a document has one of the two"
        return self.document.text

    @property
    def beside(self) -> dict[str, Any]:
        """What belongs to a conversation besides its messages, by the names of the fields of a record."""
        found = {"tools": self.document.tools, "chat_template_kwargs": self.document.template}
        return {name: value for name, value in found.items() if value is not None}

    def tokens(self, tokenizer: PreTrainedTokenizerBase) -> list[int]:
        """As the model reads it: written by its chat template up to where the assistant speaks, or opened as a text is."""
        if isinstance(self.asked, list):
            return conversation_so_far(tokenizer, self.document)
        return document_tokens(tokenizer, [self.asked], frame=Frame(tokenizer.bos_token_id, None))[0]

    def answered(self, text: str, calls: list[Any] | None = None) -> dict[str, Any]:
        """The record of the document with what a teacher wrote: a turn of the assistant more, or a longer text.

        ``calls`` of functions are part of the turn. What stands beside a conversation stays there. Of a record with a prompt
        only what was written is learned.
        """
        if isinstance(self.asked, str):
            if self.document.prompt:
                return {"prompt": self.asked, "completion": text}
            return {"text": self.asked + text}
        turn: Message = {"role": "assistant", "content": text}
        if calls:
            turn |= {"content": text or None, "tool_calls": calls}
        return {"messages": [*self.asked, turn], **self.beside}


def prompts_of(
    source: str, *, most: int | None = None, columns: Columns | None = None, bad: BadRecords | None = None
) -> list[Prompt]:
    """The prompts of a source, in its order; the first ``most`` of them.

    Those that cannot be read, or have nothing to answer, are told to ``bad``; without it, and where they are too many, raises
    BadCorpus.
    """
    bad = bad or BadRecords()
    found: list[Prompt] = []
    for document in read(source, columns, bad):
        if most is not None and len(found) == most:
            break
        try:
            found.append(Prompt(_cut(document)))
        except BadRecord as error:
            bad.add(error)
    bad.check()
    return found


def digest(prompts: Iterable[Prompt]) -> str:
    """SHA-256 of what the prompts say, in their order."""
    found = hashlib.sha256()
    for prompt in prompts:
        found.update(prompt.document.digest())
    return found.hexdigest()


def _cut(document: Document) -> Document:
    if document.prompt:
        assert document.text is not None
        return replace(document, text=document.text[: document.prompt])
    if document.messages is None:
        return document
    stop = len(document.messages)
    while stop and document.messages[stop - 1]["role"] == "assistant":
        stop -= 1
    if not stop:
        raise BadRecord(
            f"{document.name}: expected somebody to speak before the assistant, got only turns of the assistant: give the "
            "question that is to be answered, or remove it"
        )
    return replace(document, messages=document.messages[:stop])
