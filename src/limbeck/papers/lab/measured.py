"""Measurements of a recipe as work for processes: each gives one array, which is kept with its checksum."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from limbeck.disk import replacing, sums
from limbeck.jobs.common.task import Task
from limbeck.jobs.pilot.tasks import result_of
from limbeck.jobs.pilot.workers import run_here
from limbeck.papers.lab.cells import progress


@dataclass(frozen=True)
class Measured(ABC):
    """A measurement in a ``folder`` of its own. ``what`` is measured is the name of its file."""

    folder: Path
    what: ClassVar[str]

    @abstractmethod
    def measure(self) -> np.ndarray:
        """The array, computed."""

    @property
    def task(self) -> Task:
        """The work as a task in its folder."""
        return Task(self.folder, self.what, self.folder.name, self)

    def __call__(self) -> dict[str, Any]:
        """Measures, and gives the checksum of what is kept."""
        torch.set_flush_denormal(True)
        found = self.measure()
        with replacing(self.folder / self._file) as beside, beside.open("wb") as file:
            np.save(file, found)
        return {"files": sums(self.folder, [self._file])}

    def result(self) -> np.ndarray:
        """The array as it was kept. Raises BadFolder where it is missing or damaged."""
        result_of(self.folder)
        found: np.ndarray = np.load(self.folder / self._file, allow_pickle=False)
        return found

    @property
    def _file(self) -> str:
        return f"{self.what}.npy"


def measure_all(works: Sequence[Measured], workers: int) -> None:
    """Does what is not done of these, in processes."""
    left = [work.task for work in works if not work.task.done]
    run_here(left, workers, progress(len(left)))
