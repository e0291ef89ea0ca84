"""The trainings of both scenarios of TAID: pretraining from a ladder of teachers, and instructions from the largest, tuned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from limbeck.jobs.pilot.grid import CellPlan, Scale
from limbeck.papers.lab.cells import TrainedLadder, train_ladder
from limbeck.papers.lab.measured import measure_all
from limbeck.papers.lab.paired import mean
from limbeck.papers.lab.recipe import RecipeContext
from limbeck.papers.lab.trainings import device_of
from limbeck.papers.lab.tuning import TuningPlan, Tunings, tunings
from limbeck.papers.taid_gap.mass import Mass

FORWARD, REVERSE, SKEW = "forward KL", "reverse KL", "skew KL"
TAID, LINEAR, RAMP, SUPERVISED = "TAID", "TAID, linear", "forward KL, ramped", "cross-entropy"
OBJECTIVES = {
    FORWARD: "ForwardKL",
    REVERSE: "ReverseKL",
    SKEW: "SkewKL",  # 0.1, as in the paper's baselines
    RAMP: "Ramp(of=ForwardKL(), start=0.4)",  # TAID's t, as a weight
    LINEAR: "TAID(schedule=linear)",
    TAID: "TAID",  # adaptive; alpha x steps as in the paper
    SUPERVISED: "CrossEntropy",
    "total variation": "TotalVariation",
    "adaptive KL": "AdaptiveKL",  # its head is found in the order of the vocabulary
    "GJS": "JensenShannon(beta=0.1)",  # of log-probabilities, finite everywhere; without the student's own samples
    "skew reverse KL": "SkewReverseKL",
    "CTKD": "CTKD",  # its temperature is learned, against the student
    "DKD": "DKD",
}
LADDER = (FORWARD, REVERSE, SKEW, RAMP, LINEAR, TAID)  # with all teachers; the others with the largest
BASELINES = tuple(name for name in OBJECTIVES if name not in (TAID, LINEAR, RAMP))
RIVALS = (FORWARD, SKEW)  # in slope
AT_FLOPS = (TAID, FORWARD)


@dataclass(frozen=True)
class Size:
    """The size of the recipe: sizes in parameters, and ``rates``, candidate factors of the usual rate, for ``tried_on``.

    ``modules`` is the number of modules of the library with instructions, None for all; ``questions``, how many held-out ones a
    student answers. ``teaching_tokens`` are those on which the teacher of instructions is tuned, ``tuning_tokens`` a student's.
    """

    student: int
    teachers: tuple[int, ...]
    rates: tuple[float, ...]
    tried_on: int
    modules: int | None
    questions: int
    teaching_tokens: int
    tuning_tokens: int
    scale: Scale


@dataclass(frozen=True)
class Pretrained:
    """The students of pretraining: losses (seeds, teachers, documents, 2) of the ladder, and of all from the largest teacher.

    ``at_flops``: losses of the ladder with the FLOPs of a student of the smallest teacher each, and ``supervised`` of
    cross-entropy with as many. ``starts``: by seed, the cell of the student that instructions begin with.
    """

    work: TrainedLadder
    rates: Mapping[str, float]
    ladder: Mapping[str, np.ndarray]
    largest: Mapping[str, np.ndarray]
    at_flops: Mapping[str, np.ndarray]
    supervised: np.ndarray
    tokens_at_flops: Mapping[str, list[int]]
    masses: Mapping[str, np.ndarray]
    starts: Mapping[int, CellPlan]


@dataclass(frozen=True)
class Tuned:
    """The students of instructions, by objective: nats and checks (seeds, modules, 2) of their answers, and masses."""

    work: Tunings
    rates: Mapping[str, float]
    answers: Mapping[str, np.ndarray]
    checks: Mapping[str, np.ndarray]
    masses: Mapping[str, np.ndarray]
    teacher: Mapping[str, Any]
    tokens: int


def pretraining(context: RecipeContext, size: Size) -> Pretrained:
    """Trains all teachers and the students of pretraining, and measures their masses."""
    work = train_ladder(context, size.scale, students=[size.student], teachers=size.teachers)
    seeds = range(context.seed, context.seed + context.seeds)
    last = len(work.teachers) - 1
    rates = work.rates({name: _cell(work, name, size.tried_on, seeds.stop) for name in OBJECTIVES}, size.rates)
    cells = {
        name: [[_cell(work, name, i, seed, rates[name]) for i in range(last + 1)] for seed in seeds] for name in LADDER
    }
    largest = {name: [_cell(work, name, last, seed, rates[name], keep=True) for seed in seeds] for name in OBJECTIVES}
    cells = {name: [[*row[:-1], largest[name][i]] for i, row in enumerate(grid)] for name, grid in cells.items()}
    tokens = _tokens_at_flops(work)
    equal = {
        name: [
            [cells[name][s][0], *(_shorter(cells[name][s][i], tokens[TAID][i]) for i in range(1, last + 1))]
            for s in range(len(seeds))
        ]
        for name in AT_FLOPS
    }
    supervised = [_shorter(cell, tokens[SUPERVISED][0]) for cell in largest[SUPERVISED]]
    starts = {cell.seed: cell for cell in largest[SUPERVISED]}
    starts[seeds.stop] = _cell(work, SUPERVISED, last, seeds.stop, rates[SUPERVISED], keep=True)
    grids = [row for grid in [*cells.values(), *equal.values()] for row in grid]
    rows = [*grids, *largest.values(), supervised, [*starts.values()]]
    work.train(list(dict.fromkeys(cell for row in rows for cell in row)))
    work.tidy()

    def ladder(grid: list[list[CellPlan]]) -> np.ndarray:
        return np.array([[work.documents(cell.name).T for cell in row] for row in grid])

    return Pretrained(
        work,
        rates,
        ladder={name: ladder(grid) for name, grid in cells.items()},
        largest={name: ladder([row])[0] for name, row in largest.items()},
        at_flops={name: ladder(grid) for name, grid in equal.items()},
        supervised=ladder([supervised])[0],
        tokens_at_flops=tokens,
        masses=_masses_of_cells(context, work, largest),
        starts=starts,
    )


def tuning(context: RecipeContext, size: Size, pretrained: Pretrained) -> Tuned:
    """Tunes the largest teacher on instructions, and by every objective the student that cross-entropy pretrained."""
    scale = size.scale
    work = tunings(context, length=scale.length, batch_tokens=scale.batch_tokens, modules=size.modules)
    rung = pretrained.work.teachers[-1].name
    teacher = TuningPlan("teacher", f"trainings/teachers/{rung}/model", 0, size.teaching_tokens, size.questions)
    work.do([teacher])

    def plan(name: str, seed: int, rate: float = 1.0) -> TuningPlan:
        start = f"trainings/cells/{pretrained.starts[seed].name}/student"
        title = f"{_title(name)}-seed{seed}"
        return TuningPlan(
            title, start, seed, size.tuning_tokens, size.questions, rate, OBJECTIVES[name], teacher=teacher.name
        )

    seeds = range(context.seed, context.seed + context.seeds)
    rates = work.rates({name: plan(name, seeds.stop) for name in OBJECTIVES}, size.rates)
    plans = {name: [plan(name, seed, rates[name]) for seed in seeds] for name in OBJECTIVES}
    work.do([one for row in plans.values() for one in row])
    work.tidy()
    return Tuned(
        work,
        rates,
        answers={name: np.array([work.answers(one) for one in row]) for name, row in plans.items()},
        checks={name: np.array([work.checks(one) for one in row]) for name, row in plans.items()},
        masses=_masses_of_tuned(context, work, plans, teacher),
        teacher={
            "answers_nats": vars(mean(work.answers(teacher)[None])),
            "checks_passed": vars(mean(work.checks(teacher)[None])),
        },
        tokens=work.tokens_read(size.tuning_tokens),
    )


def _masses_of_cells(
    context: RecipeContext, work: TrainedLadder, largest: Mapping[str, list[CellPlan]]
) -> dict[str, np.ndarray]:
    """Masses (seeds, documents, 5) of the students of the largest teacher, and of that teacher, on held-out text."""
    teacher = work.folder / "teachers" / work.teachers[-1].name / "model"
    store, length = work.folder / "data" / "held_out", work.scale.length
    folders = {name: [work.folder / "cells" / cell.name / "student" for cell in row] for name, row in largest.items()}
    works = {
        name: [
            Mass(context.out / "mass" / folder.parent.name, folder, teacher, store, length, device_of(context))
            for folder in row
        ]
        for name, row in folders.items()
    }
    works["the teacher"] = [Mass(context.out / "mass" / "teacher", teacher, teacher, store, length, device_of(context))]
    measure_all([one for row in works.values() for one in row], context.workers)
    return {name: np.array([one.result() for one in row]) for name, row in works.items()}


def _masses_of_tuned(
    context: RecipeContext, work: Tunings, plans: Mapping[str, list[TuningPlan]], teacher: TuningPlan
) -> dict[str, np.ndarray]:
    """Masses (seeds, modules, 5) of the tuned students, and of their teacher, on held-out answers."""
    rows = {**plans, "the teacher": [teacher]}
    works = {
        name: [
            Mass(
                context.out / "mass" / f"tuned-{plan.name}",
                work.folder / plan.name / "student",
                work.folder / teacher.name / "student",
                work.folder / "data" / "held_out",
                work.length,
                device_of(context),
            )
            for plan in row
        ]
        for name, row in rows.items()
    }
    measure_all([one for row in works.values() for one in row], context.workers)
    return {name: np.array([work.by_module(one.result()) for one in row]) for name, row in works.items()}


def _tokens_at_flops(work: TrainedLadder) -> dict[str, list[int]]:
    """The tokens, by teacher, that the FLOPs of a student of the smallest teacher buy, its forward passes counted."""
    learning = 3 * work.forward_flops(work.students[0])
    teaching = [work.forward_flops(rung.shape) for rung in work.teachers]
    flops = work.scale.student_tokens * (learning + teaching[0])
    return {
        TAID: [work.whole_steps(flops / (learning + each)) for each in teaching],
        SUPERVISED: [work.whole_steps(flops / learning)],
    }


def _shorter(cell: CellPlan, tokens: int) -> CellPlan:
    """A student as in a cell, on another number of tokens."""
    return replace(cell, name=f"{cell.name}-flops", tokens=tokens, keep=False)


def _title(name: str) -> str:
    number = list(OBJECTIVES).index(name)
    return f"{OBJECTIVES[name].split('(')[0].lower()}{number}"


def _cell(
    work: TrainedLadder, name: str, teacher: int, seed: int, rate: float = 1.0, *, keep: bool = False
) -> CellPlan:
    rung, tokens = work.teachers[teacher].name, work.scale.student_tokens
    title = f"{_title(name)}-{rung}-seed{seed}"
    return CellPlan(title, work.students[0], rung, "fresh", seed, rate, tokens, OBJECTIVES[name], keep)
