"""Files that are whole or not there: text, JSON, JSON lines.

Everything is written beside its place and renamed, so that whoever reads finds the old or the new. What the system says when
nothing can be written becomes an error with the remedy.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from safetensors import SafetensorError

from limbeck.errors import BadFolder

_LONGEST_SHOWN = 200  # characters of a name in a message
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def existing(name: str | Path) -> Path | None:
    """The file or folder that a user's name stands for, ~ expanded; None where nothing is there, or no file can be called so.

    A name may be anything a user pasted: a list of files, a hub id, a text too long for a name. Raises BadFolder where it is
    not allowed to look.
    """
    if not str(name):
        return None
    try:
        path = Path(name).expanduser()
        path.stat()
    except PermissionError as error:
        raise BadFolder(f"{name}: {error.strerror}: let this user read it, or name another") from error
    except (OSError, ValueError, RuntimeError):  # not there, too long, a NUL in it, the home of nobody
        return None
    return path


def shown(name: str | Path) -> str:
    """A name as a message has it: of a very long one its beginning."""
    text = str(name)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}… ({len(text):,} characters)"


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns the system's word that nothing more can be written to ``path`` into an error with the remedy."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise _full(path) from error
        if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENOENT, errno.EEXIST}:
            raise BadFolder(
                f"cannot write {path}: {error.strerror}. Give a folder you may write to with --out."
            ) from error
        raise
    except SafetensorError as error:
        if any(f"os error {code}" in str(error) for code in _FULL):
            raise _full(path) from error
        raise


def _full(path: Path) -> BadFolder:
    return BadFolder(
        f"the disk is full: {path} could not be written. What was saved before is intact: free some space "
        "and run the same command again to continue."
    )


def sync(folder: Path, *, files: bool = True) -> None:
    """Waits until a folder's entries, and with ``files`` the files in it, are on the disk: a power cut keeps them."""
    for path in [*(p for p in folder.iterdir() if files and p.is_file()), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Writes a file in one piece, or not at all."""
    with whole(path) as file:
        file.write(text)


@contextmanager
def whole(path: Path) -> Iterator[TextIO]:
    """A file to write, which takes its place once all is written."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with writing(path):
        try:
            with beside.open("w", encoding="utf-8") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)


def place(source: Path, target: Path) -> None:
    """A file, or all of a folder but its locks, at another place too: linked, or copied where links are not to be had.

    What is there already is whole, and stays.
    """
    if source.is_dir():
        for path in source.iterdir():
            if path.name != ".lock":
                place(path, target / path.name)
        return
    if target.exists():
        return
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            os.link(source, beside)
        except OSError:  # another disk, or one without links
            shutil.copy2(source, beside)
        beside.replace(target)


@contextmanager
def locked(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """No other process is in this folder's lock meanwhile. Raises BlockingIOError where one is, and we do not ``wait``."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def write_json(path: Path, value: Any) -> None:
    """Writes JSON in one piece, or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def finite(value: Any) -> Any:
    """The same for JSON: tuples as lists, and null for what is infinite or no number."""
    if isinstance(value, Mapping):
        return {name: finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: Path) -> Any:
    """What `write_json` wrote."""
    return json.loads(path.read_text(encoding="utf-8"))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON-lines file, without a last line that a kill cut short; none where there is no file.

    Raises BadFolder where another line is no JSON.
    """
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            if number == len(lines):
                break
            raise damaged(path, error, f", line {number}") from error
    return rows


def damaged(path: Path, error: ValueError, where: str = "") -> BadFolder:
    """What to say of a file of a run's that is no JSON."""
    return BadFolder(
        f"{path}{where}: expected JSON as limbeck wrote it ({error}). The file was changed or damaged: run the command "
        "of the run again, or take the file away to have the report without it."
    )


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
