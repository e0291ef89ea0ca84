"""Small trainings of a recipe. Each is a task in its own folder, finished once it has a result.

A recipe defines a training (a frozen dataclass with a ``name``, which determines its result) and a function that runs it and
gives the result as JSON. A few processes run them. Finished trainings are kept, and the same command continues.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NotRequired, Protocol, TypedDict, TypeVar

import torch

from limbeck.disk import finite
from limbeck.errors import BadFolder
from limbeck.jobs.common.task import RESULT, Task
from limbeck.jobs.pilot.tasks import result_of
from limbeck.jobs.pilot.workers import run_here
from limbeck.papers.lab.cells import progress
from limbeck.papers.lab.recipe import RecipeContext

Key = TypeVar("Key")


class Cell(Protocol):
    """The definition of a training. Two with one name are the same training."""

    @property
    def name(self) -> str: ...
    def __hash__(self) -> int: ...


class _Kept(TypedDict):
    """The definition of a training, and its result."""

    cell: NotRequired[Any]
    cpu_seconds: float
    result: dict[str, Any]


Train = Callable[[Any, str], dict[str, Any]]


@dataclass(frozen=True)
class Training:
    """The work of a training's task. ``train`` is a function of a module, so that it can be sent to a process."""

    cell: Any
    device: str
    train: Train

    def __call__(self) -> dict[str, Any]:
        """The training's definition and its result, where a value that is not finite is null."""
        return {"cell": asdict(self.cell), "result": finite(self.train(self.cell, self.device))}


def device_of(context: RecipeContext) -> str:
    """The device that all models of a recipe are trained and measured on: with "auto" CUDA if there is one, else the CPU."""
    usual = "cuda" if torch.cuda.is_available() else "cpu"
    return usual if context.device == "auto" else context.device


class Trainings:
    """The folder of a recipe's trainings, and the processes that run them. ``train`` gets a cell and a device."""

    def __init__(self, context: RecipeContext, train: Train) -> None:
        self._folder, self._workers, self._train = context.out / "trainings", context.workers, train
        self._device = device_of(context)

    def do(self, cells: Iterable[Cell]) -> None:
        """Runs the trainings without a result. Raises BadFolder as `result` does, before the first one."""
        left = []
        for cell in dict.fromkeys(cells):
            if (training := self._task(cell)).done:
                self.result(cell)
            else:
                left.append(training)
        run_here(left, self._workers, progress(len(left)))

    def results(self, planned: Mapping[Key, Sequence[Cell]]) -> dict[Key, list[dict[str, Any]]]:
        """Runs the trainings without a result, and gives the results of all, by the arms of a plan. Raises BadFolder as `do`."""
        self.do(cell for row in planned.values() for cell in row)
        return {key: [self.result(cell) for cell in row] for key, row in planned.items()}

    def result(self, cell: Cell) -> dict[str, Any]:
        """The result of a training. Raises BadFolder if the folder has another training of this name."""
        training = self._task(cell)
        found = result_of(training.folder, _Kept)
        kept = found.get("cell", "one that does not say what it was")
        if kept != _as_read(cell):
            raise BadFolder(
                f"{training.folder}: expected the training {_as_read(cell)}, got {kept}, made by another version: "
                "remove the folder, or give another --out"
            )
        result: dict[str, Any] = found["result"]
        return result

    def cpu_seconds(self) -> float:
        """CPU seconds of all trainings, over all starts."""
        return math.fsum(result_of(file.parent)["cpu_seconds"] for file in self._folder.glob(f"cells/*/{RESULT}"))

    def _task(self, cell: Cell) -> Task:
        work = Training(cell, self._device, self._train)
        return Task(self._folder / "cells" / cell.name, "training", cell.name, work)


def read_after(results: Iterable[Mapping[str, Any]], steps: int) -> list[dict[str, Any]]:
    """Results after this number of steps. A training that diverged later had not ``failed`` by then."""
    return [{**one, "failed": one["failed"] and one["trained_steps"] <= steps} for one in results]


def _as_read(cell: Any) -> Any:
    """A cell as it is read from JSON."""
    return _lists(asdict(cell))


def _lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _lists(inner) for key, inner in value.items()}
    return [_lists(inner) for inner in value] if isinstance(value, tuple | list) else value
