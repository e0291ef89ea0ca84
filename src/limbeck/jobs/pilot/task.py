"""A task: a piece of work in a folder of its own, which is done when its result is there.

Trainings of pilots and of papers are tasks. `jobs.pilot.workers` spreads them over processes or machines, which need nothing but
the task: a stopped one is done again, and continues from what its folder holds.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limbeck.disk import locked, remove_leftovers, write_json
from limbeck.run.save import checkpoints

RESULT = "result.json"


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


def drop_checkpoints(tasks: Iterable[Task]) -> None:
    """Removes the checkpoints of tasks that are done."""
    for task in tasks:
        if task.done:
            for checkpoint in checkpoints(task.folder):
                shutil.rmtree(checkpoint, ignore_errors=True)
