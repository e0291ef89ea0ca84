"""Checksums of files: SHA-256 in a manifest, compared when the files are opened and by `limbeck verify`.

A folder that other programs read (a model) has its own manifest, ``digests.json``. A file of tensors contains the digest of
its content in its metadata.
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

from limbeck.disk.records import DIGEST, Bare, read_json, require_type, sha256_of, warn_unchecked, write_json
from limbeck.disk.whole import replacing
from limbeck.errors import BadFolder, LimbeckError

DIGESTS = "digests.json"
_CARD = "README.md"  # it is rewritten when more is known, and no result depends on it
_METADATA, _EARLIER = "limbeck", ("surprises", "format")  # keys of a file's metadata; the latter of earlier versions
_ON_PURPOSE = f"if you changed it on purpose, remove {DIGESTS}"


class _Digests(TypedDict):
    files: dict[str, str]


def write_digests(folder: Path) -> None:
    """Writes the manifest of a complete folder: SHA-256 of all its files except README.md."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    write_json(folder / DIGESTS, {"files": sums(folder, [name for name in names if name not in (_CARD, DIGESTS)])})


def check_digests(folder: Path, *, error: type[LimbeckError], remedy: str) -> None:
    """Raises ``error`` where a file differs from the folder's manifest. A folder without a manifest passes."""
    if (folder / DIGESTS).is_file():
        files = read_json(folder / DIGESTS, _Digests, error=error, remedy=remedy)["files"]
        check_sums(folder, files, error=error, remedy=f"{remedy}; {_ON_PURPOSE}")


def sums(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """SHA-256 of files in a folder by name, as a manifest holds them under ``files``."""
    return {name: sha256_of(folder / name) for name in names}


def check_sums(folder: Path, files: Mapping[str, str], *, error: type[LimbeckError], remedy: str) -> None:
    """Raises ``error`` for the first file that is missing, damaged, or named by a path that leaves the folder."""
    for name, expected in files.items():
        path = folder / name
        require_type(folder, Path(name).parts, list[Bare], error=error, remedy=remedy)
        found = sha256_of(path) if path.is_file() else None
        if found != expected:
            came = "no file" if found is None else f"{found[:12]}…"
            raise error(f"{path}: expected SHA-256 {expected[:12]}…, got {came}: it is missing or damaged: {remedy}.")


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray], **facts: str) -> None:
    """Writes arrays atomically as safetensors, with the given ``facts`` and a digest of everything in the metadata.

    Raises BadFolder where the file cannot be written.
    """
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    with replacing(path) as beside:
        # one entry, because safetensors writes several in random order
        save_file(arrays, beside, metadata={_METADATA: json.dumps({**facts, DIGEST: _digest(arrays, facts)})})


class Arrays(NamedTuple):
    """The arguments of `save_arrays`, and their digest, which is None for a file of an earlier version."""

    arrays: dict[str, np.ndarray]
    facts: dict[str, str]
    digest: str | None


def load_arrays(path: Path, axes: Mapping[str, int] | None = None, *, needs: Sequence[str] = (), remedy: str) -> Arrays:
    """Reads a file of `save_arrays`.

    With ``axes`` (number of axes by name) only these arrays are allowed. They must be float64 and equally long along their
    first axis; those in ``needs`` must exist.

    Raises BadFolder where the file is missing, damaged, or has other arrays.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            facts = dict(file.metadata() or {})
            if facts.keys() - {_METADATA, *_EARLIER}:
                raise ValueError(f"its metadata are {', '.join(facts)}")
            if _METADATA in facts and DIGEST not in (facts := json.loads(facts[_METADATA])):
                raise ValueError("its digest is missing")
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (OSError, SafetensorError, ValueError, TypeError, KeyError, RecursionError) as fault:
        raise BadFolder(f"{path}: expected a file of tensors that limbeck wrote ({fault}): {remedy}.") from fault
    require_type(path, facts, dict[str, str], remedy=remedy)
    expected = facts.pop(DIGEST, None)
    if expected is None:
        warn_unchecked(path)
    elif expected != _digest(arrays, facts):
        raise BadFolder(f"{path}: the file is damaged (its SHA-256 differs): {remedy}.")
    if axes is not None:
        _check_arrays(path, arrays, axes, needs, remedy)
    return Arrays(arrays, facts, expected)


def _check_arrays(
    path: Path, arrays: Mapping[str, np.ndarray], axes: Mapping[str, int], needs: Sequence[str], remedy: str
) -> None:
    found = {name: f"{array.dtype} {array.shape}" for name, array in arrays.items()}
    kinds = all(array.dtype == np.float64 and array.ndim == axes.get(name) for name, array in arrays.items())
    if not kinds or set(needs) - arrays.keys() or len({len(array) for array in arrays.values()}) > 1:
        raise BadFolder(f"{path}: expected float64 arrays {', '.join(needs)}, got {found}: {remedy}.")


def _digest(arrays: Mapping[str, np.ndarray], facts: Mapping[str, str]) -> str:
    total = hashlib.sha256(repr(sorted(facts.items())).encode())
    for name, array in sorted(arrays.items()):
        total.update(f"{name} {array.dtype} {array.shape}\n".encode())
        total.update(np.ascontiguousarray(array).data)
    return f"sha256:{total.hexdigest()}"
