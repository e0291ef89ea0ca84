"""Builds token stores: one pass over the sources, which are tokenised in blocks and split into training and held-out data.

A store records what it was made from (files with size and time, tokenizer, frame, split), and is used again as long as that is
the same. Shards are written while the sources are read, so that memory holds a shard of each store and some blocks, whatever the
text. A build that was killed goes on at its last shard (`unfinished`). The stores take their places when they are complete. Only
one process may build them: with several ranks, the first builds and the others open.

Each shard is sorted by the hashes of its documents. This mixes sources with one topic per file, and needs no seed. Blocks are
tokenised by the tokenizer's own threads (environment variables TOKENIZERS_PARALLELISM and RAYON_NUM_THREADS) or by several
processes, with the same result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import PreTrainedTokenizerBase

from limbeck.corpora.document import Document
from limbeck.corpora.draws import Draw, sides
from limbeck.corpora.faults import BadRecords
from limbeck.corpora.processes import Work, processes_for, tokenising
from limbeck.corpora.reading import USUAL, Reads, Records
from limbeck.corpora.source import Part, blank, entries, resolve
from limbeck.corpora.stamp import without_paths
from limbeck.corpora.store import TokenStore
from limbeck.corpora.tokenised import How, characters_of, is_full
from limbeck.corpora.unfinished import FOLDER, Block, Build, Place, put_complete, remove_rest
from limbeck.corpora.writer import Item, Writer
from limbeck.disk import locked, remove_leftovers, shown
from limbeck.errors import BadCorpus, BadFolder
from limbeck.terminal import Terminal


def build_stores(
    source: str,
    reader: Reads | PreTrainedTokenizerBase,
    folder: str | Path,
    *,
    fraction: float = 0.05,
    eval_source: str | None = None,
    most: Sequence[int | None] = (),
    without: frozenset[bytes] = frozenset(),
    records: Records = USUAL,
    progress: bool = False,
    processes: int | None = 1,
) -> tuple[TokenStore, TokenStore]:
    """(training store, held-out store) of a source in tokens of a reader, in ``folder/train`` and ``folder/held_out``.

    Without ``eval_source``, a ``fraction`` of the documents is held out. With it, its documents are held out and all of the
    source is training data; ``manifest["overlap"]`` of the training store counts documents that are in both. The held-out
    modules of the standard library are never training data, and its other modules are never held out. ``records``: names of
    fields, how many bad records are skipped, whether duplicates are left out. ``processes`` tokenise the text, None for one a
    core where that is worth it; the result is the same.

    A ``source`` with weights (`mixture.Mixture`) becomes one training store, in which each of its sources has shards and rows of
    its own: ``manifest["sources"]``. ``most``: the training tokens of each source after which one that is streamed is read no
    further. Documents whose digests are in ``without`` are left out of both.

    Raises BadCorpus for a wrong source, more bad records, or an empty store, and BadFolder where nothing can be written.
    """
    how = How.of(reader, records)
    draws = [replace(draw, without=without) for draw in sides(source, eval_source, fraction, most)]
    stores = _stores(draws, how, Path(folder), progress=progress, processes=processes)
    return stores["train"], stores["held_out"]


def build_held_out(
    source: str,
    reader: Reads | PreTrainedTokenizerBase,
    folder: str | Path,
    *,
    without: frozenset[bytes] = frozenset(),
    records: Records = USUAL,
    progress: bool = False,
    processes: int | None = 1,
) -> TokenStore:
    """A whole source as an evaluation store, in ``folder/held_out``; of the standard library only its held-out modules.

    Documents whose digests are in ``without`` are left out, and ``manifest["left_out"]`` counts them; a long text is then split
    into passages as for training, unless it is among them as a whole. Raises BadCorpus and BadFolder as `build_stores` does.
    """
    draws = [Draw(source, 1.0, ("held_out",), without, passages=bool(without))]
    return _stores(draws, How.of(reader, records), Path(folder), progress=progress, processes=processes)["held_out"]


def build_training(
    source: str,
    reader: Reads | PreTrainedTokenizerBase,
    folder: str | Path,
    *,
    records: Records = USUAL,
    progress: bool = False,
    processes: int | None = 1,
) -> TokenStore:
    """A whole source as a training store, in ``folder/train``; of the standard library only its training modules.

    Raises BadCorpus and BadFolder as `build_stores` does.
    """
    draws = [Draw(source, 0.0, ("train",))]
    return _stores(draws, How.of(reader, records), Path(folder), progress=progress, processes=processes)["train"]


def _stores(
    draws: list[Draw], how: How, folder: Path, *, progress: bool, processes: int | None
) -> dict[str, TokenStore]:
    """The stores of all sides. Those in the folder are used where they were made from the same; else they are built."""
    parts = [
        resolve(draw.source, how.columns, passages=draw.passages, known=frozenset() if draw.trains else draw.without)
        for draw in draws
    ]
    draws = [_limited(draw, some) for draw, some in zip(draws, parts, strict=True)]
    facts = [d.facts([part.stamp for part in p]) for d, p in zip(draws, parts, strict=True)]
    made_from = {"draws": facts, **how.facts()}
    names = list(dict.fromkeys(side for draw in draws for side in draw.sides))
    skip_bad = how.records.skip_bad
    ready = _ready(folder, names, made_from, skip_bad=skip_bad)
    if ready is not None:
        remove_rest(folder / FOLDER, made_from)
        return ready
    try:
        with locked(folder, wait=True):  # another process may be building the same
            remove_leftovers(folder)
            places = {side: folder / side for side in names}
            put_complete(folder / FOLDER, places, made_from)
            ready = _ready(folder, names, made_from, skip_bad=skip_bad)
            if ready is not None:
                return ready
            build = Build.begin(
                folder / FOLDER,
                names,
                made_from,
                dtype=how.dtype,
                bad=BadRecords(skip_bad),
                dedup=how.records.dedup,
                compares=len({draw.sides for draw in draws}) > 1,
            )
            try:
                _fill(build, draws, parts, how, progress=progress, processes=processes)
                build.put(places, build.found.facts([part for some in parts for part in some], build.bad))
            finally:
                build.drop()
    except OSError as error:
        raise BadFolder(
            f"{folder}: expected a folder to write the token store to, got: {error.strerror or error}: free some "
            "space, or name another folder"
        ) from None
    return {side: TokenStore.open(folder / side) for side in names}


def _ready(folder: Path, names: list[str], made_from: dict[str, Any], *, skip_bad: int) -> dict[str, TokenStore] | None:
    """The stores in the folder; None where one is missing, damaged, made from something else, or skips too many records."""
    try:
        stores = {side: TokenStore.open(folder / side) for side in names}
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
    build: Build, draws: list[Draw], parts: list[list[Part]], how: How, *, progress: bool, processes: int | None
) -> None:
    """Reads what is left of every source, and adds each document to the writer of its side."""
    everything = [part for some in parts for part in some]
    processes = processes or processes_for(everything)
    with _bar(everything, build, shown=progress) as advance, tokenising(how, draws, processes) as in_tokens:
        while build.place.draw < len(draws):
            number = build.place.draw
            draw, some = draws[number], parts[number]
            if not _enough(draw, build):
                work = (Work(block, number, block.documents) for block in _blocks(some, build.place))
                with closing(in_tokens(work)) as blocks:
                    for block, done in blocks:
                        build.take(block, done, advance)
                        if _enough(draw, build):
                            break
            build.bad.check()
            if not build.place.documents:
                raise blank(draw.source)
            later = {side for other in draws[number + 1 :] for side in other.sides}
            for side in draw.sides:
                if side == "train" or side not in later:
                    _check_side(build.writers[side], side, draw, build.place)
            build.next_draw(draw)


def _limited(draw: Draw, parts: list[Part]) -> Draw:
    """The draw without its limit where nothing of it is streamed: what is here is read to its end."""
    return draw if any(part.streamed for part in parts) else replace(draw, most=None)


def _enough(draw: Draw, build: Build) -> bool:
    """Whether a source has given all the tokens that are wanted of it."""
    return draw.most is not None and build.place.tokens >= draw.most


def _blocks(parts: list[Part], place: Place) -> Iterator[Block]:
    """What follows a place in a source, in blocks that are tokenised at once."""
    block, characters = Block(), 0
    for part, after, entry in entries(parts, place.part, place.after):
        block.part, block.after = part, after
        if isinstance(entry, Document):
            block.documents.append(entry)
            characters += characters_of(entry)
        else:
            block.faults.append(entry)
            block.ahead += not block.documents
        if is_full(max(len(block.documents), len(block.faults)), characters):
            yield block
            block, characters = Block(), 0
    if block.documents or block.faults:
        yield block


def _check_side(writer: Writer, side: str, draw: Draw, place: Place) -> None:
    """Raises BadCorpus for an empty side. A run needs training documents, and held-out ones to measure on."""
    if writer.found(since=side == "train"):
        return
    if writer.left_out:
        raise BadCorpus(
            f"{draw.source}: expected documents that the model was not trained on, got none: all {writer.left_out:,} were "
            "in the training text of its run; leave --data out to measure on what the run held out, or name another text"
        )
    if side == "train" and place.duplicates:
        raise BadCorpus(
            f"{shown(draw.source)}: expected documents to train on that did not occur before, got none: all {place.duplicates:,} "
            "are in an earlier source or in what is held out, and --dedup leaves those out: leave out this source, or --dedup"
        )
    what, read = "to train on" if side == "train" else "held out to measure on", place.read
    raise BadCorpus(
        f"{draw.source}: expected documents {what}, got none: of {read} document{'' if read == 1 else 's'}, split by hash at a "
        f"fraction of {draw.fraction}, none is on this side: name texts to measure on with --eval-data, or give "
        "more documents (lines <|endoftext|> separate those of a .txt file)"
    )


@contextmanager
def _bar(parts: list[Part], build: Build, *, shown: bool) -> Iterator[Callable[[Item], None]]:
    """A progress bar. It shows the share done where the size of every part is known, and counts otherwise."""
    writers = build.writers.values()
    held = [item for writer in writers for item in writer.items]
    sizes = [part.size for part in parts]
    total = None if None in sizes else sum(size or 0 for size in sizes)
    columns = (TextColumn("tokenise"), BarColumn(), TextColumn("{task.fields[counts]}"), TimeRemainingColumn())
    documents = sum(writer.documents for writer in writers) + len(held)
    tokens = sum(writer.tokens for writer in writers) + sum(len(item.tokens) for item in held)
    done = sum(writer.size for writer in writers) + sum(item.size for item in held)
    with Progress(*columns, disable=not shown, console=Terminal(stderr=True)) as progress:
        task = progress.add_task("tokenise", total=total, completed=done, counts="")

        def advance(item: Item) -> None:
            nonlocal documents, tokens
            documents, tokens = documents + 1, tokens + len(item.tokens)
            progress.update(task, advance=item.size, counts=f"{documents:,} documents, {tokens:,} tokens")

        yield advance
        progress.update(task, completed=total)
