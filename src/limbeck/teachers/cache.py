"""What a teacher said, kept: Arrow files of rows of outcomes, each row with a checksum, and a manifest that binds them.

A row of the corpus is a row here, found by its number, so any order of reading costs the same. The manifest says what the
answers were made from (weights, tokenizer, text, packing, kind, seed); who comes with anything else is told which differs. A
file that is being written has another name: whoever was stopped continues in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64, UInt8
from msgspec import Meta
from torch import Tensor

from limbeck.disk import (
    CheckedRows,
    Count,
    locked,
    read_json,
    sums_of,
    tidy,
    write_json,
    writing,
)
from limbeck.errors import BadModel, LimbeckError, Mismatch
from limbeck.teachers.codec import Codec, Sampled, TopK
from limbeck.teachers.draw import sample_outcomes, top_k
from limbeck.teachers.shards import OpenShard, Shard, missing_in, name_of, shard_of, write_shard
from limbeck.types import Batch, Outputs, Sparse, Teacher, each

MANIFEST = "cache.json"
_BEGUN = "begun.json"  # what a capture that has no manifest yet is made from
_SHARD_BYTES = 2**28
REMEDY = "copy the folder again, or capture it anew"
CELLS = 2**22  # numbers of a chunk of logits
CODECS: dict[str, type[Codec]] = {"drawn": Sampled, "coarse": TopK}
_SPELLED = {Sampled: "Drawn", TopK: "Coarse"}  # on disk, in what a cache was made from


class _Begun(TypedDict):
    """What a capture that has no manifest yet keeps beside what it is made from: the files that are finished."""

    finished: NotRequired[list[Shard]]


class _Manifest(TypedDict):
    """What the manifest of answers holds."""

    name: str
    vocab: Annotated[int, Meta(gt=0, lt=2**53)]
    made_from: dict[str, Any]
    kind: str
    codec: dict[str, Annotated[int, Meta(gt=0, lt=2**31)]]
    first: Count
    rows: Annotated[int, Meta(gt=0, lt=2**53)]
    length: Annotated[int, Meta(gt=0, lt=2**53)]
    shards: list[Shard]


class LogitCache:
    """A teacher whose answers lie in a folder. ``made_from`` is what they were made from, ``codec`` how they are packed."""

    def __init__(self, folder: Path, *, expect: Mapping[str, Any] | None = None) -> None:
        """Raises BadModel where the folder is not whole, Mismatch where it was made from something else than expected."""
        if not (folder / MANIFEST).is_file():
            raise BadModel(
                f"{folder}: expected a teacher's answers, found no {MANIFEST}: capture them with limbeck capture, or let the "
                "capture that was stopped go on by its own command"
            )
        manifest = read_manifest(folder)
        check_made_from(folder, manifest["made_from"], expect or {})
        self.folder, self.name, self.vocab = folder, manifest["name"], int(manifest["vocab"])
        self.made_from: Mapping[str, Any] = manifest["made_from"]
        self.codec = codec_of(folder / MANIFEST, manifest["kind"], manifest["codec"])
        self.first, self.rows, self.length = (int(manifest[key]) for key in ("first", "rows", "length"))
        self.missing = sum(shard.get("unanswered", 0) for shard in manifest["shards"])  # positions
        self.shards: Sequence[Mapping[str, Any]] = manifest["shards"]
        size = self.length * self.codec.bytes
        self._shards = [OpenShard(folder, shard, size=size) for shard in manifest["shards"]]
        self._firsts = np.array([shard["first"] for shard in manifest["shards"]])
        self._check_rows(manifest["shards"])

    def _check_rows(self, shards: Sequence[Mapping[str, Any]]) -> None:
        due = self.first
        for shard in shards:
            if shard["first"] != due:
                break
            due += shard["rows"]
        if due != self.first + self.rows:
            raise BadModel(
                f"{self.folder / MANIFEST}: expected files of rows {self.first:,} to {self.first + self.rows - 1:,}, those it "
                f"names end at row {due - 1:,}: {REMEDY}"
            )

    def verify(self) -> None:
        """Reads every file and compares it with its checksum. Raises BadModel for one that is damaged."""
        for shard in self._shards:
            shard.verify(remedy=REMEDY)

    def __call__(self, batch: Batch) -> Sparse:
        """What the teacher said about these rows. Raises BadModel for a row whose bytes are not as they were written."""
        packed = np.concatenate([self._row(int(row)) for row in batch.row.cpu().numpy()])
        told = self.codec.decode(packed.reshape(-1, self.codec.bytes))
        return told.to(batch.tokens.device)

    def masked(self, batch: Batch) -> Batch:
        """The batch with weight 0 where the teacher has no answer, as if that were padding."""
        if not self.missing:
            return batch
        packed = np.concatenate([self._row(int(row)) for row in batch.row.cpu().numpy()])
        none = torch.from_numpy(self.codec.unanswered(packed.reshape(-1, self.codec.bytes)))
        return replace(batch, weight=batch.weight.masked_fill(none.view_as(batch.weight).to(batch.weight.device), 0.0))

    def damaged(self) -> list[int]:
        """The rows whose bytes are not as they were written; all are read."""
        return [row for shard in self._shards for row in shard.damaged()]

    def _row(self, row: int) -> np.ndarray:
        if not self.first <= row < self.first + self.rows:
            raise Mismatch(
                f"{self.folder} has answers to rows {self.first:,} to {self.first + self.rows - 1:,}, asked for {row:,}: "
                "capture more rows"
            )
        shard = self._shards[int(np.searchsorted(self._firsts, row, side="right")) - 1]
        if not shard.good(row - shard.first):
            raise BadModel(
                f"{self.folder}: the answers to row {row:,} are damaged: copy the folder again, or capture it anew"
            )
        return shard.answers[row - shard.first]


@torch.no_grad()
def capture_outcomes(
    teacher: Teacher,
    rows_of: Callable[[Int64[np.ndarray, " B"]], Batch],
    folder: Path,
    *,
    rows: int,
    length: int,
    batch_rows: int,
    codec: Codec,
    seed: int,
    made_from: Mapping[str, Any],
    first: int = 0,
    cells: int = CELLS,
    report: Callable[[int], None] = lambda done: None,
) -> LogitCache:
    """Asks a teacher about ``rows`` rows from ``first`` on, ``batch_rows`` at a time, and keeps outcomes of each position.

    Continues after the last whole question where it was stopped; what it draws hangs on ``seed`` and the row alone, so the
    bytes are those of a capture that was not. ``cells`` are the logits that exist at a time; ``report`` is told how many of the
    rows are done. What is there already is read again. Raises BadModel or BadFolder where it is not as it was written, Mismatch
    where the folder was begun from something else, BadFolder where another process captures into it.
    """
    spelled = f"{_SPELLED[type(codec)]}({', '.join(f'{name}={value!r}' for name, value in asdict(codec).items())})"
    bound = {**made_from, "codec": spelled, "seed": seed, "length": length, "rows": [first, first + rows]}
    if (folder / MANIFEST).is_file():
        there = LogitCache(folder, expect=bound)
        there.verify()
        return there
    size = length * codec.bytes
    most = max(1, _SHARD_BYTES // size)
    files = [(start, min(most, first + rows - start)) for start in range(first, first + rows, most)]
    with writing(folder), locked(folder):
        tidy(folder)
        finished = _finished(folder, bound)
        shards: list[Shard] = []
        for begin, count in files:
            file = folder / name_of(begin)
            part = file.with_suffix(".part")
            shard = _kept(file, finished.get(file.name), begin, count, size=size)
            if shard is None:
                with CheckedRows(part, size) as raw:
                    # at a whole question: in another company a row's last bits may be others
                    raw.keep(done := raw.done // batch_rows * batch_rows)
                    asked = (
                        rows_of(np.arange(start, min(start + batch_rows, begin + count)))
                        for start in range(begin + done, begin + count, batch_rows)
                    )
                    done += begin - first
                    for batch, outputs in each(teacher, asked):
                        raw.add(packed_signal(batch, outputs, codec, seed=seed, cells=cells).tobytes())
                        del outputs
                        done += len(batch.tokens)
                        report(done)
                    shard = write_shard(
                        np.memmap(part, np.uint8, "r", shape=(count, size)), file, codec, raw.sums, begin
                    )
            shards.append(shard)
            write_json(folder / _BEGUN, bound | {"finished": shards})
            for left in (part, sums_of(part)):  # not before it is known what became of them
                left.unlink(missing_ok=True)
        kind = next(name for name, made in CODECS.items() if isinstance(codec, made))
        facts = {"name": teacher.name, "vocab": teacher.vocab, "kind": kind, "codec": asdict(codec), "made_from": bound}
        write_json(folder / MANIFEST, facts | {"first": first, "rows": rows, "length": length, "shards": shards})
    return LogitCache(folder)


def _finished(folder: Path, bound: Mapping[str, Any]) -> dict[str, Shard]:
    """The files that a capture finished before it was stopped, by name; it is begun here, or goes on.

    Raises BadModel where what is kept of it is damaged, Mismatch where it was made from something else.
    """
    if not (folder / _BEGUN).is_file():
        write_json(folder / _BEGUN, bound)
        return {}
    remedy = f"remove {folder}, and the rows are asked again"
    begun = read_json(folder / _BEGUN, _Begun, error=BadModel, remedy=remedy)
    check_made_from(folder, begun, bound)
    return {shard["file"]: shard for shard in begun.get("finished", ())}


def _kept(file: Path, shard: Shard | None, first: int, rows: int, *, size: int) -> Shard | None:
    """What the manifest will say of a finished file, whose bytes are read again; None where it is not finished.

    An earlier version noted no finished files: there one without rows that are still to be put into it is believed by the
    checksums of its rows. Raises BadModel where the file is damaged.
    """
    if not file.exists() or (shard is None and file.with_suffix(".part").exists()):
        return None
    there: Shard = shard or {"file": file.name, "first": first, "rows": rows}
    OpenShard(file.parent, there, size=size).verify(remedy=f"remove {file}, and its rows are asked again")
    return shard or shard_of(file, first, rows)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of answers. Raises BadModel where it is damaged."""
    manifest: dict[str, Any] = read_json(folder / MANIFEST, _Manifest, error=BadModel, remedy=REMEDY)
    return manifest


def codec_of(path: Path, kind: str, values: Mapping[str, Any]) -> Codec:
    """The codec that a file at ``path`` names. Raises BadModel where there is none such."""
    try:
        return CODECS[kind](**values)
    except (KeyError, TypeError, ValueError, LimbeckError) as error:
        raise BadModel(
            f"{path}: expected a kind of answers and its sizes, got {kind!r}, {values!r}: {REMEDY}"
        ) from error


def check_made_from(
    folder: Path,
    there: Mapping[str, Any],
    now: Mapping[str, Any],
    *,
    holds: str = "answers made from",
    remedy: str = "Capture anew into another folder",
) -> None:
    """Raises Mismatch where a folder was made from something else than it is asked for now."""
    for key, value in now.items():
        if there.get(key) != value:
            raise Mismatch(
                f"{folder} holds {holds} another {key}: {there.get(key)!r} there, {value!r} now. {remedy}, or come with what it "
                "was made from."
            )


@torch.no_grad()
def packed_signal(
    batch: Batch, outputs: Outputs | Sparse, codec: Codec, *, seed: int, cells: int = CELLS
) -> UInt8[np.ndarray, "positions bytes"]:
    """What a codec keeps of the answers to a batch, with ``cells`` logits at a time."""
    if isinstance(outputs, Sparse):  # who has chosen its outcomes leaves nothing to draw
        assert isinstance(codec, TopK), "a teacher that tells its likeliest outcomes is kept as such"
        return codec.encode(outputs)
    length = batch.tokens.shape[1]
    uniform = np.concatenate([np.random.default_rng([seed, int(row)]).random(length) for row in batch.row.cpu()])
    block = max(1, cells // outputs.vocab)
    packed = []
    for start in range(0, batch.tokens.numel(), block):
        part = slice(start, start + block)
        packed.append(packed_log_p(outputs.logits(part).float().log_softmax(-1), codec, uniform[part]))
    return np.concatenate(packed)


def packed_log_p(
    log_p: Float[Tensor, "n V"], codec: Codec, uniform: Float64[np.ndarray, " n"]
) -> UInt8[np.ndarray, "n bytes"]:
    """What a codec keeps of some distributions; drawn with one random number in [0, 1) a position."""
    if isinstance(codec, Sampled):
        return codec.encode(*sample_outcomes(log_p, codec.k, torch.from_numpy(uniform).to(log_p.device)))
    return codec.encode(top_k(log_p, codec.k))


def missing_so_far(folder: Path, codec: Codec, *, length: int, batch_rows: int) -> int:
    """Positions without an answer in what a capture has written into a folder until now and will keep."""
    size = length * codec.bytes
    count = sum(missing_in(file) for file in folder.glob("answers-*.arrow"))
    for part in folder.glob("answers-*.part"):
        if rows := part.stat().st_size // size // batch_rows * batch_rows:
            raw = np.memmap(part, np.uint8, "r", shape=(rows * length, codec.bytes))
            count += int(codec.unanswered(raw).sum())
    return count
