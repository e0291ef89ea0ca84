"""The ways to a small model that are compared, and what each costs: FLOPs as in `plan.cost`, the teacher's passes included.

A way is a shape, a teacher to be cut out of, and whether that teacher is listened to. What a budget of FLOPs buys follows: of
plain cross-entropy and of a smaller student more tokens, of a larger teacher fewer. The training of teachers is not counted,
as in the paper: they were there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from transformers import PreTrainedTokenizerFast

from limbeck.config import PlanSettings
from limbeck.errors import BadSetting
from limbeck.jobs.pair.student import CALIBRATION_ROWS
from limbeck.jobs.pilot.grid import CellPlan, Scale, weights
from limbeck.jobs.plan.job import plan
from limbeck.jobs.pretrain.job import llama_config
from limbeck.papers.lab.cells import TrainedLadder
from limbeck.planning.cost.size import Size
from limbeck.students.shape import Shape

LAW, LARGEST = "law's teacher", "largest teacher"
DISTILLED = "0.5*CrossEntropy + 0.5*ForwardKL"  # the paper's, as its code has it


@dataclass(frozen=True)
class Strategy:
    """One way to a small model. ``teacher`` None: a fresh start. ``tokens`` are those of its training."""

    name: str
    shape: Shape
    teacher: str | None
    objective: Literal["kd", "ce"]
    tokens: int

    def cell(self, seed: int, rate: float = 1.0) -> CellPlan:
        """Its training, kept for what comes after."""
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

    def spent(self, way: Strategy) -> float:
        """FLOPs of a way: choosing what to cut, then forward and backward passes and the teacher's words."""
        return self._cut(way) + way.tokens * self._token(way)

    def fitted(self, way: Strategy, flops: float) -> Strategy:
        """The same way with the tokens that so many FLOPs buy, in whole steps: never more, but for a first step."""
        return self.whole_steps(replace(way, tokens=int((flops - self._cut(way)) / self._token(way))))

    def whole_steps(self, way: Strategy) -> Strategy:
        """The same way with its tokens rounded down to steps."""
        rows = max(1, self.scale.batch_tokens // self.scale.length) * self.scale.length
        return replace(way, tokens=max(1, way.tokens // rows) * rows)

    def _token(self, way: Strategy) -> float:
        listens = way.objective == "kd" and way.teacher is not None
        return 3 * self.shapes[way.shape] + (self.teachers[way.teacher] if listens and way.teacher else 0.0)

    def _cut(self, way: Strategy) -> float:
        if way.teacher is None:
            return 0.0
        return 3 * self.teachers[way.teacher] * CALIBRATION_ROWS * self.scale.length


def strategies_of(work: TrainedLadder, prices: Prices, *, law: str, tokens: int) -> dict[str, Strategy]:
    """All ways, the law's first. Those named "equal FLOPs" cost at most what it costs."""
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
    found = [*at_equal_tokens, *(prices.fitted(way, prices.spent(first)) for way in at_equal_flops)]
    return {way.name: way for way in found}


def planned_teacher(work: TrainedLadder, *, tokens: int) -> dict[str, Any]:
    """What the planners say of the trained teachers; "teacher" is the ratio rule's. Raises BadSetting where that is an end."""
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
    """What each shape and each teacher costs, counted on their configurations."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(work.folder / "tokenizer")

    def forward(shape: Shape) -> float:
        return Size.of(llama_config(shape, tokenizer)).forward_flops(work.scale.length)

    return Prices(
        {shape: forward(shape) for shape in work.students},
        {rung.name: forward(rung.shape) for rung in work.teachers},
        work.scale,
    )
