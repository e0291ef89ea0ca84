"""Shared parts of recipes about students and teachers: a ladder of teachers, and the trainings of students.

The trainings are those of `jobs.pilot.tasks` without its grid: a recipe names its cells, each with its objective. Finished
trainings are kept. A separate seed, which judges no claim, chooses the learning rate of each kind of cell.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float
from transformers import LlamaConfig, PreTrainedTokenizerFast

from limbeck.corpora import build_stores, require_rows
from limbeck.corpora.layout import BEST_FIT
from limbeck.errors import NonFiniteLoss
from limbeck.jobs.common.folder import claim, same_corpus
from limbeck.jobs.common.task import RESULT, drop_checkpoints
from limbeck.jobs.pilot.grid import CellPlan, Grid, Scale, TeacherPlan, nested_shapes, weights
from limbeck.jobs.pilot.tasks import DOCUMENTS, Pilot, result_of, tasks_left, tasks_of
from limbeck.jobs.pilot.workers import run_here
from limbeck.jobs.pretrain.job import llama_config, make_tokenizer
from limbeck.models.load import verified_folder
from limbeck.papers.lab.recipe import RecipeContext
from limbeck.papers.lab.search import BestRates, Trial, searched
from limbeck.planning.cost.size import Size
from limbeck.report.words import duration
from limbeck.run.log import console
from limbeck.students.shape import Shape

_Plan = TypeVar("_Plan", bound=Any)


@dataclass(frozen=True)
class TrainedLadder:
    """A folder with a text, the shapes of students from the smallest, and the teachers to train in it."""

    folder: Path
    scale: Scale
    students: tuple[Shape, ...]
    teachers: tuple[TeacherPlan, ...]
    vocab: int
    workers: int

    def train(self, cells: Sequence[CellPlan]) -> None:
        """Trains the teachers and these cells, where that is not done.

        Raises NonFiniteLoss if a student diverged, since its kind has no result then.
        """
        self._run(cells)
        for cell in cells:
            if failed := self.cell(cell.name).get("failed"):
                raise NonFiniteLoss(f"{self.folder / 'cells' / cell.name}: {failed}")

    def _run(self, cells: Sequence[CellPlan]) -> None:
        grid = Grid(self.teachers, tuple(cells))
        Pilot(grid, self.scale, "ForwardKL").write(self.folder)
        tasks = tasks_of(self.folder, grid)
        drop_checkpoints(tasks)
        left = tasks_left(tasks)
        run_here(left, self.workers, progress(len(left)))

    def teacher(self, name: str) -> dict[str, Any]:
        """The results of a trained teacher."""
        return result_of(self.folder / "teachers" / name)

    def cell(self, name: str) -> dict[str, Any]:
        """The results of a trained student."""
        return result_of(self.folder / "cells" / name)

    def documents(self, name: str) -> Float[np.ndarray, "2 documents"]:
        """Nats and tokens of each held-out document by a trained student, (documents, 2)."""
        self.cell(name)  # verifies the checksum
        return np.load(self.folder / "cells" / name / DOCUMENTS, allow_pickle=False)

    def rates(self, kinds: Mapping[str, CellPlan], factors: Sequence[float]) -> BestRates:
        """The factor of the usual learning rate with which this cell of each kind is best. All kinds have the same budget.

        Further factors are tried where the best is at an end (`search.searched`). One candidate factor needs no training. A rate
        whose training diverged is the worst.
        """
        plans = {name: replace(plan, keep=False) for name, plan in kinds.items()}
        return best_factors(plans, factors, run=self._run, loss=lambda plan: self.cell(plan.name)["loss"])

    def forward_flops(self, shape: Shape) -> float:
        """FLOPs of a forward pass per token of a model of this shape, computed from its configuration."""
        return Size.of(self.config(shape)).forward_flops(self.scale.length)

    def config(self, shape: Shape) -> LlamaConfig:
        """The configuration of a model of this shape, with the vocabulary of the text."""
        return llama_config(shape, PreTrainedTokenizerFast.from_pretrained(self.folder / "tokenizer"))

    def whole_steps(self, tokens: float) -> int:
        """A number of tokens rounded down to whole steps, but at least one."""
        rows = max(1, self.scale.batch_tokens // self.scale.length) * self.scale.length
        return max(1, int(tokens) // rows) * rows

    def cpu_seconds(self) -> float:
        """CPU seconds of all trainings, over all starts."""
        found = [result_of(file.parent)["cpu_seconds"] for file in self.folder.glob(f"*/*/{RESULT}")]
        return math.fsum(found)

    def tidy(self) -> None:
        """Removes the teachers' logits, which are large and not needed any more."""
        shutil.rmtree(self.folder / "answers", ignore_errors=True)


def best_factors(
    kinds: Mapping[str, _Plan],
    factors: Sequence[float],
    *,
    run: Callable[[Sequence[_Plan]], None],
    loss: Callable[[_Plan], float | None],
) -> BestRates:
    """The factor of the usual learning rate with which each kind of training has the lowest ``loss``, by `search.searched`.

    A plan is a dataclass with a ``name`` and an ``lr_factor``; ``run`` trains several.
    """

    def losses(trials: Sequence[Trial]) -> list[float | None]:
        plans = [
            replace(kinds[name], name=f"{kinds[name].name}-rate{factor:g}", lr_factor=factor) for name, factor in trials
        ]
        run(plans)
        return [loss(plan) for plan in plans]

    return searched(kinds, factors, losses)


def train_ladder(
    context: RecipeContext, scale: Scale, *, students: Sequence[int], teachers: Sequence[int]
) -> TrainedLadder:
    """The text, and the shapes of students and teachers of these sizes in parameters. Each shape can be pruned to the next."""
    folder = context.out / "trainings"
    data = context.data or "python:stdlib"
    request = {
        "data": data,
        "scale": asdict(scale),
        "students": [*students],
        "teachers": [*teachers],
        "seed": context.seed,
        "packing": BEST_FIT,
    }
    run = claim(folder, request)
    make_tokenizer(data, folder / "tokenizer", vocab=scale.vocab)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(verified_folder(folder / "tokenizer"))
    store, held_out = build_stores(data, tokenizer, folder / "data", progress=console.is_terminal)
    require_rows(store, length=scale.length)
    same_corpus(folder, run, store, held_out)
    vocab = len(tokenizer)
    shapes = nested_shapes([*students, *teachers], vocab=vocab, head=scale.head)
    most = scale.epochs * store.tokens
    ladder = tuple(
        TeacherPlan(f"t{i}", shapes[size], round(min(scale.teacher_tokens * weights(shapes[size], vocab), most)))
        for i, size in enumerate(sorted(teachers))
    )
    return TrainedLadder(
        folder, scale, tuple(shapes[size] for size in sorted(students)), ladder, vocab, context.workers
    )


def progress(total: int) -> Any:
    """Prints a line for each finished training."""
    done: list[Any] = []

    def report(task: Any, seconds: float) -> None:
        done.append(task)
        console.print(f"{len(done):>4} of {total}  {task.kind} {task.name}: {duration(seconds)}")

    return report
