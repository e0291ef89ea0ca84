"""How likely a teacher finds each token of a text, in its own tokens: asked once, before a student of other tokens learns.

One float32 a token, in the order of the teacher's rows, whatever its vocabulary; and, where they are wanted, the largest
probabilities of each distribution in half precision, which is off by less than a 2000th of each, and the mass of some tokens.
The files are mapped; what was written before a kill stays, and the checksum of the whole is looked at whenever it is opened.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

import numpy as np
import torch
from jaxtyping import Bool, Float, Float16, Float32, Int, Int64
from torch import Tensor

from limbeck.disk import Bare, Count, check_sums, fresh_file, read_json, sums, write_json, writing
from limbeck.errors import BadModel
from limbeck.teachers.cache import CELLS, check_made_from
from limbeck.types import Batch, Outputs, Signal, Sparse, Teacher, each

_DONE, _MANIFEST = "done.json", "told.json"
_SAVE_EVERY = 64  # questions
_OTHERWISE = {
    "holds": "what a teacher told of",
    "remedy": "Remove it, and the teacher is asked again",
}


_AGAIN = "remove {}, and the teacher is asked again"


class _Done(TypedDict):
    """How far the teacher was asked, and the CRC-32 of what it told by then, by name."""

    made_from: dict[str, Any]
    rows: Count
    crc32: NotRequired[dict[Bare, Count]]


class _Manifest(TypedDict):
    """What was told: SHA-256 by file, of earlier versions by name."""

    made_from: dict[str, Any]
    files: NotRequired[dict[Bare, str]]
    sha256: NotRequired[dict[Bare, str]]


@dataclass(frozen=True)
class Recorded:
    """What is kept of a distribution beside log p of what follows: its ``largest`` probabilities, the mass of ``some`` tokens."""

    largest: int = 0
    some: Bool[Tensor, "V"] | None = None

    @property
    def shapes(self) -> dict[str, tuple[type[np.floating], tuple[int, ...]]]:
        """The type and shape of what is kept of a position, by name."""
        kept: dict[str, tuple[type[np.floating], tuple[int, ...]]] = {"log_p": (np.float32, ())}
        if self.largest:
            kept["largest"] = (np.float16, (self.largest,))
        return kept if self.some is None else kept | {"mass": (np.float32, ())}


LOG_P = Recorded()


@dataclass(frozen=True)
class TeacherLogprobs:
    """What was kept at each position of a teacher's rows: NaN, or probabilities of 0, where it has no weight or was not told."""

    log_p: Float32[np.ndarray, "rows T"]
    largest: Float16[np.ndarray, "rows T k"] | None = None
    mass: Float32[np.ndarray, "rows T"] | None = None


@torch.no_grad()
def measure_logprobs(
    teacher: Teacher,
    rows_of: Callable[[Int64[np.ndarray, " B"]], Batch],
    folder: Path,
    *,
    rows: int,
    length: int,
    batch_rows: int,
    made_from: Mapping[str, Any],
    kept: Recorded = LOG_P,
    report: Callable[[int], None] = lambda done: None,
) -> TeacherLogprobs:
    """What a teacher says of ``rows`` rows, ``batch_rows`` at a time.

    Continues after the last saved question where it was stopped. ``made_from`` is what decides the numbers, ``report`` is told
    how many rows are done. Raises Mismatch where the folder was made from something else, BadModel where it is damaged.
    """
    bound = {
        **made_from,
        "rows": rows,
        "length": length,
        "kept": {name: list(s) for name, (_, s) in kept.shapes.items()},
    }
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / _MANIFEST).is_file():
            return _whole(folder, bound)
        done, values = _begun(folder, bound, kept)
        seen = {name: zlib.crc32(value[:done].tobytes()) for name, value in values.items()}
        asked = (rows_of(np.arange(start, min(start + batch_rows, rows))) for start in range(done, rows, batch_rows))
        for number, (batch, said) in enumerate(each(teacher, asked), start=1):
            size = len(batch.tokens)
            for name, found in logprobs_of(batch, said, kept).items():
                values[name][done : done + size] = found.reshape(size, length, *found.shape[1:]).cpu().numpy()
                seen[name] = zlib.crc32(values[name][done : done + size].tobytes(), seen[name])
            del said
            done += size
            if number % _SAVE_EVERY == 0:
                _flush(values)
                write_json(folder / _DONE, {"made_from": bound, "rows": done, "crc32": seen})
            report(done)
        _flush(values)
        files = sums(folder, [_file(folder, name).name for name in values])
        write_json(folder / _MANIFEST, {"made_from": bound, "files": files})
    return _whole(folder, bound)


def logprobs_of(batch: Batch, said: Outputs | Sparse, kept: Recorded) -> dict[str, Float[Tensor, "n *k"]]:
    """What is kept of a teacher's answer to a batch, by name, at each position."""
    flat = batch.flat()
    n, device = flat.targets.numel(), flat.targets.device
    found = {
        name: torch.full((n, *shape), 0.0 if name == "largest" else torch.nan, device=device)
        for name, (_, shape) in kept.shapes.items()
    }
    for part in flat.weight.nonzero().squeeze(-1).split(max(1, CELLS // said.vocab)):
        signal = said.part(part) if isinstance(said, Sparse) else Signal(said.logits(part).float())
        found["log_p"][part] = _log_p(signal, flat.targets[part]).float()
        if kept.largest:
            found["largest"][part] = signal.largest(kept.largest).float()
        if kept.some is not None:
            found["mass"][part] = _mass(signal, kept.some.to(device)).float()
    return found


def _log_p(signal: Signal | Sparse, targets: Int[Tensor, "n"]) -> Float[Tensor, "n"]:
    """log p of what follows, NaN where the teacher did not tell it."""
    if isinstance(signal, Signal):
        return signal.log_p().gather(-1, targets[:, None]).squeeze(-1)
    hit = (signal.ids == targets[:, None]) & (signal.weight > 0)
    return signal.log_p.masked_fill(~hit, -torch.inf).amax(-1).masked_fill(~hit.any(-1), torch.nan)


def _mass(signal: Signal | Sparse, some: Bool[Tensor, "V"]) -> Float[Tensor, "n"]:
    """The probability of some tokens; of the likeliest outcomes what is known of it, of drawn ones right in the mean."""
    if isinstance(signal, Signal):
        return signal.log_p().exp()[:, some].sum(-1)
    return torch.where(some[signal.ids], signal.weight, 0.0).sum(-1)


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}.npy"


def _flush(values: Mapping[str, np.memmap]) -> None:
    for value in values.values():
        value.flush()


def _begun(folder: Path, bound: Mapping[str, Any], kept: Recorded) -> tuple[int, dict[str, np.memmap]]:
    """(rows that are done, the files to go on in)."""
    names = {name: _file(folder, name) for name in kept.shapes}
    if (folder / _DONE).is_file() and all(file.is_file() for file in names.values()):
        there = read_json(folder / _DONE, _Done, error=BadModel, remedy=_AGAIN.format(folder))
        check_made_from(folder, there["made_from"], bound, **_OTHERWISE)
        values = {name: _mapped(file, "r+") for name, file in names.items()}
        done = int(there["rows"])
        for name, expected in there.get("crc32", {}).items():
            if name not in values or zlib.crc32(values[name][:done].tobytes()) != expected:
                raise BadModel(f"{folder / name}: it is not as it was written: {_AGAIN.format(folder)}")
        return done, values
    rows = (bound["rows"], bound["length"])
    return 0, {
        name: np.lib.format.open_memmap(fresh_file(names[name]), mode="w+", dtype=dtype, shape=(*rows, *shape))
        for name, (dtype, shape) in kept.shapes.items()
    }


def _whole(folder: Path, bound: Mapping[str, Any]) -> TeacherLogprobs:
    check_made_from(folder, _manifest(folder)["made_from"], bound, **_OTHERWISE)
    return logprobs_in(folder)


def _manifest(folder: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = read_json(folder / _MANIFEST, _Manifest, error=BadModel, remedy=_AGAIN.format(folder))
    return manifest


def _mapped(file: Path, mode: Literal["r", "r+"]) -> Any:
    """An array on disk. Raises BadModel where it is none."""
    try:
        return np.load(file, mmap_mode=mode, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise BadModel(
            f"{file}: expected an array that limbeck wrote ({error}): {_AGAIN.format(file.parent)}"
        ) from error


def logprobs_in(folder: Path) -> TeacherLogprobs:
    """What a teacher told into a folder. Raises BadModel where it is damaged."""
    if not (folder / _MANIFEST).is_file():
        beside = folder.with_name("aligned")
        raise BadModel(f"{folder}: what the teacher told is missing: remove {beside} too, and it is asked again")
    manifest = _manifest(folder)
    earlier = {_file(folder, name).name: expected for name, expected in manifest.get("sha256", {}).items()}
    files = manifest.get("files", earlier)
    check_sums(folder, files, error=BadModel, remedy=_AGAIN.format(folder))
    arrays = {Path(name).stem: _mapped(folder / name, "r") for name in files}
    if not {"log_p"} <= arrays.keys() <= {field.name for field in fields(TeacherLogprobs)}:
        raise BadModel(
            f"{folder / _MANIFEST}: expected log_p among its files, got {sorted(files)}: {_AGAIN.format(folder)}"
        )
    return TeacherLogprobs(**arrays)
