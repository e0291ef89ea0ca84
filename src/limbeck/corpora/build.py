"""Builds token stores: one pass over the sources, which are tokenised in blocks and split into training and held-out data.

A store records what it was made from (files with size and time, tokenizer, frame, split), and is used again as long as that is
the same. It is written atomically. Only one process may build it: with several ranks, the first builds and the others open.

Each shard is sorted by the hashes of its documents. This mixes sources with one topic per file, and needs no seed. The
tokenizer's own threads work in parallel (environment variables TOKENIZERS_PARALLELISM and RAYON_NUM_THREADS).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import PreTrainedTokenizerBase

from limbeck.corpora.chat import completion, conversation
from limbeck.corpora.document import Document, is_held_out
from limbeck.corpora.encode import Ids, encoded
from limbeck.corpora.faults import BadRecords
from limbeck.corpora.found import Found
from limbeck.corpora.reading import USUAL, Reader, Reads, Records
from limbeck.corpora.records import Columns
from limbeck.corpora.source import Part, read_parts, resolve
from limbeck.corpora.stamp import without_paths
from limbeck.corpora.store import TokenStore
from limbeck.corpora.tokenizer import READING, Frame, fingerprint, frame
from limbeck.corpora.writer import Item, Writer, record_batch, token_dtype
from limbeck.disk import locked, remove_leftovers, whole_folder
from limbeck.errors import BadCorpus, BadFolder, BadRecord, Mismatch
from limbeck.models.vocabulary import ids_of, require_rows_of
from limbeck.terminal import Terminal

BLOCK_CHARACTERS = 4 << 20  # characters tokenised at once: enough for the threads, few enough for memory
BLOCK_DOCUMENTS = 1024
_ANY = 2**62  # bad records that may be passed over where others count them


def build_stores(
    source: str,
    reader: Reads | PreTrainedTokenizerBase,
    folder: str | Path,
    *,
    fraction: float = 0.05,
    eval_source: str | None = None,
    records: Records = USUAL,
    progress: bool = False,
) -> tuple[TokenStore, TokenStore]:
    """(training store, held-out store) of a source in tokens of a reader, in ``folder/train`` and ``folder/held_out``.

    Without ``eval_source``, a ``fraction`` of the documents is held out. With it, its documents are held out and all of the
    source is training data; ``manifest["overlap"]`` of the training store counts documents that are in both. The held-out
    modules of the standard library are never training data, and its other modules are never held out. ``records``: names of
    fields, and how many bad records are skipped.

    Raises BadCorpus for a wrong source, more bad records, or an empty store, and BadFolder where nothing can be written.
    """
    how = _How.of(reader, records)
    stores = _stores(_sides(source, eval_source, fraction), how, Path(folder), progress=progress)
    return stores["train"], stores["held_out"]


def _sides(source: str, eval_source: str | None, fraction: float) -> list[_Draw]:
    """What is read for training and what is held out, as `build_stores` describes it."""
    if eval_source is None:
        return [_Draw(source, fraction, ("train", "held_out"), passages=True)]
    return [_Draw(eval_source, 1.0, ("held_out",)), _Draw(source, 0.0, ("train",))]


def documents_by_side(
    source: str, *, fraction: float = 0.05, eval_source: str | None = None, columns: Columns | None = None
) -> Iterator[tuple[str, Document]]:
    """("train" or "held_out", document) of all documents that `build_stores` reads; bad records are passed over."""
    for draw in _sides(source, eval_source, fraction):
        parts = resolve(draw.source, columns or Columns(), passages=draw.passages)
        yield from _wanted(read_parts(parts, draw.source, BadRecords(_ANY)), draw, {})


def stamps_of(source: str, eval_source: str | None, columns: Columns | None = None) -> list[Any]:
    """What tells the text that `build_stores` reads from another: the size and time of each of its files."""
    draws = _sides(source, eval_source, 0.0)
    return [[part.stamp for part in resolve(d.source, columns or Columns(), passages=d.passages)] for d in draws]


def build_held_out(
    source: str,
    reader: Reads | PreTrainedTokenizerBase,
    folder: str | Path,
    *,
    without: frozenset[bytes] = frozenset(),
    records: Records = USUAL,
    progress: bool = False,
) -> TokenStore:
    """A whole source as an evaluation store, in ``folder/held_out``; of the standard library only its held-out modules.

    Documents whose digests are in ``without`` are left out, and ``manifest["left_out"]`` counts them; one long text is then
    split into passages, as for training. Raises BadCorpus and BadFolder as `build_stores` does.
    """
    draws = [_Draw(source, 1.0, ("held_out",), without, passages=bool(without))]
    return _stores(draws, _How.of(reader, records), Path(folder), progress=progress)["held_out"]


def build_training(
    source: str,
    reader: Reads | PreTrainedTokenizerBase,
    folder: str | Path,
    *,
    records: Records = USUAL,
    progress: bool = False,
) -> TokenStore:
    """A whole source as a training store, in ``folder/train``; of the standard library only its training modules.

    Raises BadCorpus and BadFolder as `build_stores` does.
    """
    draws = [_Draw(source, 0.0, ("train",))]
    return _stores(draws, _How.of(reader, records), Path(folder), progress=progress)["train"]


@dataclass(frozen=True)
class _How:
    """How documents become tokens: tokenizer, frame, vocabulary size, field names, and bad records to skip."""

    tokenizer: PreTrainedTokenizerBase
    framing: Frame
    vocab: int | None
    columns: Columns
    skip_bad: int

    @classmethod
    def of(cls, reader: Reads | PreTrainedTokenizerBase, records: Records) -> _How:
        read = Reader.of(reader)
        return cls(read.tokenizer, frame(read.tokenizer, end=read.end), read.vocab, records.columns, records.skip_bad)

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
        if self.columns.names:
            facts["columns"] = [list(pair) for pair in self.columns.names]
        if self.vocab is not None and self.vocab < ids_of(self.tokenizer):
            facts["vocab"] = self.vocab
        return facts


def store_in_memory(documents: Sequence[Document], reader: Reads | PreTrainedTokenizerBase) -> TokenStore | None:
    """Some documents as a store in memory; None where none of them has two tokens. Bad records are left out."""
    sided = (("train", document) for document in documents)
    how = _How.of(reader, Records(skip_bad=len(documents)))
    items = [item for _, item in _tokenised(sided, how, Found(), BadRecords(len(documents)))]
    if not items:
        return None
    counts = {
        "documents": len(items),
        "tokens": sum(len(item.tokens) for item in items),
        "bytes": sum(item.size for item in items),
        "predictions": sum(item.predictions for item in items),
    }
    return TokenStore(Path("memory"), counts, [record_batch(items)])


def in_tokens(documents: Sequence[Document], reader: Reads | PreTrainedTokenizerBase) -> Iterator[Item]:
    """Tokenised documents as a store would hold them, in order; bad records are left out."""
    how = _How.of(reader, Records(skip_bad=len(documents)))
    named = (("", document) for document in documents)
    for _, item in _tokenised(named, how, Found(), BadRecords(len(documents))):
        yield item


@dataclass(frozen=True)
class _Draw:
    """The documents to read from one source: those on the named ``sides``, except digests in ``without``.

    ``passages``: one long text is split into passages.
    """

    source: str
    fraction: float
    sides: tuple[str, ...]
    without: frozenset[bytes] = frozenset()
    passages: bool = False

    def facts(self, stamps: list[Any]) -> dict[str, Any]:
        """The facts that a store records about it."""
        facts = {"source": self.source, "fraction": self.fraction, "sides": list(self.sides), "stamps": stamps}
        if self.without:
            facts["without"] = hashlib.sha256(b"".join(sorted(self.without))).hexdigest()
        return facts


def _stores(draws: list[_Draw], how: _How, folder: Path, *, progress: bool) -> dict[str, TokenStore]:
    """The stores of all sides. Those in the folder are used where they were made from the same; else they are built."""
    parts = [resolve(draw.source, how.columns, passages=draw.passages) for draw in draws]
    facts = [d.facts([part.stamp for part in p]) for d, p in zip(draws, parts, strict=True)]
    made_from = {"draws": facts, **how.facts()}
    sides = [side for draw in draws for side in draw.sides]
    ready = _ready(folder, sides, made_from, skip_bad=how.skip_bad)
    if ready is not None:
        return ready
    try:
        with locked(folder, wait=True):  # another process may be building the same
            remove_leftovers(folder)
            ready = _ready(folder, sides, made_from, skip_bad=how.skip_bad)
            if ready is not None:
                return ready
            with ExitStack() as stack:  # all sides take their places at the end
                places = {side: stack.enter_context(whole_folder(folder / side)) for side in sides}
                writers = {side: Writer(place, how.dtype) for side, place in places.items()}
                found, bad = Found(), BadRecords(how.skip_bad)
                _fill(writers, draws, parts, how, found, bad, progress=progress)
                read = found.facts([part for some in parts for part in some], bad)
                for writer in writers.values():
                    writer.finish(made_from, read=read)
    except OSError as error:
        raise BadFolder(
            f"{folder}: expected a folder to write the token store to, got: {error.strerror or error}: free some "
            "space, or name another folder"
        ) from None
    return {side: TokenStore.open(folder / side) for side in sides}


def _ready(folder: Path, sides: list[str], made_from: dict[str, Any], *, skip_bad: int) -> dict[str, TokenStore] | None:
    """The stores in the folder; None where one is missing, damaged, made from something else, or skips too many records."""
    try:
        stores = {side: TokenStore.open(folder / side) for side in sides}
        if any(without_paths(store.manifest["made_from"]) != made_from for store in stores.values()):
            return None
        if any(store.manifest["read"]["skipped"] > skip_bad for store in stores.values()):
            return None
        for store in stores.values():
            store.verify()
    except BadCorpus:
        return None
    return stores


def _fill(
    writers: dict[str, Writer],
    draws: list[_Draw],
    parts: list[list[Part]],
    how: _How,
    found: Found,
    bad: BadRecords,
    *,
    progress: bool,
) -> None:
    """Reads every source once and adds each document to the writer of its side."""
    seen: set[bytes] = set()  # digests of what is held out
    with _bar([part for some in parts for part in some], shown=progress) as advance:
        for draw, some in zip(draws, parts, strict=True):
            wanted = _wanted(read_parts(some, draw.source, bad), draw, writers)
            read = 0
            for side, item in _tokenised(wanted, how, found, bad):
                if side == "held_out":
                    seen.add(item.digest)
                elif item.digest in seen:
                    writers[side].overlap += 1
                writers[side].add(item)
                read += 1
                advance(item)
            bad.check()
            for side in draw.sides:
                _check_side(writers[side], side, draw, read)


def _wanted(
    documents: Iterable[Document], draw: _Draw, writers: Mapping[str, Writer]
) -> Iterator[tuple[str, Document]]:
    """The documents to read, each with its side. Documents that are left out are counted by their writer."""
    for document in documents:
        side = "held_out" if is_held_out(document, fraction=draw.fraction) else "train"
        if side not in draw.sides:
            continue
        if draw.without and document.digest() in draw.without:
            writers[side].left_out += 1
        else:
            yield side, document


def _tokenised(
    documents: Iterable[tuple[str, Document]], how: _How, found: Found, bad: BadRecords
) -> Iterator[tuple[str, Item]]:
    """The tokenised documents, computed block by block. A document of a single token has no prediction and is dropped."""
    block: list[tuple[str, Document]] = []
    characters = 0
    for side, document in documents:
        block.append((side, document))
        characters += len(document.text or document.content)
        if characters >= BLOCK_CHARACTERS or len(block) >= BLOCK_DOCUMENTS:
            yield from _block(block, how, found, bad)
            block, characters = [], 0
    yield from _block(block, how, found, bad)


def _block(block: list[tuple[str, Document]], how: _How, found: Found, bad: BadRecords) -> Iterator[tuple[str, Item]]:
    """A block of documents as tokens. Bad records are added to ``bad``."""
    plain = [document.text for _, document in block if document.text is not None and not document.prompt]
    texts = iter(encoded(how.tokenizer, plain))
    for side, document in block:
        try:
            tokens, learned, size = _document(document, texts, how)
            around = _around(document, how)
            begin, end = around.lacks(tokens)
            if learned is not None:
                learned = np.concatenate([np.zeros(int(begin), bool), learned, np.ones(int(end), bool)])
            opened, closed = around.begin is not None and not begin, around.end is not None and not end
            tokens = around.around(tokens)
            _check_rows(tokens, document, how)
        except BadRecord as error:
            bad.add(error)
            continue
        found.add(document, opened=opened, closed=closed)
        if len(tokens) > 1:
            yield side, Item(document.name, document.digest(), tokens.astype(how.dtype), learned, size)


def _document(document: Document, texts: Iterator[Ids], how: _How) -> tuple[Ids, Bool[np.ndarray, " n"] | None, int]:
    """(tokens, mask of learned ones or None for all, bytes of their text). ``texts`` yields the tokens of the next plain text."""
    if document.text is not None and not document.prompt:
        return next(texts), None, len(document.text.encode())
    found = (conversation if document.text is None else completion)(how.tokenizer, document)
    return np.array(found.tokens, np.uint32), found.learned, found.bytes


def _around(document: Document, how: _How) -> Frame:
    """The frame of a document. A conversation has none, because its chat template writes one."""
    if document.text is None:
        return Frame(None, None)
    return replace(how.framing, end=None) if document.goes_on else how.framing


def _check_rows(tokens: Ids, document: Document, how: _How) -> None:
    """Raises BadRecord where a document contains a token for which the model has no row."""
    if how.vocab is None or not len(tokens) or int(tokens.max()) < how.vocab:
        return
    try:
        require_rows_of(how.tokenizer, tokens[tokens >= how.vocab].tolist(), how.vocab, where=document.name)
    except Mismatch as error:
        raise BadRecord(str(error)) from None


def _check_side(writer: Writer, side: str, draw: _Draw, read: int) -> None:
    """Raises BadCorpus for an empty side. A run needs training documents, and held-out ones to measure on."""
    if writer.documents or writer.items:
        return
    if writer.left_out:
        raise BadCorpus(
            f"{draw.source}: expected documents that the model was not trained on, got none: all {writer.left_out:,} were "
            "in the training text of its run; leave --data out to measure on what the run held out, or name another text"
        )
    what = "to train on" if side == "train" else "held out to measure on"
    raise BadCorpus(
        f"{draw.source}: expected documents {what}, got none: of {read} document{'' if read == 1 else 's'}, split by hash at a "
        f"fraction of {draw.fraction}, none is on this side: name texts to measure on with --eval-data, or give "
        "more documents (lines <|endoftext|> separate those of a .txt file)"
    )


@contextmanager
def _bar(parts: list[Part], *, shown: bool) -> Iterator[Callable[[Item], None]]:
    """A progress bar. It shows the share done where the size of every part is known, and counts otherwise."""
    sizes = [part.size for part in parts]
    total = None if None in sizes else sum(size or 0 for size in sizes)
    columns = (TextColumn("tokenise"), BarColumn(), TextColumn("{task.fields[counts]}"), TimeRemainingColumn())
    documents = tokens = 0
    with Progress(*columns, disable=not shown, console=Terminal(stderr=True)) as progress:
        task = progress.add_task("tokenise", total=total, counts="")

        def advance(item: Item) -> None:
            nonlocal documents, tokens
            documents, tokens = documents + 1, tokens + len(item.tokens)
            progress.update(task, advance=item.size, counts=f"{documents:,} documents, {tokens:,} tokens")

        yield advance
        progress.update(task, completed=total)
