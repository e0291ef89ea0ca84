"""Runs tasks in processes of this machine.

A worker that dies is replaced, and its task continues. Three deaths in one task are an error. A worker whose parent dies ends
too, so that nothing continues unseen.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

import psutil

from limbeck.errors import Interrupted, OutOfMemory
from limbeck.forked import forked, how_it_ended
from limbeck.jobs.common.task import DEATHS, Task, attempt, require_done

Report = Callable[[Any, float], None]


@dataclass
class _Worker:
    process: Any
    pipe: Connection
    task: Task | None = None
    since: float = 0.0

    @classmethod
    def start(cls) -> _Worker:
        return cls(*forked(_serve, os.getpid(), preload="limbeck.jobs.pilot.tasks"))

    def give(self, task: Task) -> None:
        self.task, self.since = task, time.monotonic()
        self.pipe.send(task)


def run_here(tasks: Sequence[Task], workers: int, report: Report) -> None:
    """Runs all unfinished tasks in ``workers`` processes of one thread each.

    Raises BadSetting for an error that the user can correct, OutOfMemory if the process of a task dies repeatedly, and
    RuntimeError if a task fails.
    """
    waiting = [task for task in tasks if not task.done]
    deaths: Counter[Task] = Counter()
    staff = [_Worker.start() for _ in range(min(workers, len(waiting)))]
    try:
        while waiting or any(worker.task for worker in staff):
            for worker in staff:
                if worker.task is None and (task := next((t for t in waiting if t.ready), None)):
                    waiting.remove(task)
                    worker.give(task)
            pipes: list[Any] = [worker.pipe for worker in staff if worker.task]
            for pipe in wait(pipes):
                worker = next(w for w in staff if w.pipe is pipe)
                assert worker.task is not None
                try:
                    kind, message = worker.pipe.recv()
                except (EOFError, ConnectionResetError):
                    deaths[worker.task] += 1
                    if deaths[worker.task] == DEATHS:
                        raise OutOfMemory(
                            f"{worker.task.kind} {worker.task.name}: its process was ended {DEATHS} times, the last time "
                            f"{how_it_ended(worker.process)}. What is finished is kept in {worker.task.folder.parent}: run the "
                            "same command again, with fewer --workers"
                        ) from None
                    waiting.insert(0, worker.task)
                    staff[staff.index(worker)] = _Worker.start()
                    continue
                require_done(worker.task, kind, message)
                report(worker.task, time.monotonic() - worker.since)
                worker.task = None
    finally:
        for worker in staff:
            worker.process.terminate()  # a training saves its step first
        for worker in staff:
            worker.process.join(30)


def _serve(pipe: Connection, parent: int) -> None:
    """The loop of a worker until its pipe closes."""
    from limbeck.run.log import console

    console.quiet = True
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    while True:
        try:
            pipe.send(attempt(pipe.recv()))
        except (EOFError, Interrupted, KeyboardInterrupt):
            return


def _end_with(parent: int) -> None:
    while psutil.pid_exists(parent) and psutil.Process(parent).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.5)
    os._exit(1)
