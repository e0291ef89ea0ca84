"""Runs tasks in processes of this machine, or on a Ray cluster.

A worker that dies is replaced, and its task continues. Three deaths in one task are an error. A worker whose parent dies ends
too, so that nothing continues unseen.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

import psutil

from limbeck.errors import BadSetting, Interrupted, LimbeckError
from limbeck.jobs.pilot.task import Task, do

# Torch is imported once, in a server that has no threads yet and from which all workers are forked.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["limbeck.jobs.pilot.tasks"])
_DEATHS = 3

Report = Callable[[Any, float], None]


@dataclass
class _Worker:
    process: Any
    pipe: Connection
    task: Task | None = None
    since: float = 0.0

    @classmethod
    def start(cls) -> _Worker:
        ours, theirs = _CONTEXT.Pipe()
        process = _CONTEXT.Process(target=_serve, args=(theirs, os.getpid()), daemon=True)
        process.start()
        theirs.close()
        return cls(process, ours)

    def give(self, task: Task) -> None:
        self.task, self.since = task, time.monotonic()
        self.pipe.send(task)


def run_here(tasks: Sequence[Task], workers: int, report: Report) -> None:
    """Runs all unfinished tasks in ``workers`` processes of one thread each.

    Raises BadSetting for an error that the user can correct, and RuntimeError if a task fails or its process dies repeatedly.
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
                    if deaths[worker.task] == _DEATHS:
                        raise RuntimeError(f"{worker.task.folder}: its process died {_DEATHS} times") from None
                    waiting.insert(0, worker.task)
                    staff[staff.index(worker)] = _Worker.start()
                    continue
                _raise(kind, message, worker.task)
                report(worker.task, time.monotonic() - worker.since)
                worker.task = None
    finally:
        for worker in staff:
            worker.process.terminate()  # a training saves its step first
        for worker in staff:
            worker.process.join(30)


def _raise(kind: str, message: str, task: Task) -> None:
    if kind == "refused":
        raise BadSetting(f"{task.kind} {task.name}: {message}")
    if kind == "fault":
        raise RuntimeError(f"{task.kind} {task.name} failed in its process:\n{message}")


def _serve(pipe: Connection, parent: int) -> None:
    """The loop of a worker until its pipe closes."""
    from limbeck.run.log import console

    console.quiet = True
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    while True:
        try:
            pipe.send(_done(pipe.recv()))
        except (EOFError, Interrupted, KeyboardInterrupt):
            return


def _done(task: Task) -> tuple[str, str]:
    """Runs a task in this process, on one thread; sends "done", "refused" with the message, or "fault" with the traceback."""
    import torch

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        do(task)
    except LimbeckError as error:
        return "refused", str(error)
    except Exception:
        return "fault", traceback.format_exc()
    return "done", ""


def _end_with(parent: int) -> None:
    while psutil.pid_exists(parent) and psutil.Process(parent).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.5)
    os._exit(1)


def run_on_ray(tasks: Sequence[Task], address: str, report: Report) -> None:
    """Runs all unfinished tasks on a Ray cluster, one core each, with a GPU if there is one.

    The pilot's folder must be on a disk that all machines share. Raises BadSetting if ray is not installed, or no cluster
    responds.
    """
    try:
        import ray  # an extra
    except ImportError as error:
        raise BadSetting("--ray needs the extra: pip install 'limbeck[ray]'") from error
    try:
        ray.init(address=address, logging_level="ERROR", log_to_driver=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise BadSetting(
            f"--ray {address}: no Ray cluster answers there ({error}). Start one: ray start --head"
        ) from error
    gpus = 1 if ray.cluster_resources().get("GPU") else 0
    remote = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=_DEATHS - 1)(_done)
    waiting = [task for task in tasks if not task.done]
    running: dict[Any, tuple[Task, float]] = {}
    try:
        while waiting or running:
            for task in [task for task in waiting if task.ready]:
                waiting.remove(task)
                running[remote.remote(task)] = (task, time.monotonic())
            finished, _ = ray.wait(list(running), num_returns=1)
            for reference in finished:
                task, since = running.pop(reference)
                kind, message = ray.get(reference)
                _raise(kind, message, task)
                report(task, time.monotonic() - since)
    finally:
        ray.shutdown()
