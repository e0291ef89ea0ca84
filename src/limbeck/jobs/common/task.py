"""A task: a piece of work in a folder of its own, which is done when its result is there.

Trainings of pilots and of papers and parts of a capture are tasks. `jobs.pilot.workers` spreads them over processes,
`jobs.common.cluster` over machines, which need nothing but the task: a stopped one is done again, and continues from what its
folder holds.
"""

from __future__ import annotations

import os
import shutil
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from limbeck.disk import locked, remove_leftovers, write_json
from limbeck.errors import BadSetting, LimbeckError
from limbeck.run.save import checkpoints

RESULT = "result.json"
DEATHS = 3  # of processes with one task, after which it is an error

DONE, REFUSED, FAULT = "done", "refused", "fault"


@dataclass(frozen=True)
class Task:
    """A task with its ``kind`` and ``name``, which name it in messages.

    ``work`` does it and gives its result, as JSON; it must be possible to send it to a process. ``needs``: folders of the tasks
    whose results must be there before.
    """

    folder: Path
    kind: str
    name: str
    work: Callable[[], dict[str, Any]]
    needs: tuple[Path, ...] = ()

    @property
    def done(self) -> bool:
        """Whether its result is there."""
        return (self.folder / RESULT).is_file()

    @property
    def ready(self) -> bool:
        """Whether the tasks that it needs are done."""
        return all((folder / RESULT).is_file() for folder in self.needs)


def do(task: Task) -> None:
    """Does a task, unless it is done; writes its result with the CPU seconds that it took, and removes its checkpoints."""
    with locked(task.folder, wait=True):  # one whose parent was killed may take a moment to notice
        remove_leftovers(task.folder)
        if task.done:
            return
        started = time.process_time()
        result = task.work()
        write_json(task.folder / RESULT, result | {"cpu_seconds": round(time.process_time() - started, 2)})
        drop_checkpoints([task])


def attempt(task: Task, *, threads: int = 1) -> tuple[str, str]:
    """`do` in a worker, whose errors are sent: (DONE, ""), (REFUSED, the message) or (FAULT, the traceback)."""
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        do(task)
    except LimbeckError as error:
        return REFUSED, str(error)
    except Exception:
        return FAULT, traceback.format_exc()
    return DONE, ""


def require_done(task: Task, kind: str, message: str) -> None:
    """Raises what `attempt` sent: BadSetting for an error that the user can correct, RuntimeError for another."""
    if kind == REFUSED:
        raise BadSetting(f"{task.kind} {task.name}: {message}")
    if kind == FAULT:
        raise RuntimeError(f"{task.kind} {task.name} failed in its process:\n{message}")


def drop_checkpoints(tasks: Iterable[Task]) -> None:
    """Removes the checkpoints of tasks that are done."""
    for task in tasks:
        if task.done:
            for checkpoint in checkpoints(task.folder):
                shutil.rmtree(checkpoint, ignore_errors=True)
