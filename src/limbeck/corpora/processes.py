"""Tokenises blocks of documents in several processes, in the order in which they come.

Block k goes to process k modulo their number, which has one block at a time. So the order does not depend on their speed, and as
many blocks are in memory as there are processes.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Generic, TypeVar

from limbeck.corpora.document import Document
from limbeck.corpora.draws import Draw
from limbeck.corpora.source import Part
from limbeck.corpora.tokenised import How, Tokenised, tokenised
from limbeck.errors import OutOfMemory
from limbeck.forked import forked, how_it_ended

WORTH_IT = 256 << 20  # bytes of text for which processes are started; each takes seconds to begin

Block = TypeVar("Block")


@dataclass(frozen=True)
class Work(Generic[Block]):
    """Documents of one draw, by its number, and the ``block`` that they are of."""

    block: Block
    draw: int
    documents: Sequence[Document]


Tokenise = Callable[[Iterable[Work[Block]]], Generator[tuple[Block, Tokenised]]]


def processes_for(parts: Sequence[Part]) -> int:
    """How many processes tokenise these parts: one a core for much text, or for a dataset that is streamed, else one."""
    unknown = any(part.streamed and part.least is None for part in parts)
    enough = unknown or sum(part.least or 0 for part in parts) >= WORTH_IT
    return _cores() if enough else 1


def _cores() -> int:
    """Cores that this process may use; all of the machine where the system does not say which."""
    given = getattr(os, "sched_getaffinity", None)
    return len(given(0)) if given else os.cpu_count() or 1


@contextmanager
def tokenising(how: How, draws: Sequence[Draw], processes: int) -> Iterator[Tokenise[Any]]:
    """A function that gives each block with its tokens, in order. With one process all is computed in this one.

    It raises OutOfMemory where a process was ended from outside.
    """
    if processes == 1:
        yield lambda work: ((one.block, tokenised(one.documents, draws[one.draw], how)) for one in work)
        return
    workers = [_Worker.start(how, draws) for _ in range(processes)]
    try:
        yield lambda work: _in_order(work, workers)
    finally:
        for worker in workers:
            worker.pipe.close()
            worker.process.terminate()
        for worker in workers:
            worker.process.join()


def _in_order(work: Iterable[Work[Block]], workers: Sequence[_Worker]) -> Generator[tuple[Block, Tokenised]]:
    held: list[tuple[Block, _Worker]] = []  # what is being tokenised, the oldest first
    try:
        for number, one in enumerate(work):
            if len(held) == len(workers):
                block, worker = held.pop(0)
                yield block, worker.done()
            worker = workers[number % len(workers)]
            worker.give(one)
            held.append((one.block, worker))
        while held:
            block, worker = held.pop(0)
            yield block, worker.done()
    except GeneratorExit:
        for _, worker in held:  # what nobody waits for any more
            worker.done()
        raise


@dataclass(frozen=True)
class _Worker:
    process: Any
    pipe: Connection

    @classmethod
    def start(cls, how: How, draws: Sequence[Draw]) -> _Worker:
        return cls(*forked(_serve, how, draws, preload=__name__))

    def give(self, work: Work[Any]) -> None:
        with self._alive():
            self.pipe.send((work.draw, work.documents))

    def done(self) -> Tokenised:
        with self._alive():
            found = self.pipe.recv()
        if isinstance(found, BaseException):
            raise found
        assert isinstance(found, Tokenised)
        return found

    @contextmanager
    def _alive(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, ConnectionError):
            raise OutOfMemory(
                f"a process that tokenises was ended {how_it_ended(self.process)}. What was tokenised is kept: run the same "
                "command again, with fewer --text-processes"
            ) from None


def _serve(pipe: Connection, how: How, draws: Sequence[Draw]) -> None:
    """The loop of a process until its pipe closes."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that reads ends this one
    while True:
        try:
            draw, documents = pipe.recv()
        except (EOFError, ConnectionError):
            return
        try:
            done: Tokenised | Exception = tokenised(documents, draws[draw], how)
        except Exception as error:  # it is raised in the process that gave the block
            done = error
        try:
            pipe.send(done)
        except ConnectionError:  # the process that reads was ended
            return
