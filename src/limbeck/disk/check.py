"""Compares all files of a folder with their checksums, as `limbeck verify` does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from limbeck.disk.crcs import damaged_row, sums_of
from limbeck.disk.digests import check_sums, load_arrays
from limbeck.disk.lock import LOCK
from limbeck.disk.records import DIGEST, Lines, digest_of, is_signed, parsed
from limbeck.errors import BadFolder, LimbeckError

_REMEDY = "copy it again, or run its command again without it"
_HOW: dict[str, Any] = {"error": BadFolder, "remedy": _REMEDY}


@dataclass
class FolderCheck:
    """The result of a check: undamaged files, damaged files with a message each, and files without a checksum."""

    good: set[Path] = field(default_factory=set)
    damaged: dict[Path, str] = field(default_factory=dict)
    unknown: list[Path] = field(default_factory=list)


def check_folder(folder: Path) -> FolderCheck:
    """Compares all files in a folder with their checksums. Raises BadFolder where there is no such folder."""
    if not folder.is_dir():
        raise BadFolder(f"{folder}: expected a folder that limbeck wrote, found none; check the path")
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != LOCK]
    found = FolderCheck()
    for path in files:
        if path.suffix == ".json" and path not in found.good:
            _try(_manifest, path, found)
    for path in files:
        if path not in found.good and path not in found.damaged:
            _try(_alone, path, found)
    found.unknown = [path for path in files if path not in found.good and path not in found.damaged]
    return found


def require_undamaged(folder: Path, *, error: type[LimbeckError] = BadFolder) -> None:
    """Raises ``error`` for the first damaged file in a folder, and BadFolder where there is no such folder."""
    for message in check_folder(folder).damaged.values():
        raise error(message)


def _try(look: Any, path: Path, found: FolderCheck) -> None:
    try:
        look(path, found)
    except LimbeckError as error:
        found.damaged[path] = str(error)


def _manifest(path: Path, found: FolderCheck) -> None:
    """Checks a manifest, and the files whose checksums it holds."""
    value = parsed(path, path.read_bytes(), **_HOW)
    if not isinstance(value, dict):
        return
    if is_signed(value):
        if value.get(DIGEST) != digest_of(value):
            raise BadFolder(f"{path}: its SHA-256 differs: {_REMEDY}.")
        found.good.add(path)
    for name, expected in _named(path.parent, value):
        file = path.parent / name
        try:
            check_sums(path.parent, {name: expected}, **_HOW)
            found.good.add(file)
        except LimbeckError as error:
            found.damaged[file] = str(error)


def _named(folder: Path, value: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(file, SHA-256) of the files that a manifest names in ``files``, in ``shards``, or in ``sha256`` (earlier versions)."""
    for key in ("files", "sha256"):
        if isinstance(sums := value.get(key), dict):
            for name, expected in sums.items():
                there = name if (folder / name).is_file() or key == "files" else f"{name}.npy"
                yield there, str(expected)
    shards = value.get("shards")
    for shard in shards if isinstance(shards, list) else ():
        if isinstance(shard, dict) and isinstance(shard.get("file"), str) and "sha256" in shard:
            yield shard["file"], str(shard["sha256"])


def _alone(path: Path, found: FolderCheck) -> None:
    """Checks a file with checksums inside it or beside it."""
    if sums_of(path).exists():
        if (bad := damaged_row(path)) is not None:
            raise BadFolder(f"{path}: row {bad:,} is damaged (its CRC-32 differs): {_REMEDY}.")
        found.good |= {path, sums_of(path)}
    elif path.suffix == ".safetensors":
        if load_arrays(path, remedy=_REMEDY).digest:
            found.good.add(path)
    elif path.suffix in (".jsonl", ".part"):
        lines = Lines(path, dict[str, Any], **_HOW)
        with path.open("rb") as file:
            for _ in lines.rows(file):
                pass
        if lines.checked:
            found.good.add(path)
