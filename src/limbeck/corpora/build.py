"""Making token stores: one pass over the sources, tokenised in blocks, split as it goes.

The work is done once. A store remembers what it was made from (files with size and time, tokenizer, frame, split), and
is used again as long as that is the same. It is written beside its place and renamed, so what stands there is whole.
Call it in one process only: with several ranks, the first builds and the others open.

Documents are put in the order of their hashes, a shard at a time: that mixes sources of one topic a file, and needs no
seed. The tokenizer's own threads do the parallel work (the environment's TOKENIZERS_PARALLELISM and RAYON_NUM_THREADS
rule them).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
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
from limbeck.corpora.records import Columns
from limbeck.corpora.source import Part, read_parts, resolve
from limbeck.corpora.store import TokenStore
from limbeck.corpora.tokenizer import READING, Frame, fingerprint, frame
from limbeck.corpora.writer import Item, Writer, record_batch, token_dtype
from limbeck.disk import locked, remove_leftovers, whole_folder
from limbeck.errors import BadCorpus, BadFolder, BadRecord, Mismatch
from limbeck.models.vocabulary import ids_of, require_rows_of
from limbeck.terminal import Terminal

BLOCK_CHARACTERS = 4 << 20  # read before they are tokenised: enough for the threads, little enough to hold
BLOCK_DOCUMENTS = 1024


def build_stores(
    source: str,
    tokenizer: PreTrainedTokenizerBase,
    folder: str | Path,
    *,
    fraction: float = 0.05,
    end: int | None = None,
    eval_source: str | None = None,
    vocab: int | None = None,
    columns: Columns | None = None,
    skip_bad: int = 0,
    progress: bool = False,
) -> tuple[TokenStore, TokenStore]:
    """(training store, held-out store) of a source, in ``folder/train`` and ``folder/held_out``.

    Without an ``eval_source`` a ``fraction`` of the documents is held out. With one, those of it are, and all of the
    source is trained on; ``manifest["overlap"]`` of the training store says how many of its documents are held out too.
    Of the standard library the held-out modules are never trained on and no others measured. ``end``: see `frame`.

    ``vocab``: ids from which on the model that reads the text has no row; a document that holds one cannot be read. ``columns``:
    what the fields of records are called. At most ``skip_bad`` records that cannot be read are left out; more raise BadCorpus.
    """
    if eval_source is None:
        draws = [_Draw(source, fraction, ("train", "held_out"), passages=True)]
    else:
        draws = [_Draw(eval_source, 1.0, ("held_out",)), _Draw(source, 0.0, ("train",))]
    how = _How(tokenizer, frame(tokenizer, end=end), vocab, columns or Columns(), skip_bad)
    stores = _stores(draws, how, Path(folder), progress=progress)
    return stores["train"], stores["held_out"]


def build_held_out(
    source: str,
    tokenizer: PreTrainedTokenizerBase,
    folder: str | Path,
    *,
    end: int | None = None,
    without: frozenset[bytes] = frozenset(),
    vocab: int | None = None,
    columns: Columns | None = None,
    skip_bad: int = 0,
    progress: bool = False,
) -> TokenStore:
    """A whole source as a store to measure on, in ``folder/held_out``; of the standard library its held-out modules.

    Documents of the digests in ``without`` are left out; ``manifest["left_out"]`` says how many those are; one long
    text is then read in the passages that may be among them.
    """
    draws = [_Draw(source, 1.0, ("held_out",), without, passages=bool(without))]
    how = _How(tokenizer, frame(tokenizer, end=end), vocab, columns or Columns(), skip_bad)
    return _stores(draws, how, Path(folder), progress=progress)["held_out"]


def build_training(
    source: str,
    tokenizer: PreTrainedTokenizerBase,
    folder: str | Path,
    *,
    end: int | None = None,
    vocab: int | None = None,
    columns: Columns | None = None,
    skip_bad: int = 0,
    progress: bool = False,
) -> TokenStore:
    """All of a source as a store to learn from, in ``folder/train``; of the standard library its training modules."""
    draws = [_Draw(source, 0.0, ("train",))]
    how = _How(tokenizer, frame(tokenizer, end=end), vocab, columns or Columns(), skip_bad)
    return _stores(draws, how, Path(folder), progress=progress)["train"]


@dataclass(frozen=True)
class _How:
    """How documents become tokens: by which tokenizer, with what around them, and what of a text may be missing."""

    tokenizer: PreTrainedTokenizerBase
    framing: Frame
    vocab: int | None
    columns: Columns
    skip_bad: int

    def facts(self) -> dict[str, Any]:
        """What a store that was made so remembers."""
        said: dict[str, Any] = {
            "tokenizer": fingerprint(self.tokenizer),
            "frame": [self.framing.begin, self.framing.end],
            "reading": READING,
        }
        if self.columns.names:
            said["columns"] = [list(pair) for pair in self.columns.names]
        if self.vocab is not None and self.vocab < ids_of(self.tokenizer):
            said["vocab"] = self.vocab
        return said


def store_in_memory(
    documents: Sequence[Document], tokenizer: PreTrainedTokenizerBase, *, end: int | None = None
) -> TokenStore | None:
    """Some documents as a store that is in no folder; None where none of them has two tokens. ``end``: see `frame`."""
    framing = frame(tokenizer, end=end)
    sided = (("train", document) for document in documents)
    how = _How(tokenizer, framing, None, Columns(), len(documents))
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


def in_tokens(
    documents: Sequence[Document],
    tokenizer: PreTrainedTokenizerBase,
    *,
    end: int | None = None,
    vocab: int | None = None,
) -> Iterator[Item]:
    """Documents in tokens as a store would hold them, one after the other; those that cannot be are left out.

    ``end``: see `frame`. ``vocab``: the number of ids that a model has rows for.
    """
    how = _How(tokenizer, frame(tokenizer, end=end), vocab, Columns(), len(documents))
    named = (("", document) for document in documents)
    for _, item in _tokenised(named, how, Found(), BadRecords(len(documents))):
        yield item


@dataclass(frozen=True)
class _Draw:
    """What is taken of one source: the documents that fall on the named sides, but for some by their digests.

    ``passages``: one long text is taken in passages.
    """

    source: str
    fraction: float
    sides: tuple[str, ...]
    without: frozenset[bytes] = frozenset()
    passages: bool = False

    def facts(self, stamps: list[Any]) -> dict[str, Any]:
        """What a store that was made from it remembers."""
        said = {"source": self.source, "fraction": self.fraction, "sides": list(self.sides), "stamps": stamps}
        if self.without:
            said["without"] = hashlib.sha256(b"".join(sorted(self.without))).hexdigest()
        return said


def _stores(draws: list[_Draw], how: _How, folder: Path, *, progress: bool) -> dict[str, TokenStore]:
    """The stores of all sides: those in the folder if they were made from the same, else built anew."""
    parts = [resolve(draw.source, how.columns, passages=draw.passages) for draw in draws]
    said = [d.facts([part.stamp for part in p]) for d, p in zip(draws, parts, strict=True)]
    made_from = {"draws": said, **how.facts()}
    sides = [side for draw in draws for side in draw.sides]
    ready = _ready(folder, sides, made_from, skip_bad=how.skip_bad)
    if ready is not None:
        return ready
    try:
        with locked(folder, wait=True):  # another may be making the same
            remove_leftovers(folder)
            ready = _ready(folder, sides, made_from, skip_bad=how.skip_bad)
            if ready is not None:
                return ready
            with ExitStack() as stack:  # all sides take their places at the end
                places = {side: stack.enter_context(whole_folder(folder / side)) for side in sides}
                writers = {side: Writer(place, token_dtype(how.tokenizer)) for side, place in places.items()}
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
    """The stores in the folder, if they are all there, whole, made from the same, and without more than may be skipped."""
    try:
        stores = {side: TokenStore.open(folder / side) for side in sides}
        if any(store.manifest["made_from"] != made_from for store in stores.values()):
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
    """Reads every source once and hands each document to the writer of its side."""
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
    """The documents that are drawn, each with its side; those that are left out are counted by its writer."""
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
    """The documents in tokens, a block of texts at a time; one of a single token has nothing to predict and goes."""
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
    """Some documents in tokens; those that cannot be are told to ``bad``."""
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
            kept = tokens.astype(token_dtype(how.tokenizer))
            yield side, Item(document.name, document.digest(), kept, learned, size)


def _document(document: Document, texts: Iterator[Ids], how: _How) -> tuple[Ids, Bool[np.ndarray, " n"] | None, int]:
    """(tokens of a document, which of them are learned if not all, bytes of those). ``texts``: tokens of the next plain text."""
    if document.text is not None and not document.prompt:
        return next(texts), None, len(document.text.encode())
    spoken = (conversation if document.text is None else completion)(how.tokenizer, document)
    return np.array(spoken.tokens, np.uint32), spoken.learned, spoken.bytes


def _around(document: Document, how: _How) -> Frame:
    """What stands around a document: nothing around a conversation, whose template writes it."""
    if document.text is None:
        return Frame(None, None)
    return replace(how.framing, end=None) if document.goes_on else how.framing


def _check_rows(tokens: Ids, document: Document, how: _How) -> None:
    """Raises BadRecord where a document holds a token for which the model has no row."""
    if how.vocab is None or not len(tokens) or int(tokens.max()) < how.vocab:
        return
    try:
        require_rows_of(how.tokenizer, tokens[tokens >= how.vocab].tolist(), how.vocab, where=document.name)
    except Mismatch as error:
        raise BadRecord(str(error)) from None


def _check_side(writer: Writer, side: str, draw: _Draw, read: int) -> None:
    """An empty side is an error: without training documents nothing is learned, without held-out ones nothing shown."""
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
    """A progress bar; it knows the end where every part knows its size, and counts otherwise."""
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
