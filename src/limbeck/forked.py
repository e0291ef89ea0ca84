"""Processes of this machine that are forked from a server, which imports torch once and has no threads.

They do not import the program's main module. A script that calls limbeck would run again in each, and one that is read from
standard input could not be found.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any


def forked(target: Callable[..., None], *args: Any, preload: str) -> tuple[Any, Connection]:
    """Starts ``target(pipe, *args)`` in a process that ends with this one; gives the process and this end of the pipe.

    ``preload`` is a module that the server imports, if this is its first process.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([preload])
    ours, theirs = context.Pipe()
    process = context.Process(target=target, args=(theirs, *args), daemon=True)
    with _without_main():
        process.start()
    theirs.close()
    return process, ours


def how_it_ended(process: Any) -> str:
    """Why a process of `forked` ended, in words: "by SIGKILL, as where memory runs out", or "with status 1"."""
    process.join(5)
    code = process.exitcode
    if code is None or code >= 0:
        return f"with status {code}"
    name = str(-code)
    with suppress(ValueError):
        name = signal.Signals(-code).name
    return f"by {name}" + (", as where memory runs out" if -code == signal.SIGKILL else "")


@contextmanager
def _without_main() -> Iterator[None]:
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
