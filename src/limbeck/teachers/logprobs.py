"""Teacher log-probabilities: a teacher's log p of each token of a text, in its own tokens.

They are measured once, before a student with another tokenizer is trained. The file has one float32 a token, in the order of the
teacher's rows. On request it also has the largest probabilities of each distribution in float16 (relative error below 1/2000), or
in float32 with the tokens that have them, and the probability mass of some tokens. Files are memory-mapped; a killed measurement
continues, and checksums are compared whenever a folder is opened.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int, Int32, Shaped
from torch import Tensor

from limbeck.disk import Bare, Count, check_sums, new_file, read_json, sums, write_json, writing
from limbeck.errors import BadModel
from limbeck.teachers.cache import CELLS, check_made_from
from limbeck.teachers.rows import NumberedRows
from limbeck.types import Batch, Outputs, Signal, Sparse, Teacher, each

_DONE, _MANIFEST = "done.json", "told.json"
_SAVE_EVERY = 64  # batches
_MISMATCH = {"holds": "teacher log-probabilities made from", "remedy": "Remove the folder to measure them again"}
_REMEDY = "remove {}; the next run measures the log-probabilities again"


class _Done(TypedDict):
    """Progress of a measurement: finished rows, and the CRC-32 of each array so far."""

    made_from: dict[str, Any]
    rows: Count
    crc32: NotRequired[dict[Bare, Count]]


class _Manifest(TypedDict):
    """The manifest: SHA-256 of each file (earlier versions wrote them by array as ``sha256``)."""

    made_from: dict[str, Any]
    files: NotRequired[dict[Bare, str]]
    sha256: NotRequired[dict[Bare, str]]


@dataclass(frozen=True)
class Recorded:
    """What is recorded of a distribution besides log p of the next token.

    ``largest`` is how many of its largest probabilities (0 for none), with their ``tokens`` on request; ``some`` marks tokens
    whose total probability is recorded.
    """

    largest: int = 0
    some: Bool[Tensor, " V"] | None = None
    tokens: bool = False

    @property
    def shapes(self) -> dict[str, tuple[type[np.number], tuple[int, ...]]]:
        """The number type and the shape at one position of each recorded array, by name."""
        kept: dict[str, tuple[type[np.number], tuple[int, ...]]] = {"log_p": (np.float32, ())}
        if self.largest:
            kept["largest"] = (
                np.float32 if self.tokens else np.float16,
                (self.largest,),
            )  # a rest needs their exact sum
        if self.largest and self.tokens:
            kept["tokens"] = (np.int32, (self.largest,))
        return kept if self.some is None else kept | {"mass": (np.float32, ())}


LOG_P = Recorded()


@dataclass(frozen=True)
class TeacherLogprobs:
    """Recorded log-probabilities at each position of a teacher's rows.

    Positions of weight 0, and those without a log-probability, have NaN (probabilities of 0 in ``largest``). ``log_p`` is in
    nats. ``tokens`` are those of the largest probabilities.
    """

    log_p: Float32[np.ndarray, "rows T"]
    largest: Float[np.ndarray, "rows T k"] | None = None
    tokens: Int32[np.ndarray, "rows T k"] | None = None
    mass: Float32[np.ndarray, "rows T"] | None = None


@torch.no_grad()
def measure_logprobs(
    teacher: Teacher,
    rows: NumberedRows,
    folder: Path,
    *,
    made_from: Mapping[str, Any],
    kept: Recorded = LOG_P,
    report: Callable[[int], None] = lambda done: None,
) -> TeacherLogprobs:
    """Measures a teacher's log-probabilities of some rows, the first of which has number 0.

    A stopped measurement continues after its last save. ``made_from`` records what decides the numbers; ``report`` is called with
    the number of finished rows.

    Raises Mismatch if the folder was made from something else, BadModel if it is damaged.
    """
    bound = {
        **made_from,
        "rows": rows.rows,
        "length": rows.length,
        "kept": {name: list(s) for name, (_, s) in kept.shapes.items()},
    }
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / _MANIFEST).is_file():
            return _whole(folder, bound)
        done, values = _begun(folder, bound, kept)
        seen = {name: zlib.crc32(value[:done].data) for name, value in values.items()}
        for number, (batch, outputs) in enumerate(each(teacher, rows.batches(done, rows.end)), start=1):
            size = len(batch.tokens)
            for name, found in logprobs_of(batch, outputs, kept).items():
                values[name][done : done + size] = found.reshape(size, rows.length, *found.shape[1:]).cpu().numpy()
                seen[name] = zlib.crc32(values[name][done : done + size].data, seen[name])
            del outputs
            done += size
            if number % _SAVE_EVERY == 0:
                _flush(values)
                write_json(folder / _DONE, {"made_from": bound, "rows": done, "crc32": seen})
            report(done)
        _flush(values)
        files = sums(folder, [_file(folder, name).name for name in values])
        write_json(folder / _MANIFEST, {"made_from": bound, "files": files})
    return _whole(folder, bound)


def logprobs_of(batch: Batch, outputs: Outputs | Sparse, kept: Recorded) -> dict[str, Shaped[Tensor, " n *k"]]:
    """The recorded arrays of a teacher's outputs for a batch, by name: n = B x T positions first."""
    flat = batch.flat()
    n, device = flat.targets.numel(), flat.targets.device
    nothing = {"largest": 0.0, "tokens": 0}
    found = {
        name: torch.full((n, *shape), nothing.get(name, torch.nan), device=device)
        for name, (_, shape) in kept.shapes.items()
    }
    for part in flat.weight.nonzero().squeeze(-1).split(max(1, CELLS // outputs.vocab)):
        signal = outputs.part(part) if isinstance(outputs, Sparse) else Signal(outputs.logits(part).float())
        found["log_p"][part] = _log_p(signal, flat.targets[part]).float()
        if kept.largest:
            probabilities, tokens = signal.likeliest(kept.largest)
            found["largest"][part] = probabilities.float()
            if kept.tokens:
                found["tokens"][part] = tokens
        if kept.some is not None:
            found["mass"][part] = _mass(signal, kept.some.to(device)).float()
    return found


def _log_p(signal: Signal | Sparse, targets: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """log p of the target in nats, NaN where the signal does not have it."""
    if isinstance(signal, Signal):
        return signal.log_p().gather(-1, targets[:, None]).squeeze(-1)
    hit = (signal.ids == targets[:, None]) & (signal.weight > 0)
    return signal.log_p.masked_fill(~hit, -torch.inf).amax(-1).masked_fill(~hit.any(-1), torch.nan)


def _mass(signal: Signal | Sparse, some: Bool[Tensor, " V"]) -> Float[Tensor, " n"]:
    """The total probability of some tokens: a lower bound from top-k outcomes, unbiased from sampled ones."""
    if isinstance(signal, Signal):
        return signal.log_p().exp()[:, some].sum(-1)
    return torch.where(some[signal.ids], signal.weight, 0.0).sum(-1)


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}.npy"


def _flush(values: Mapping[str, np.memmap]) -> None:
    for value in values.values():
        value.flush()


def _begun(folder: Path, bound: Mapping[str, Any], kept: Recorded) -> tuple[int, dict[str, np.memmap]]:
    """(rows that are done, the arrays so far). Raises BadModel if those are damaged, Mismatch if made from something else."""
    names = {name: _file(folder, name) for name in kept.shapes}
    if (folder / _DONE).is_file() and all(file.is_file() for file in names.values()):
        there = read_json(folder / _DONE, _Done, error=BadModel, remedy=_REMEDY.format(folder))
        check_made_from(folder, there["made_from"], bound, **_MISMATCH)
        values = {name: _mapped(file, "r+") for name, file in names.items()}
        done = int(there["rows"])
        for name, expected in there.get("crc32", {}).items():
            if name not in values or zlib.crc32(values[name][:done].data) != expected:
                raise BadModel(f"{folder / name}: it does not match its checksum: {_REMEDY.format(folder)}")
        return done, values
    rows = (bound["rows"], bound["length"])
    return 0, {
        name: np.lib.format.open_memmap(new_file(names[name]), mode="w+", dtype=dtype, shape=(*rows, *shape))
        for name, (dtype, shape) in kept.shapes.items()
    }


def _whole(folder: Path, bound: Mapping[str, Any]) -> TeacherLogprobs:
    check_made_from(folder, _manifest(folder)["made_from"], bound, **_MISMATCH)
    return logprobs_in(folder)


def _manifest(folder: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = read_json(folder / _MANIFEST, _Manifest, error=BadModel, remedy=_REMEDY.format(folder))
    return manifest


def _mapped(file: Path, mode: Literal["r", "r+"]) -> Any:
    """An array on disk. Raises BadModel where it is none."""
    try:
        return np.load(file, mmap_mode=mode, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise BadModel(
            f"{file}: expected an array that limbeck wrote ({error}): {_REMEDY.format(file.parent)}"
        ) from error


def logprobs_in(folder: Path) -> TeacherLogprobs:
    """The teacher log-probabilities in a folder. Raises BadModel if they are missing or damaged."""
    if not (folder / _MANIFEST).is_file():
        aligned = folder.with_name("aligned")
        raise BadModel(
            f"{folder}: expected teacher log-probabilities, found no {_MANIFEST}: remove {aligned} too; the next run measures "
            "them again"
        )
    manifest = _manifest(folder)
    earlier = {_file(folder, name).name: expected for name, expected in manifest.get("sha256", {}).items()}
    files = manifest.get("files", earlier)
    check_sums(folder, files, error=BadModel, remedy=_REMEDY.format(folder))
    arrays = {Path(name).stem: _mapped(folder / name, "r") for name in files}
    if not {"log_p"} <= arrays.keys() <= {field.name for field in fields(TeacherLogprobs)}:
        raise BadModel(
            f"{folder / _MANIFEST}: expected log_p among its files, got {sorted(files)}: {_REMEDY.format(folder)}"
        )
    return TeacherLogprobs(**arrays)
