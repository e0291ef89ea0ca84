"""Strategies for a small model, and the cost of each: FLOPs as in `planning.cost`, with the teacher's forward passes.

A strategy has a shape, a teacher to prune from, and an objective that needs this teacher or not. A budget of FLOPs then gives
the tokens: more for plain cross-entropy and for a smaller student, fewer for a larger teacher. The training of teachers does not
count, as in the paper.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from limbeck.config import PlanSettings
from limbeck.errors import BadSetting
from limbeck.jobs.pair.student import CALIBRATION_ROWS
from limbeck.jobs.pilot.grid import CellPlan, Scale, weights
from limbeck.jobs.plan.job import plan
from limbeck.papers.lab.cells import TrainedLadder
from limbeck.students.shape import Shape

LAW, LARGEST = "law's teacher", "largest teacher"
DISTILLED = "0.5*CrossEntropy + 0.5*ForwardKL"  # as in the paper's code


@dataclass(frozen=True)
class Strategy:
    """One strategy for a small model. ``teacher`` None is a random start. ``tokens`` are those of its training."""

    name: str
    shape: Shape
    teacher: str | None
    objective: Literal["kd", "ce"]
    tokens: int

    def cell(self, seed: int, rate: float = 1.0) -> CellPlan:
        """The training of the strategy; its student is kept for tuning."""
        objective = DISTILLED if self.objective == "kd" else "CrossEntropy"
        arm = "fresh" if self.teacher is None else "cut"
        name = f"{re.sub('[^a-z]+', '-', self.name.lower())}-seed{seed}"
        return CellPlan(name, self.shape, self.teacher, arm, seed, rate, self.tokens, objective, keep=True)


@dataclass(frozen=True)
class Prices:
    """FLOPs of a forward pass per token, of each shape and each teacher."""

    shapes: Mapping[Shape, float]
    teachers: Mapping[str, float]
    scale: Scale

    def spent(self, strategy: Strategy) -> float:
        """FLOPs of a strategy: selecting what to prune, forward and backward passes, and the teacher's logits."""
        return self._cut(strategy) + strategy.tokens * self._token(strategy)

    def fitted(self, strategy: Strategy, flops: float) -> Strategy:
        """The strategy with the tokens that a number of FLOPs buys, rounded down to whole steps, but at least one step."""
        return self.whole_steps(replace(strategy, tokens=int((flops - self._cut(strategy)) / self._token(strategy))))

    def whole_steps(self, strategy: Strategy) -> Strategy:
        """The strategy with its tokens rounded down to whole steps."""
        rows = max(1, self.scale.batch_tokens // self.scale.length) * self.scale.length
        return replace(strategy, tokens=max(1, strategy.tokens // rows) * rows)

    def _token(self, strategy: Strategy) -> float:
        needs_teacher = strategy.objective == "kd" and strategy.teacher is not None
        return 3 * self.shapes[strategy.shape] + (
            self.teachers[strategy.teacher] if needs_teacher and strategy.teacher else 0.0
        )

    def _cut(self, strategy: Strategy) -> float:
        if strategy.teacher is None:
            return 0.0
        return 3 * self.teachers[strategy.teacher] * CALIBRATION_ROWS * self.scale.length


def strategies_of(work: TrainedLadder, prices: Prices, *, law: str, tokens: int) -> dict[str, Strategy]:
    """All strategies, the law's first. Those named "equal FLOPs" cost at most as much as that one."""
    smaller, small = work.students
    smallest, largest = work.teachers[0].name, work.teachers[-1].name
    first = prices.whole_steps(Strategy(LAW, small, law, "kd", tokens))
    at_equal_tokens = [
        first,
        replace(first, name="smallest teacher", teacher=smallest),
        replace(first, name=LARGEST, teacher=largest),
        replace(first, name="cut and cross-entropy", objective="ce"),
    ]
    at_equal_flops = [
        Strategy(f"{LARGEST}, equal FLOPs", small, largest, "kd", 0),
        Strategy("cut and cross-entropy, equal FLOPs", small, law, "ce", 0),
        Strategy("fresh and cross-entropy, equal FLOPs", small, None, "ce", 0),
        Strategy("smaller student, equal FLOPs", smaller, law, "kd", 0),
    ]
    found = [*at_equal_tokens, *(prices.fitted(strategy, prices.spent(first)) for strategy in at_equal_flops)]
    return {strategy.name: strategy for strategy in found}


def planned_teacher(work: TrainedLadder, *, tokens: int) -> dict[str, Any]:
    """The recommendations of planners for the trained teachers; "teacher" is the ratio rule's.

    Raises BadSetting if that is the smallest or largest teacher.
    """
    folders = {str(work.folder / "teachers" / rung.name / "model"): rung.name for rung in work.teachers}
    student = weights(work.students[-1], work.vocab)
    answers = plan(PlanSettings(params=student, tokens=tokens, candidates=tuple(folders)))["planners"]
    best = {answer["planner"]: folders.get(answer["best"]) for answer in answers}
    law = next(name for planner, name in best.items() if planner.startswith("ratio rule"))
    if law is None or law in (work.teachers[0].name, work.teachers[-1].name):
        raise BadSetting(
            f"of the ladder the ratio rule names {law} for a student of {student:,} parameters, an end: nothing larger or "
            "smaller is left to compare it with; give teachers around 2.5 times the student"
        )
    return {"teacher": law, "student_parameters": student, "best": best}


def prices_of(work: TrainedLadder) -> Prices:
    """FLOPs per token of each shape and each teacher, computed from their configurations."""
    return Prices(
        {shape: work.forward_flops(shape) for shape in work.students},
        {rung.name: work.forward_flops(rung.shape) for rung in work.teachers},
        work.scale,
    )
