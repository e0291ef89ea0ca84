"""Checksums of files: SHA-256 in the manifest that binds them, looked at when they are opened and by `limbeck verify`.

A folder of files that other programs read (a model) has a manifest of its own beside them, ``digests.json``. A file of tensors
carries the digest of what is in it among its metadata.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypedDict

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from limbeck.disk.records import DIGEST, Bare, fits, read_json, say_unchecked, sha256_of, write_json
from limbeck.disk.whole import replacing
from limbeck.errors import BadFolder, LimbeckError

DIGESTS = "digests.json"
_CARD = "README.md"  # is written again when more is known, and decides nothing
_SAID, _EARLIER = "limbeck", ("surprises", "format")  # entries of metadata
_ON_PURPOSE = f"if you changed it on purpose, remove {DIGESTS}"


class _Digests(TypedDict):
    files: dict[str, str]


def write_digests(folder: Path) -> None:
    """Writes the manifest of a folder that is complete, of all its files but its card."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    write_json(folder / DIGESTS, {"files": sums(folder, [name for name in names if name not in (_CARD, DIGESTS)])})


def check_digests(folder: Path, *, error: type[LimbeckError], remedy: str) -> None:
    """Raises ``error`` where a file is not as the folder's manifest says; where there is none nothing is known."""
    if (folder / DIGESTS).is_file():
        files = read_json(folder / DIGESTS, _Digests, error=error, remedy=remedy)["files"]
        check_sums(folder, files, error=error, remedy=f"{remedy}; {_ON_PURPOSE}")


def sums(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """SHA-256 of files in a folder, by name, as a manifest keeps them in ``files``."""
    return {name: sha256_of(folder / name) for name in names}


def check_sums(folder: Path, files: Mapping[str, str], *, error: type[LimbeckError], remedy: str) -> None:
    """Raises ``error`` for the first file that is missing, is not as it was written, or is named by a path out of the folder."""
    for name, expected in files.items():
        path = folder / name
        fits(folder, Path(name).parts, list[Bare], error=error, remedy=remedy)
        found = sha256_of(path) if path.is_file() else None
        if found != expected:
            came = "no file" if found is None else f"{found[:12]}…"
            raise error(f"{path}: expected SHA-256 {expected[:12]}…, got {came}: it is missing or damaged: {remedy}.")


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray], **said: str) -> None:
    """Writes arrays as safetensors in one piece, with what is ``said`` and the digest of all among the metadata."""
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    with replacing(path) as beside:
        # in one entry, since safetensors writes several in any order
        save_file(arrays, beside, metadata={_SAID: json.dumps({**said, DIGEST: _digest(arrays, said)})})


class Arrays(NamedTuple):
    """What `save_arrays` was given, and the digest of it, None of a file of an earlier version."""

    arrays: dict[str, np.ndarray]
    said: dict[str, str]
    digest: str | None


def load_arrays(path: Path, axes: Mapping[str, int] | None = None, *, needs: Sequence[str] = (), remedy: str) -> Arrays:
    """Reads what `save_arrays` wrote. Raises BadFolder where it is missing, damaged, or not what is expected.

    ``axes``: by name the number of axes of each array that may be there, of float64, all of the same length along the first;
    ``needs``: those that have to be.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            said = dict(file.metadata() or {})
            if said.keys() - {_SAID, *_EARLIER}:
                raise ValueError(f"its metadata are {', '.join(said)}")
            if _SAID in said and DIGEST not in (said := json.loads(said[_SAID])):
                raise ValueError("its digest is missing")
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (OSError, SafetensorError, ValueError, TypeError, KeyError, RecursionError) as fault:
        raise BadFolder(f"{path}: expected a file of tensors that limbeck wrote ({fault}): {remedy}.") from fault
    fits(path, said, dict[str, str], remedy=remedy)
    expected = said.pop(DIGEST, None)
    if expected is None:
        say_unchecked(path)
    elif expected != _digest(arrays, said):
        raise BadFolder(f"{path}: it is not as it was written (its SHA-256 differs): {remedy}.")
    if axes is not None:
        _check_arrays(path, arrays, axes, needs, remedy)
    return Arrays(arrays, said, expected)


def _check_arrays(
    path: Path, arrays: Mapping[str, np.ndarray], axes: Mapping[str, int], needs: Sequence[str], remedy: str
) -> None:
    found = {name: f"{array.dtype} {array.shape}" for name, array in arrays.items()}
    kinds = all(array.dtype == np.float64 and array.ndim == axes.get(name) for name, array in arrays.items())
    if not kinds or set(needs) - arrays.keys() or len({len(array) for array in arrays.values()}) > 1:
        raise BadFolder(f"{path}: expected float64 arrays {', '.join(needs)}, got {found}: {remedy}.")


def _digest(arrays: Mapping[str, np.ndarray], said: Mapping[str, str]) -> str:
    total = hashlib.sha256(repr(sorted(said.items())).encode())
    for name, array in sorted(arrays.items()):
        total.update(f"{name} {array.dtype} {array.shape}\n".encode())
        total.update(np.ascontiguousarray(array).data)
    return f"sha256:{total.hexdigest()}"
