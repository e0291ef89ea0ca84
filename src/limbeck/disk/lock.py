"""Locks: one process at a time writes into a folder.

The lock is the system's own (flock) on a file ``.lock``, so it ends with its process, even when that is killed. The file names
the process, and is removed with the lock. On a file system without locks a warning is printed and the work continues: a lock
only keeps two commands from doing the same work, and no result depends on it. Leftovers of other processes then stay.
"""

from __future__ import annotations

import atexit
import datetime
import errno
import fcntl
import functools
import json
import os
import re
import socket
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from limbeck.disk.whole import is_link, sweep, sweep_beside, writing
from limbeck.errors import BadFolder

LOCK = ".lock"
_NONE_HERE = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS}


@dataclass
class _Held:
    descriptor: int | None  # None where the file system has no locks
    thread: int
    times: int = 1


_held: dict[Path, _Held] = {}  # by the lock's real path
_changing = threading.Lock()
_process = os.getpid()


@contextmanager
def locked(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Locks a folder for this thread of this process, and creates it where it is missing.

    Raises BadFolder where another process holds the lock; with ``wait`` it waits for that one's end instead.
    """
    take(folder, wait=wait)
    try:
        yield
    finally:
        release(folder)


@contextmanager
def claims() -> Iterator[None]:
    """Releases at the end all locks that were taken meanwhile. It also decorates functions."""
    before = {path: held.times for path, held in _held.items()}
    try:
        yield
    finally:
        for path, held in list(_held.items()):
            if held.thread == threading.get_ident():
                for _ in range(held.times - before.get(path, 0)):
                    _release(path)


def take(folder: Path, *, wait: bool = False) -> None:
    """Locks a folder until `release`, the end of `claims`, or the end of the process. A missing folder is created.

    Raises BadFolder where another process holds the lock (with ``wait`` it waits), or the folder cannot be written.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        path = folder.resolve() / LOCK
        with _changing:
            held = _held.get(path)
            if held is not None and held.thread == threading.get_ident():
                held.times += 1
                return
        descriptor = _locked(path, wait=wait)
    with _changing:
        _held[path] = _Held(descriptor, threading.get_ident())


def remove_leftovers(folder: Path) -> None:
    """Removes leftovers of killed processes from a locked folder. Without locks of the file system nothing is removed."""
    held = _held.get(folder.resolve() / LOCK)
    if held is not None and held.descriptor is not None:
        _tidy(folder)


def remove_beside(folder: Path) -> None:
    """Removes what killed processes left beside a locked folder that they were replacing. Without locks nothing is removed."""
    held = _held.get(folder.resolve() / LOCK)
    if held is not None and held.descriptor is not None:
        sweep_beside(folder.resolve())


def _tidy(folder: Path) -> None:
    for inside in sweep(folder):
        if not os.path.lexists(inside / LOCK):
            _tidy(inside)
            continue
        with suppress(BadFolder), locked(inside):  # unless another process writes there
            _tidy(inside)


def release(folder: Path) -> None:
    """Undoes one `take` of a folder. The lock ends when every `take` is undone."""
    _release(folder.resolve() / LOCK)


@atexit.register
def _release_all() -> None:
    if os.getpid() == _process:  # a forked process has a copy of its parent's locks
        for path in list(_held):
            _held[path].times = 1
            _release(path)


def _release(path: Path) -> None:
    with _changing:
        held = _held[path]
        held.times -= 1
        if held.times:
            return
        del _held[path]
    if held.descriptor is not None:
        if _is_at(path, held.descriptor):
            path.unlink(missing_ok=True)
        os.close(held.descriptor)


def _locked(path: Path, *, wait: bool) -> int | None:
    """The descriptor of the lock once this process holds it; None where the file system has no locks."""
    while True:
        descriptor = _opened(path)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            message = _busy(path, descriptor)
            os.close(descriptor)
            raise BadFolder(message) from None
        except OSError as error:
            os.close(descriptor)
            if error.errno not in _NONE_HERE:
                raise
            _warn(path.parent, error.strerror or str(error))
            return None
        if _is_at(path, descriptor):
            _sign(descriptor)
            return descriptor
        os.close(descriptor)  # its holder removed it meanwhile


def _opened(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:  # it will be written to
        os.close(descriptor)
        raise is_link(path)
    return descriptor


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        there = path.lstat()
    except OSError:
        return False
    ours = os.fstat(descriptor)
    return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)


def _sign(descriptor: int) -> None:
    since = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    who = {"pid": os.getpid(), "host": socket.gethostname(), "since": since}
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(who).encode() + b"\n", 0)


def _busy(path: Path, descriptor: int) -> str:
    """The message about the process that holds a lock, with what the lock file states of it."""
    try:
        who = json.loads(os.pread(descriptor, 4096, 0))
        holder = ", ".join(
            f"{name} {value}"
            for name, value in ((name, str(who[name])) for name in ("pid", "host", "since"))
            if re.fullmatch(r"[\w.:+-]{1,255}", value, re.ASCII)
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        holder = ""
    return (
        f"{path.parent}: another limbeck process{f' ({holder})' if holder else ''} is writing to it: nothing was done. Wait for "
        "its end, or give another --out."
    )


@functools.cache
def _warn(folder: Path, reason: str) -> None:
    print(
        f"limbeck: warning: the file system of {folder} has no locks ({reason}): do not start a second limbeck in this folder",
        file=sys.stderr,
    )
