"""Documents as tokens, a block at once. A block needs nothing of those before it, so several processes can share the work."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool
from transformers import PreTrainedTokenizerBase

from limbeck.corpora.chat import completion, conversation
from limbeck.corpora.document import Document
from limbeck.corpora.draws import Draw
from limbeck.corpora.encode import Ids, encoded
from limbeck.corpora.found import Found
from limbeck.corpora.preference import sides
from limbeck.corpora.reading import Reader, Reads, Records
from limbeck.corpora.records import Columns
from limbeck.corpora.store import TokenStore
from limbeck.corpora.tokenizer import READING, Frame, fingerprint, frame
from limbeck.corpora.writer import Item, record_batch, token_dtype
from limbeck.errors import BadRecord, Mismatch
from limbeck.models.vocabulary import ids_of, require_rows_of

BLOCK_CHARACTERS = 4 << 20  # characters tokenised at once: enough for the threads, few enough for memory
BLOCK_DOCUMENTS = 1024


@dataclass(frozen=True)
class How:
    """How documents become tokens: tokenizer, frame, vocabulary size, and what its records look like."""

    tokenizer: PreTrainedTokenizerBase
    framing: Frame
    vocab: int | None
    records: Records

    @classmethod
    def of(cls, reader: Reads | PreTrainedTokenizerBase, records: Records) -> How:
        """The way in which a reader reads such records."""
        read = Reader.of(reader)
        return cls(read.tokenizer, frame(read.tokenizer, end=read.end), read.vocab, records)

    @property
    def columns(self) -> Columns:
        """The names of the records' fields."""
        return self.records.columns

    @cached_property
    def dtype(self) -> np.dtype:
        """The smallest type that holds all ids, found once: a tokenizer lists its vocabulary anew each time it is asked."""
        return token_dtype(self.tokenizer)

    def facts(self) -> dict[str, Any]:
        """The facts that a store records about it."""
        facts: dict[str, Any] = {
            "tokenizer": fingerprint(self.tokenizer),
            "frame": [self.framing.begin, self.framing.end],
            "reading": READING,
        }
        if self.columns.preference:
            facts["preference"] = True
        if self.columns.names:
            facts["columns"] = [list(pair) for pair in self.columns.names]
        if self.vocab is not None and self.vocab < ids_of(self.tokenizer):
            facts["vocab"] = self.vocab
        if self.records.dedup:
            facts["dedup"] = True
        return facts


@dataclass
class Tokenised:
    """A block of documents as tokens, each with its side, and what was found in it; ``left_out`` counts documents by side."""

    items: list[tuple[str, Item]] = field(default_factory=list)
    found: Found = field(default_factory=Found)
    bad: list[BadRecord] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def tokenised(documents: Sequence[Document], draw: Draw, how: How) -> Tokenised:
    """The wanted ones of some documents as tokens."""
    left_out: Counter[str] = Counter()
    wanted: list[tuple[str, Document]] = []
    for document in documents:
        side = draw.side_of(document)
        if side is not None and draw.leaves_out(document):
            left_out[side] += 1
        elif side is not None:
            wanted.append((side, document))
    return replace(_tokenised(wanted, how), left_out=left_out)


def _tokenised(documents: Sequence[tuple[str, Document]], how: How) -> Tokenised:
    """Documents as tokens, each with its side. A document of a single token has no prediction and is dropped."""
    done = Tokenised()
    plain = [document.text for _, document in documents if document.text is not None and _is_plain(document)]
    texts = iter(encoded(how.tokenizer, plain))
    for side, document in documents:
        try:
            item = _item(document, texts, how, done.found)
        except BadRecord as error:
            done.bad.append(error)
            continue
        if item is not None:
            done.items.append((side, item))
    return done


def store_in_memory(documents: Sequence[Document], reader: Reads | PreTrainedTokenizerBase) -> TokenStore | None:
    """Some documents as a store in memory; None where none of them has two tokens. Bad records are left out."""
    items = list(in_tokens(documents, reader))
    if not items:
        return None
    counts = {
        "documents": len(items),
        "tokens": sum(len(item.tokens) for item in items),
        "bytes": sum(item.size for item in items),
        "predictions": sum(item.predictions for item in items),
    }
    return TokenStore(Path("memory"), counts, [record_batch(items)])


def in_tokens(documents: Iterable[Document], reader: Reads | PreTrainedTokenizerBase) -> Iterator[Item]:
    """Tokenised documents as a store would hold them, in order; bad records are left out."""
    how = How.of(reader, Records())
    for block in _blocks(documents):
        for _, item in _tokenised([("", document) for document in block], how).items:
            yield item


def _blocks(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Documents in blocks that are tokenised at once."""
    block: list[Document] = []
    characters = 0
    for document in documents:
        block.append(document)
        characters += characters_of(document)
        if is_full(len(block), characters):
            yield block
            block, characters = [], 0
    if block:
        yield block


def is_full(documents: int, characters: int) -> bool:
    """Whether a block of so many documents and characters takes no more."""
    return characters >= BLOCK_CHARACTERS or documents >= BLOCK_DOCUMENTS


def characters_of(document: Document) -> int:
    """The characters of a document, those of its JSON for a conversation."""
    return len(document.text or document.content)


def _item(document: Document, texts: Iterator[Ids], how: How, found: Found) -> Item | None:
    """A document as tokens in its frame. ``texts`` yields the tokens of the next plain text. Raises BadRecord."""
    if document.rejected is not None:
        return _pair(document, how, found)
    tokens, learned, size = _document(document, texts, how)
    around = _around(document, how)
    begin, end = around.lacks(tokens)
    if learned is not None:
        learned = np.concatenate([np.zeros(int(begin), bool), learned, np.ones(int(end), bool)])
    opened, closed = around.begin is not None and not begin, around.end is not None and not end
    tokens = around.around(tokens)
    _check_rows(tokens, document, how)
    found.add(document, opened=opened, closed=closed)
    if len(tokens) < 2:
        return None
    return Item(document.name, document.digest(), tokens.astype(how.dtype), learned, size)


def _pair(document: Document, how: How, found: Found) -> Item:
    """A preference pair: the preferred conversation, then the rejected one. Raises BadRecord where a side learns nothing."""
    pieces = []
    for name, side in zip(("chosen", "rejected"), sides(document), strict=True):
        tokens, learned, size = _document(side, iter(()), how, pair=True)
        around = _around(side, how)
        begin, end = around.lacks(tokens)
        assert learned is not None, "a side has a prompt, which is not learned"
        learned = np.concatenate([np.zeros(int(begin), bool), learned, np.ones(int(end), bool)])
        learned[:1] = False  # nothing precedes it
        if not learned.any():
            raise BadRecord(
                f"{document.name}: expected a completion with a token to learn in '{name}', got none: remove it"
            )
        pieces.append((around.around(tokens), learned, size))
    (first, marks, size), (second, more, _) = pieces
    if np.array_equal(first, second):
        raise BadRecord(f"{document.name}: 'chosen' and 'rejected' are the same tokens: remove the record")
    tokens = np.concatenate([first, second])
    _check_rows(tokens, document, how)
    found.add(document, opened=False, closed=False)
    learned = np.concatenate([marks, more])
    prompt = document.split_digest()
    return Item(document.name, document.digest(), tokens.astype(how.dtype), learned, size, len(first), prompt)


def _is_plain(document: Document) -> bool:
    """Whether a text is learned as a whole, so that several are tokenised at once."""
    return not document.prompt and document.rejected is None


def _document(
    document: Document, texts: Iterator[Ids], how: How, *, pair: bool = False
) -> tuple[Ids, Bool[np.ndarray, " n"] | None, int]:
    """(tokens, mask of learned ones or None for all, bytes of their text). ``pair``: it is a side of a preference pair."""
    if document.text is not None and not document.prompt and not pair:
        return next(texts), None, len(document.text.encode())
    found = (conversation if document.text is None else completion)(how.tokenizer, document)
    return np.array(found.tokens, np.uint32), found.learned, found.bytes


def _around(document: Document, how: How) -> Frame:
    """The frame of a document. A conversation has none, because its chat template writes one."""
    if document.text is None:
        return Frame(None, None)
    return replace(how.framing, end=None) if document.goes_on else how.framing


def _check_rows(tokens: Ids, document: Document, how: How) -> None:
    """Raises BadRecord where a document contains a token for which the model has no row."""
    if how.vocab is None or not len(tokens) or int(tokens.max()) < how.vocab:
        return
    try:
        require_rows_of(how.tokenizer, tokens[tokens >= how.vocab].tolist(), how.vocab, where=document.name)
    except Mismatch as error:
        raise BadRecord(str(error)) from None
