"""Seconds per generated token of a few shapes, measured in turns, so that other work on the machine slows all of them alike."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import LlamaConfig

from limbeck.jobs.common.task import Task
from limbeck.jobs.pilot.tasks import result_of
from limbeck.jobs.pilot.workers import run_here
from limbeck.models.build import build
from limbeck.papers.lab.cells import TrainedLadder, progress
from limbeck.papers.lab.recipe import RecipeContext
from limbeck.probes.cost import token_seconds
from limbeck.students.shape import Shape

_TURNS = 5


@dataclass(frozen=True)
class SpeedWork:
    """Measures models of some configurations on the CPU, in float32 with random weights."""

    folder: Path
    configs: tuple[LlamaConfig, ...]

    def __call__(self) -> dict[str, Any]:
        """Median seconds per token, in the order of the configurations."""
        models = [build(config).eval().requires_grad_(False) for config in self.configs]
        turns = [[token_seconds(model) for model in models] for _ in range(_TURNS)]
        return {"seconds": [statistics.median(times) for times in zip(*turns, strict=True)], "files": {}}


def speed_of(context: RecipeContext, work: TrainedLadder, shapes: Sequence[Shape]) -> list[float]:
    """Seconds per token of these shapes at batch size 1, measured once for a folder."""
    folder = context.out / "speed"
    task = Task(folder, "speed", "speed", SpeedWork(folder, tuple(map(work.config, shapes))))
    if not task.done:
        run_here([task], 1, progress(1))
    seconds: list[float] = result_of(folder)["seconds"]
    return seconds
