"""Atomic writes: a file or folder is complete or absent.

Everything is written beside its place under a name that cannot be guessed, and then renamed. So readers find the old or the
new version, and a link that was put there before is never followed. Leftovers of a killed process are recognised by their
names, and the next process that holds the folder's lock removes them. Errors of the system get a remedy.
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
_LONGEST = 200  # characters of a name that its temporary name contains; file systems allow 255 bytes
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
    """Raises BadFolder with a remedy where the system cannot write ``path``. Other exceptions pass unchanged."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise _full(path) from error
        if error.errno == errno.ELOOP:
            raise is_link(path) from error
        if error.errno in _REFUSED:
            # a folder cannot be created where a file of its name exists
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
    """The error for a symbolic or hard link in the place of a file of limbeck."""
    return BadFolder(
        f"{path}: expected a file or folder of limbeck's own, got a link: it is not followed, and nothing was written to its "
        "target. Put the file or folder itself there, remove the link, or give another --out."
    )


def sync(folder: Path, *, files: bool = True) -> None:
    """Waits until a folder's entries, and with ``files`` the files in it, are on the disk and survive a power cut."""
    for path in [*(p for p in folder.iterdir() if files and p.is_file()), folder]:
        sync_file(path)


def sync_file(path: Path) -> None:
    """Waits until what this process wrote to a file, or the entries of a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name[:_LONGEST]}.{secrets.token_hex(8)}.tmp")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """An empty file beside ``path`` to write. It replaces ``path`` at the end, and is removed where writing fails.

    Raises BadFolder where the file cannot be written.
    """
    beside = _beside(path)
    with writing(path):
        try:
            descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
            usual = stat.S_IMODE(os.fstat(descriptor).st_mode)
            os.close(descriptor)
            yield beside
            if stat.S_IMODE(beside.stat().st_mode) != usual:  # safetensors creates its file readable only by the owner
                beside.chmod(usual)
            sync_file(beside)
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)


@contextmanager
def whole(path: Path) -> Iterator[TextIO]:
    """A text file to write. It replaces ``path`` at the end. Raises BadFolder where it cannot be written."""
    with replacing(path) as beside, beside.open("w", encoding="utf-8") as file:
        yield file


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically. Raises BadFolder where it cannot be written."""
    with whole(path) as file:
        file.write(text)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """An empty folder beside ``path`` to fill. It replaces ``path`` at the end. Raises BadFolder where it cannot be written."""
    beside = _beside(path)
    with writing(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            beside.mkdir()
            yield beside
            put_folder(beside, path)
        finally:
            shutil.rmtree(beside, ignore_errors=True)


def put_folder(built: Path, path: Path) -> None:
    """Puts a complete folder of the same file system in the place of another. Raises BadFolder where it cannot be written."""
    older = _beside(path)
    with writing(path):
        try:
            sync(built)
            if path.is_symlink():
                raise is_link(path)
            if path.exists():
                path.rename(older)
            built.rename(path)
            sync(path.parent, files=False)
        finally:
            shutil.rmtree(older, ignore_errors=True)


def open_in_place(path: Path) -> BinaryIO:
    """A file opened to read and write in place, created where it is missing. Raises BadFolder for a link."""
    with writing(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
            os.close(descriptor)
            raise is_link(path)
        return os.fdopen(descriptor, "r+b")


def new_file(path: Path) -> Path:
    """The path of a new, empty file, for libraries that open paths themselves. An existing file is removed.

    Raises BadFolder where it cannot be written.
    """
    with writing(path):
        path.unlink(missing_ok=True)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666))
    return path


def link_or_copy(source: Path, target: Path) -> None:
    """Hard-links a file, or all files of a folder except locks, to another place; copies them where links are impossible.

    Existing files are complete and stay. Raises BadFolder where the target cannot be written.
    """
    if source.is_dir():
        for path in source.iterdir():
            if path.name != ".lock":
                link_or_copy(path, target / path.name)
        return
    if target.exists():
        return
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = _beside(target)
        try:
            os.link(source, beside)
        except OSError:  # another disk, or a file system without links
            with replacing(target) as copy:
                shutil.copyfile(source, copy)
        else:
            beside.replace(target)


def sweep_beside(path: Path) -> None:
    """Removes leftovers of killed processes that were replacing a folder. A name that was shortened could be another's."""
    own = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{16}}\.tmp")
    for entry in path.parent.iterdir():
        if len(path.name) <= _LONGEST and own.fullmatch(entry.name) and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)


def sweep(folder: Path) -> list[Path]:
    """Removes leftovers of killed processes from a folder; returns the folders in it."""
    inside = []
    with suppress(OSError):  # leftovers that cannot be removed do no harm
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
    """Raises BadFolder where a folder contains a symbolic link, since a write would then go elsewhere."""
    for entry in list(os.scandir(folder)):
        if entry.is_symlink():
            raise is_link(Path(entry.path))
        if entry.is_dir():
            refuse_links(Path(entry.path))
