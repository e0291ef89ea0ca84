"""Files and folders that are whole or not there.

Everything is written beside its place under a name that nobody can guess, and renamed, so that whoever reads finds the old or
the new, and a link that was put there before is never followed. What a killed process leaves beside is told by its name, and
removed by the next that holds the folder's lock. What the system reports when nothing can be written becomes an error with the
remedy.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TextIO

from safetensors import SafetensorError

from limbeck.errors import BadFolder

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED = {getattr(errno, name) for name in ("EACCES", "EPERM", "EROFS", "ENOTDIR", "EISDIR", "ENOENT", "EEXIST")}
_LONGEST = 200  # characters of a name that a temporary one keeps: file systems allow 255 bytes
_TEMPORARY = re.compile(
    r"\..+\.[0-9a-f]{16}\.tmp"  # ours
    r"|\.tmp[0-9A-Za-z]{6}"  # of safetensors
    # of earlier versions
    r"|\..+\.(json|jsonl|html|md|safetensors)\.\d+|\.step-\d+\.\d+|\..+\.(partial|older)-\d+|\..+\.(partial|building)"
    r"|\.building|\.tokenizer|\.(student|cut|base)|\.partial\.npy|\.answers-\d+\.arrow"
    r"|\.(slices-|recall-)?[\w.+@-]+-seed\d+\.safetensors|\.teacher\.safetensors"
)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns what the system reports when ``path`` cannot be written into an error with the remedy."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise _full(path) from error
        if error.errno == errno.ELOOP:
            raise is_link(path) from error
        if error.errno in _REFUSED:
            # a folder that cannot be made since something is there: that is a file
            reason = os.strerror(errno.ENOTDIR) if error.errno == errno.EEXIST else error.strerror
            raise BadFolder(f"cannot write {path}: {reason}. Give a folder you may write to with --out.") from error
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


def is_link(path: Path) -> BadFolder:
    """The refusal to write through a link, symbolic or hard, that stands where a file of limbeck's belongs."""
    return BadFolder(
        f"{path}: expected a file or folder of limbeck's own, got a link: it is not followed, and nothing was written to what "
        "it points to. Put the file or folder itself there, remove the link, or give another --out."
    )


def sync(folder: Path, *, files: bool = True) -> None:
    """Waits until a folder's entries, and with ``files`` the files in it, are on the disk: a power cut keeps them."""
    for path in [*(p for p in folder.iterdir() if files and p.is_file()), folder]:
        _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name[:_LONGEST]}.{secrets.token_hex(8)}.tmp")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """An empty file beside ``path`` to write, which takes its place once all is written; nothing stays of one that fails."""
    beside = _beside(path)
    with writing(path):
        try:
            descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
            usual = stat.S_IMODE(os.fstat(descriptor).st_mode)
            os.close(descriptor)
            yield beside
            if stat.S_IMODE(beside.stat().st_mode) != usual:  # safetensors makes a file of its own, for its owner alone
                beside.chmod(usual)
            _sync(beside)
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)


@contextmanager
def whole(path: Path) -> Iterator[TextIO]:
    """A text file to write, which takes its place once all is written."""
    with replacing(path) as beside, beside.open("w", encoding="utf-8") as file:
        yield file


def write_text(path: Path, text: str) -> None:
    """Writes a text file in one piece, or not at all."""
    with whole(path) as file:
        file.write(text)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """An empty folder beside ``path`` to fill, which takes its place once all is in it. An older one is replaced."""
    beside, older = _beside(path), _beside(path)
    with writing(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            beside.mkdir()
            yield beside
            sync(beside)
            if path.is_symlink():
                raise is_link(path)
            if path.exists():
                path.rename(older)
            beside.rename(path)
            sync(path.parent, files=False)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
            shutil.rmtree(older, ignore_errors=True)


def own_file(path: Path) -> BinaryIO:
    """A file to read and to write on in place, made where it is missing. Raises BadFolder where a link is there instead."""
    with writing(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
            os.close(descriptor)
            raise is_link(path)
        return os.fdopen(descriptor, "r+b")


def fresh_file(path: Path) -> Path:
    """The path of a new, empty file, for what writes to a path of its own accord; what was there is gone."""
    with writing(path):
        path.unlink(missing_ok=True)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666))
    return path


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
        beside = _beside(target)
        try:
            os.link(source, beside)
        except OSError:  # another disk, or one without links
            with replacing(target) as copy:
                shutil.copyfile(source, copy)
        else:
            beside.replace(target)


def sweep(folder: Path) -> list[Path]:
    """Removes what killed processes left beside its place in a folder; gives the folders in it."""
    inside = []
    with suppress(OSError):  # what cannot be removed is in nobody's way
        for entry in list(os.scandir(folder)):
            is_folder = entry.is_dir(follow_symlinks=False)
            if not _TEMPORARY.fullmatch(entry.name):
                inside += [Path(entry.path)] if is_folder else []
            elif is_folder:
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                with suppress(OSError):
                    os.unlink(entry.path)
    return inside


def refuse_links(folder: Path) -> None:
    """Raises BadFolder where a symbolic link is inside a folder: who writes into it would write elsewhere."""
    for entry in list(os.scandir(folder)):
        if entry.is_symlink():
            raise is_link(Path(entry.path))
        if entry.is_dir():
            refuse_links(Path(entry.path))
