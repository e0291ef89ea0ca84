"""Values that say how a source becomes tokens: the reader, and what its records look like."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from transformers import PreTrainedTokenizerBase

from limbeck.corpora.records import Columns


class Reads(Protocol):
    """A model as the reader of a text: its tokenizer, the token that ends a document, its vocabulary size."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase: ...
    @property
    def end(self) -> int | None: ...
    @property
    def vocab(self) -> int | None: ...


@dataclass(frozen=True)
class Reader:
    """A reader without a model. ``end``: the id of the token that ends a document, None for the tokenizer's own (see `frame`).

    A document with a token id of ``vocab`` or above is a bad record; None accepts all ids.
    """

    tokenizer: PreTrainedTokenizerBase
    end: int | None = None
    vocab: int | None = None

    @classmethod
    def of(cls, reader: Reads | PreTrainedTokenizerBase) -> Reader:
        """The reader that a model or a tokenizer is."""
        if isinstance(reader, PreTrainedTokenizerBase):
            return cls(reader)
        return cls(reader.tokenizer, reader.end, reader.vocab)


@dataclass(frozen=True)
class Records:
    """The form of a dataset's records: the names of their fields, and how many bad ones may be skipped.

    ``dedup``: a record whose content occurred before is left out.
    """

    columns: Columns = field(default_factory=Columns)
    skip_bad: int = 0
    dedup: bool = False


USUAL = Records()
