"""Stores that are being built: what was written so far is kept, so that a build that was killed goes on.

Whenever a shard is written, ``state.json`` says which shards there are, how far the sources were read, and what was counted.
Documents that wait for their shard are in a file beside. A build that goes on writes the shards that it would have written.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

import numpy as np

from limbeck.corpora.digest_set import DigestSet
from limbeck.corpora.document import Document
from limbeck.corpora.draws import Draw
from limbeck.corpora.faults import BadRecords
from limbeck.corpora.found import Found
from limbeck.corpora.store import MANIFEST, Shard, SourceOf, read_manifest
from limbeck.corpora.tokenised import Tokenised
from limbeck.corpora.writer import Item, Writer
from limbeck.disk import Count, put_folder, read_json, sha256_of, write_json, writing
from limbeck.errors import BadCorpus, BadRecord

FOLDER = "unfinished"
STATE = "state.json"


@dataclass
class Block:
    """Documents that follow each other in the sources, and the records beside them that cannot be read.

    ``ahead`` of the ``faults`` come before the first document. The block ends with the entry ``after`` of the draw's ``part``.
    """

    documents: list[Document] = field(default_factory=list)
    faults: list[BadRecord] = field(default_factory=list)
    ahead: int = 0
    part: int = 0
    after: int = 0


@dataclass
class Place:
    """How far a build is: the ``draw``, the ``part`` of its source and the entries in it that were read.

    ``documents`` counts those of the draw, ``read`` those of them that are in a store, ``tokens`` their tokens to train on,
    ``duplicates`` those to train on that were left out because they occurred before.
    """

    draw: int = 0
    part: int = 0
    after: int = 0
    documents: int = 0
    read: int = 0
    tokens: int = 0
    duplicates: int = 0


class _Side(TypedDict):
    documents: Count
    tokens: Count
    size: Count
    predictions: Count
    overlap: Count
    left_out: Count
    duplicates: Count
    sources: list[SourceOf]
    shards: list[Shard]
    waiting: NotRequired[Shard]


class _State(TypedDict):
    format: Literal[1]
    made_from: dict[str, Any]
    place: dict[str, Count]
    sides: dict[str, _Side]
    found: dict[str, Any]
    bad: dict[str, Any]


@dataclass
class Build:
    """The stores of some sides while they are built in ``folder``, a writer for each.

    ``seen``: digests of documents so far, None where nothing is compared. With ``dedup`` a document that was seen is left out;
    else those of training that are held out too are counted.
    """

    folder: Path
    made_from: dict[str, Any]
    writers: dict[str, Writer]
    found: Found
    bad: BadRecords
    dedup: bool
    seen: DigestSet | None
    place: Place = field(default_factory=Place)
    _shards: int = 0  # when it was saved last
    _saved: int = 0

    @classmethod
    def begin(
        cls,
        folder: Path,
        sides: Sequence[str],
        made_from: dict[str, Any],
        *,
        dtype: np.dtype,
        bad: BadRecords,
        dedup: bool,
        compares: bool,
    ) -> Build:
        """A build in a folder: the one that was begun there from the same, or a new one."""
        writers = {side: Writer(folder / side, dtype) for side in sides}
        build = cls(folder, made_from, writers, Found(), bad, dedup, DigestSet() if dedup or compares else None)
        state = _state_of(folder, made_from, sides)
        if state is not None:
            build._load(state)
            return build
        with writing(folder):
            shutil.rmtree(folder, ignore_errors=True)
            for side in sides:
                (folder / side).mkdir(parents=True)
        return build

    def take(self, block: Block, done: Tokenised, advance: Callable[[Item], None]) -> None:
        """Adds a tokenised block, and saves where a shard was written. Raises BadCorpus for too many bad records."""
        for fault in block.faults[: block.ahead]:
            self.bad.add(fault)
        if block.documents:
            self.bad.good()
        for fault in [*block.faults[block.ahead :], *done.bad]:
            self.bad.add(fault)
        self.found.join(done.found)
        for side, count in done.left_out.items():
            self.writers[side].left_out += count
        for side, item in done.items:
            if self._adds(side, item):
                self.place.read += 1
                self.place.tokens += len(item.tokens) - 1 if side == "train" else 0  # nothing predicts the first
                self.writers[side].add(item)
            advance(item)
        self.place.part, self.place.after = block.part, block.after
        self.place.documents += len(block.documents)
        if sum(len(writer.shards) for writer in self.writers.values()) > self._shards:
            self._save()

    def next_draw(self, draw: Draw) -> None:
        """Goes on with the beginning of the next source, in new shards of its sides if this ``draw`` is kept apart."""
        if draw.apart:
            for side in draw.sides:
                self.writers[side].close(draw.source)
        self.place = Place(self.place.draw + 1)

    def put(self, places: Mapping[str, Path], read: dict[str, Any]) -> None:
        """Writes the manifests, and puts the stores in their places."""
        duplicates = sum(writer.duplicates for writer in self.writers.values())
        if self.dedup:
            read = read | {"duplicates": duplicates}
        for writer in self.writers.values():
            writer.finish(self.made_from, read=read)
        put(self.folder, places)

    def drop(self) -> None:
        """Removes what was built where nothing of it would be used again."""
        if not (self.folder / STATE).exists():
            shutil.rmtree(self.folder, ignore_errors=True)

    def _adds(self, side: str, item: Item) -> bool:
        """Whether a document belongs into its store; what it has in common with others is counted."""
        if self.seen is None:
            return True
        writer = self.writers[side]
        if self.dedup:
            new = self.seen.add(item.digest)
            writer.duplicates += not new
            self.place.duplicates += not new and side == "train"
            return new
        if side == "held_out":
            self.seen.add(item.digest)
        elif item.digest in self.seen:
            writer.overlap += 1
        return True

    def _save(self) -> None:
        self._saved += 1
        name = f"waiting-{self._saved:05d}.arrow"
        state = {
            "format": 1,
            "made_from": self.made_from,
            "place": asdict(self.place),
            "sides": {side: writer.state(name) for side, writer in self.writers.items()},
            "found": self.found.state(),
            "bad": self.bad.state(),
        }
        write_json(self.folder / STATE, state)
        self._shards = sum(len(writer.shards) for writer in self.writers.values())
        for writer in self.writers.values():
            for older in writer.folder.glob("waiting-*.arrow"):
                if older.name != name:
                    older.unlink()

    def _load(self, state: _State) -> None:
        self.found = Found.of(state["found"])
        self.bad.load(state["bad"])
        self.place = Place(**state["place"])
        for side, writer in self.writers.items():
            writer.load(dict(state["sides"][side]))
            (writer.folder / MANIFEST).unlink(missing_ok=True)
            if self.seen is not None and (self.dedup or side == "held_out"):
                for digest in [d for digests in writer.digests() for d in digests] + [i.digest for i in writer.items]:
                    self.seen.add(digest)
            if "waiting" in state["sides"][side]:
                self._saved = int(state["sides"][side]["waiting"]["file"][8:13])
        self._shards = sum(len(writer.shards) for writer in self.writers.values())


def put(folder: Path, places: Mapping[str, Path]) -> None:
    """Puts the complete stores of a folder in their places, and removes the folder."""
    for side, place in places.items():
        if (folder / side / MANIFEST).exists():
            for waiting in (folder / side).glob("waiting-*.arrow"):
                waiting.unlink()
            put_folder(folder / side, place)
    shutil.rmtree(folder, ignore_errors=True)


def put_complete(folder: Path, places: Mapping[str, Path], made_from: dict[str, Any]) -> None:
    """Puts the stores in their places of a build that was killed while it did so."""

    def complete(store: Path) -> bool:
        try:
            found = read_manifest(store)
        except BadCorpus:
            return False
        return bool(found["made_from"] == made_from)

    begun = any(complete(folder / side) for side in places)
    if begun and all(complete(folder / side) or complete(place) for side, place in places.items()):
        put(folder, places)


def remove_rest(folder: Path, made_from: dict[str, Any]) -> None:
    """Removes what a kill left of a build whose stores are in their places; one of another text stays, and can go on."""
    if not folder.exists():
        return
    try:
        state: _State | None = read_json(folder / STATE, _State, error=BadCorpus, remedy="it is made again")
    except BadCorpus:
        state = None
    if state is None or state["made_from"] == made_from:
        shutil.rmtree(folder, ignore_errors=True)


def _state_of(folder: Path, made_from: dict[str, Any], sides: Sequence[str]) -> _State | None:
    """The state of a build that can go on; None where there is none from the same, or a file of it is damaged."""
    try:
        state: _State = read_json(folder / STATE, _State, error=BadCorpus, remedy="it is made again")
    except BadCorpus:
        return None
    if state["made_from"] != made_from or set(state["sides"]) != set(sides):
        return None
    for name, side in state["sides"].items():
        waiting = [side["waiting"]] if "waiting" in side else []
        for entry in [*side["shards"], *waiting]:
            path = folder / name / entry["file"]
            if not path.is_file() or sha256_of(path) != entry["sha256"]:
                return None
    return state
