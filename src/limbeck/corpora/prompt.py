"""What a teacher is to answer or to continue: a document up to where it speaks.

Of a conversation that is everything before the assistant's last turn, or all of it where somebody else spoke last. A text is
the beginning of one, whole as it is: nothing says where in it a teacher should take over.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from transformers import PreTrainedTokenizerBase

from limbeck.corpora.chat import conversation_so_far
from limbeck.corpora.document import Document, Message
from limbeck.corpora.source import read
from limbeck.corpora.tokenizer import Frame, document_tokens
from limbeck.errors import BadCorpus


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

    def tokens(self, tokenizer: PreTrainedTokenizerBase) -> list[int]:
        """As the model reads it: written by its chat template up to where the assistant speaks, or opened as a text is."""
        if isinstance(self.asked, list):
            return conversation_so_far(tokenizer, self.document)
        return document_tokens(tokenizer, [self.asked], frame=Frame(tokenizer.bos_token_id, None))[0]

    def answered(self, text: str) -> dict[str, Any]:
        """The record of the document with what a teacher wrote: a turn of the assistant more, or a longer text."""
        if isinstance(self.asked, str):
            return {"text": self.asked + text}
        return {"messages": [*self.asked, {"role": "assistant", "content": text}]}


def prompts_of(source: str, *, most: int | None = None) -> list[Prompt]:
    """The prompts of a source, in its order; the first ``most`` of them. Raises BadCorpus where one has nothing to answer."""
    return [Prompt(_cut(document)) for document in islice(read(source), most)]


def digest(prompts: Iterable[Prompt]) -> str:
    """SHA-256 of what the prompts say, in their order."""
    found = hashlib.sha256()
    for prompt in prompts:
        found.update(prompt.document.digest())
    return found.hexdigest()


def _cut(document: Document) -> Document:
    if document.messages is None:
        return document
    stop = len(document.messages)
    while stop and document.messages[stop - 1]["role"] == "assistant":
        stop -= 1
    if not stop:
        raise BadCorpus(
            f"{document.name}: expected somebody to speak before the assistant, got only turns of the assistant: give the "
            "question that is to be answered, or remove it"
        )
    return replace(document, messages=document.messages[:stop])
