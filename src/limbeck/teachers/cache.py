"""The logit cache: a teacher's captured logits in Arrow files, each row with a checksum, and a manifest.

A row of the corpus is a row of the cache and is found by its number, so any order of reading costs the same. The manifest records
what the logits were computed from (weights, tokenizer, text, packing, codec, seed); opening the cache for anything else is an
error that names the difference. A file that is still being written has another name; a stopped capture continues in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

import numpy as np
import torch
from jaxtyping import Float, Float64, UInt8
from msgspec import Meta
from torch import Tensor

from limbeck.disk import (
    CheckedRows,
    Count,
    link_or_copy,
    locked,
    read_json,
    remove_leftovers,
    sums_of,
    write_json,
    writing,
)
from limbeck.errors import BadModel, LimbeckError, Mismatch
from limbeck.host import on_host
from limbeck.teachers.codec import Codec, Sampled, TopK
from limbeck.teachers.draw import sample_outcomes, top_k
from limbeck.teachers.rows import NumberedRows
from limbeck.teachers.shards import OpenShard, Shard, missing_in, name_of, shard_of, write_shard
from limbeck.types import Batch, Outputs, Sparse, Teacher, each

MANIFEST = "cache.json"
_BEGUN = "begun.json"  # what an unfinished capture is made from
_SHARD_BYTES = 2**28
_TOGETHER = 256  # rows that are copied at a time
REMEDY = "copy the folder again, or capture it again"
CELLS = 2**22  # logits in memory at a time
CODECS: dict[str, type[Codec]] = {"drawn": Sampled, "coarse": TopK}
_SPELLED = {Sampled: "Drawn", TopK: "Coarse"}  # on disk, in what a cache was made from


class _Begun(TypedDict):
    """The record of an unfinished capture: what it is made from, and its finished files."""

    finished: NotRequired[list[Shard]]


class _Manifest(TypedDict):
    """The manifest of a logit cache. ``kind`` names the codec: "drawn" (sampled) or "coarse" (top-k)."""

    name: str
    vocab: Annotated[int, Meta(gt=0, lt=2**53)]
    made_from: dict[str, Any]
    kind: str
    codec: dict[str, Annotated[int, Meta(gt=0, lt=2**31)]]
    first: Count
    rows: Annotated[int, Meta(gt=0, lt=2**53)]
    length: Annotated[int, Meta(gt=0, lt=2**53)]
    shards: list[Shard]


@dataclass(frozen=True)
class Coding:
    """How logits are stored: ``codec`` decides which outcomes of a position are kept, in how many bytes; ``seed`` is sampling's.

    At most ``cells`` logits are in memory at a time.
    """

    codec: Codec
    seed: int
    cells: int = CELLS

    def facts(self) -> dict[str, Any]:
        """The entries of ``made_from`` about it."""
        values = ", ".join(f"{name}={value!r}" for name, value in asdict(self.codec).items())
        return {"codec": f"{_SPELLED[type(self.codec)]}({values})", "seed": self.seed}


class LogitCache:
    """A teacher whose logits were captured into a folder: calling it with a batch gives a `Sparse` signal.

    ``made_from`` records what the logits were computed from, ``codec`` how they are packed, ``missing`` how many positions have
    no target (a server gave no usable log-probabilities there).
    """

    def __init__(self, folder: Path, *, expect: Mapping[str, Any] | None = None) -> None:
        """Opens the folder; ``expect`` are entries that ``made_from`` must have.

        Raises BadModel if the folder is incomplete or damaged, Mismatch if it was made from something else than expected.
        """
        if not (folder / MANIFEST).is_file():
            raise BadModel(
                f"{folder}: expected a teacher's captured logits, found no {MANIFEST}: capture them with limbeck capture, or run "
                "the command of the stopped capture again"
            )
        manifest = read_manifest(folder)
        check_made_from(folder, manifest["made_from"], expect or {})
        self.folder, self.name, self.vocab = folder, manifest["name"], int(manifest["vocab"])
        self.made_from: Mapping[str, Any] = manifest["made_from"]
        self.codec = codec_of(folder / MANIFEST, manifest["kind"], manifest["codec"])
        self.first, self.rows, self.length = (int(manifest[key]) for key in ("first", "rows", "length"))
        self.missing = sum(shard.get("unanswered", 0) for shard in manifest["shards"])  # positions
        self.shards: Sequence[Shard] = manifest["shards"]
        size = self.length * self.codec.bytes
        self._shards = [OpenShard(folder, shard, size=size) for shard in manifest["shards"]]
        self._firsts = np.array([shard["first"] for shard in manifest["shards"]])
        self._check_rows(manifest["shards"])

    def _check_rows(self, shards: Sequence[Shard]) -> None:
        due = self.first
        for shard in shards:
            if shard["first"] != due:
                break
            due += shard["rows"]
        if due != self.first + self.rows:
            raise BadModel(
                f"{self.folder / MANIFEST}: expected files of rows {self.first:,} to {self.first + self.rows - 1:,}, the listed "
                f"files end at row {due - 1:,}: {REMEDY}"
            )

    def verify(self) -> None:
        """Reads every file and compares it with its checksum. Raises BadModel if one is damaged."""
        for shard in self._shards:
            shard.verify(remedy=REMEDY)

    def __call__(self, batch: Batch) -> Sparse:
        """The captured logits of the batch's rows, as a `Sparse` signal over B x T positions.

        Raises Mismatch for a row that was not captured, BadModel for a row whose bytes differ from their checksum.
        """
        packed = np.concatenate([self.packed(int(row)) for row in on_host(batch.row).numpy()])
        signal = self.codec.decode(packed.reshape(-1, self.codec.bytes))
        return signal.to(batch.tokens.device)

    def masked(self, batch: Batch) -> Batch:
        """The batch with weight 0 at positions without a target, so that training and probes skip them like padding.

        Raises as `__call__`.
        """
        if not self.missing:
            return batch
        packed = np.concatenate([self.packed(int(row)) for row in on_host(batch.row).numpy()])
        none = torch.from_numpy(self.codec.missing(packed.reshape(-1, self.codec.bytes)))
        return replace(batch, weight=batch.weight.masked_fill(none.view_as(batch.weight).to(batch.weight.device), 0.0))

    def damaged(self) -> list[int]:
        """The rows whose bytes differ from their checksum. Reads all rows."""
        return [row for shard in self._shards for row in shard.damaged()]

    def packed(self, row: int) -> UInt8[np.ndarray, " bytes"]:
        """The stored bytes of a row. Raises as `__call__`."""
        if not self.first <= row < self.first + self.rows:
            raise Mismatch(
                f"{self.folder} has logits of rows {self.first:,} to {self.first + self.rows - 1:,}, expected row {row:,} too: "
                "capture more rows"
            )
        shard = self._shards[int(np.searchsorted(self._firsts, row, side="right")) - 1]
        if not shard.good(row - shard.first):
            raise BadModel(f"{self.folder}: the logits of row {row:,} do not match their checksum: {REMEDY}")
        return shard.packed[row - shard.first]


@torch.no_grad()
def capture_outcomes(
    teacher: Teacher,
    rows: NumberedRows,
    folder: Path,
    *,
    coding: Coding,
    made_from: Mapping[str, Any],
    report: Callable[[int], None] = lambda done: None,
) -> LogitCache:
    """Captures a teacher's logits of some rows into ``folder``: of each position the outcomes that ``coding`` keeps.

    A stopped capture continues after its last whole batch and ends with the same bytes: sampling depends on the seed and the
    row's number alone. ``report`` is called with the number of finished rows. Files that exist are read again.

    Raises BadModel or BadFolder if one of those is damaged, Mismatch if the folder was begun from something else, BadFolder if
    another process is capturing into it or the disk is full.
    """
    codec = coding.codec
    bound = {**made_from, **coding.facts(), "length": rows.length, "rows": [rows.first, rows.end]}
    if (folder / MANIFEST).is_file():
        there = LogitCache(folder, expect=bound)
        there.verify()
        return there

    def make(first: int, number: int, file: Path) -> Shard:
        part = replace(rows, first=first, rows=number)
        return _capture_part(teacher, part, file, coding, partial(_report_from, report, first - rows.first))

    return _write(folder, teacher, codec, bound, make)


def join_outcomes(folder: Path, parts: Sequence[LogitCache]) -> LogitCache:
    """Puts the parts of a capture together in ``folder``, with the files and bytes of a capture in one process.

    ``parts`` have the same origin, and together all rows from the first of them on, in order. A file that a part has as the
    whole has it is linked where the disk allows; others are written from rows that are compared with their checksums. A
    stopped one continues. Raises as `capture_outcomes`.
    """
    bound = {**parts[0].made_from, "rows": [parts[0].first, parts[-1].first + parts[-1].rows]}
    if (folder / MANIFEST).is_file():
        return LogitCache(folder, expect=bound)
    return _write(folder, parts[0], parts[0].codec, bound, partial(_join_part, parts))


def _join_part(parts: Sequence[LogitCache], first: int, rows: int, file: Path) -> Shard:
    """One file of the whole, from those of its parts."""
    for part in parts:
        for shard in part.shards:
            if (shard["first"], shard["rows"]) == (first, rows):
                link_or_copy(part.folder / shard["file"], file)
                return shard
    unfinished, size = _unfinished(file), parts[0].length * parts[0].codec.bytes
    with CheckedRows(unfinished, size) as raw:
        for part in parts:
            end = min(part.first + part.rows, first + rows)
            for start in range(max(part.first, first + raw.done), end, _TOGETHER):
                raw.add(b"".join(part.packed(row).tobytes() for row in range(start, min(start + _TOGETHER, end))))
        packed = np.memmap(unfinished, np.uint8, "r", shape=(rows, size))
        return write_shard(packed, file, parts[0].codec, raw.sums, first)


def _write(
    folder: Path,
    teacher: Teacher,
    codec: Codec,
    bound: Mapping[str, Any],
    make: Callable[[int, int, Path], Shard],
) -> LogitCache:
    """Writes the files of a cache that are not there yet, each by ``make`` from its first row, rows and path."""
    (first, end), length = bound["rows"], bound["length"]
    size, most = length * codec.bytes, rows_of_file(codec, length)
    with writing(folder), locked(folder):
        remove_leftovers(folder)
        finished = _finished(folder, bound)
        shards: list[Shard] = []
        for start in range(first, end, most):
            file, rows = folder / name_of(start), min(most, end - start)
            shard = _kept(file, finished.get(file.name), start, rows, size=size) or make(start, rows, file)
            shards.append(shard)
            write_json(folder / _BEGUN, {**bound, "finished": shards})
            unfinished = _unfinished(file)
            for left in (unfinished, sums_of(unfinished)):  # after the finished file is on record
                left.unlink(missing_ok=True)
        kind = next(name for name, made in CODECS.items() if isinstance(codec, made))
        facts = {"name": teacher.name, "vocab": teacher.vocab, "kind": kind, "codec": asdict(codec), "made_from": bound}
        extent = {"first": first, "rows": end - first, "length": length}
        write_json(folder / MANIFEST, facts | extent | {"shards": shards})
    return LogitCache(folder)


def rows_of_file(codec: Codec, length: int) -> int:
    """The number of rows of ``length`` tokens in each file but the last."""
    return max(1, _SHARD_BYTES // (length * codec.bytes))


def _report_from(report: Callable[[int], None], before: int, done: int) -> None:
    """Reports the rows finished in one file, of which ``before`` are in the files before it."""
    report(before + done)


def _unfinished(file: Path) -> Path:
    """The name of a file while it is written."""
    return file.with_suffix(".part")


def _capture_part(
    teacher: Teacher, rows: NumberedRows, file: Path, coding: Coding, report: Callable[[int], None]
) -> Shard:
    """Captures the rows of one file, after those that a stopped capture has written; ``report`` gets the finished rows."""
    part, size = _unfinished(file), rows.length * coding.codec.bytes
    with CheckedRows(part, size) as raw:
        # at a whole batch: with other rows in its batch a row's last bits may differ
        raw.keep(done := raw.done // rows.batch_rows * rows.batch_rows)
        for batch, outputs in each(teacher, rows.batches(rows.first + done, rows.end)):
            raw.add(packed_signal(batch, outputs, coding).tobytes())
            del outputs
            done += len(batch.tokens)
            report(done)
        packed = np.memmap(part, np.uint8, "r", shape=(rows.rows, size))
        return write_shard(packed, file, coding.codec, raw.sums, rows.first)


def _finished(folder: Path, bound: Mapping[str, Any]) -> dict[str, Shard]:
    """The files that a stopped capture had finished, by name. Begins a new capture if there is none.

    Raises BadModel if the record of it is damaged, Mismatch if it was made from something else.
    """
    if not (folder / _BEGUN).is_file():
        write_json(folder / _BEGUN, bound)
        return {}
    remedy = f"remove {folder}; the next run captures its rows again"
    begun = read_json(folder / _BEGUN, _Begun, error=BadModel, remedy=remedy)
    check_made_from(folder, begun, bound)
    return {shard["file"]: shard for shard in begun.get("finished", ())}


def _kept(file: Path, shard: Shard | None, first: int, rows: int, *, size: int) -> Shard | None:
    """The manifest entry of a finished file, whose bytes are read again; None if the file is not finished.

    Earlier versions kept no record of finished files: there a file without unfinished rows is checked by the checksums of its
    rows alone. Raises BadModel if the file is damaged.
    """
    if not file.exists() or (shard is None and file.with_suffix(".part").exists()):
        return None
    there: Shard = shard or {"file": file.name, "first": first, "rows": rows}
    OpenShard(file.parent, there, size=size).verify(remedy=f"remove {file}; the next run captures its rows again")
    return shard or shard_of(file, first, rows)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a logit cache. Raises BadModel if it is missing or damaged."""
    manifest: dict[str, Any] = read_json(folder / MANIFEST, _Manifest, error=BadModel, remedy=REMEDY)
    return manifest


def codec_of(path: Path, kind: str, values: Mapping[str, Any]) -> Codec:
    """The codec that the file at ``path`` names, from its ``kind`` and ``values``. Raises BadModel if there is no such codec."""
    try:
        return CODECS[kind](**values)
    except (KeyError, TypeError, ValueError, LimbeckError) as error:
        raise BadModel(
            f"{path}: expected a codec (drawn or coarse) and its sizes, got {kind!r}, {values!r}: {REMEDY}"
        ) from error


def check_made_from(
    folder: Path,
    there: Mapping[str, Any],
    now: Mapping[str, Any],
    *,
    holds: str = "captured logits made from",
    remedy: str = "Capture into another folder",
) -> None:
    """Raises Mismatch if a folder was made from something else (``there``) than is needed ``now``."""
    for key, value in now.items():
        if there.get(key) != value:
            raise Mismatch(
                f"{folder} holds {holds} another {key}: {there.get(key)!r} there, {value!r} now. {remedy}, or use the {key} that "
                "it was made from."
            )


@torch.no_grad()
def packed_signal(batch: Batch, outputs: Outputs | Sparse, coding: Coding) -> UInt8[np.ndarray, "positions bytes"]:
    """The packed outcomes of a batch's B x T positions."""
    codec = coding.codec
    if isinstance(outputs, Sparse):  # its outcomes are already chosen
        assert isinstance(codec, TopK), "a signal of the top-k outcomes is stored by the codec of those"
        return codec.encode(outputs)
    length = batch.tokens.shape[1]
    uniform = np.concatenate([np.random.default_rng([coding.seed, int(row)]).random(length) for row in batch.row.cpu()])
    block = max(1, coding.cells // outputs.vocab)
    packed = []
    for start in range(0, batch.tokens.numel(), block):
        part = slice(start, start + block)
        packed.append(packed_log_p(outputs.logits(part).float().log_softmax(-1), codec, uniform[part]))
    return np.concatenate(packed)


def packed_log_p(
    log_p: Float[Tensor, "n V"], codec: Codec, uniform: Float64[np.ndarray, " n"]
) -> UInt8[np.ndarray, "n bytes"]:
    """The packed outcomes of n distributions. Sampling uses one random number in [0, 1) a position, ``uniform``."""
    if isinstance(codec, Sampled):
        return codec.encode(*sample_outcomes(log_p, codec.k, torch.from_numpy(uniform).to(log_p.device)))
    return codec.encode(top_k(log_p, codec.k))


def missing_so_far(folder: Path, codec: Codec, *, length: int, batch_rows: int) -> int:
    """Positions without a target among the rows that an unfinished capture has written so far and will keep.

    Raises BadModel if a finished file is damaged.
    """
    size = length * codec.bytes
    count = sum(missing_in(file) for file in folder.glob("answers-*.arrow"))
    for part in folder.glob("answers-*.part"):
        if rows := part.stat().st_size // size // batch_rows * batch_rows:
            raw = np.memmap(part, np.uint8, "r", shape=(rows * length, codec.bytes))
            count += int(codec.missing(raw).sum())
    return count
