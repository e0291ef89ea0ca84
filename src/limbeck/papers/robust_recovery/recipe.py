"""Robust recovery of low rank: the paper's claim about matrices, and whether it says anything about factoring a language model.

The paper is "Global Convergence of Sub-gradient Method for Robust Matrix Recovery" (Ma and Fattahi, arXiv 2202.08788). Part one
is its claim, on matrices made by chance. Part two is ours: a language model's matrices are factored on calibration text with
random tokens, by fits that are robust and others, each student is trained on the teacher's logits, and beside them is one that is
pruned to as many parameters.

    limbeck reproduce robust-recovery --scale smoke | small | gpu        a minute | 50 minutes of a core | not yet timed
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from limbeck.papers.lab.from_teacher import teacher_parameters, text_for_teacher
from limbeck.papers.lab.paired import Losses, mean
from limbeck.papers.lab.pilots import little
from limbeck.papers.lab.plots import draw_by_share
from limbeck.papers.lab.rates import TUNING, best_rates
from limbeck.papers.lab.recipe import ClaimResult, Outcome, Recipe, RecipeContext, Short, of_seeds, with_failures
from limbeck.papers.lab.search import doubtful
from limbeck.papers.lab.trainings import Trainings
from limbeck.papers.robust_recovery.fitting import ABSOLUTE, APART, ARMS, SVD, TRIMMED, WHITENED
from limbeck.papers.robust_recovery.judging import (
    LARGE,
    RANK,
    SMALL,
    SQUARE,
    Errors,
    judge_apart,
    judge_columns,
    judge_cut,
    judge_recovery,
    judge_robust,
    judge_start,
)
from limbeck.papers.robust_recovery.synthetic import Fit, Problem, relative_error
from limbeck.papers.robust_recovery.training import (
    CUT,
    RecoveryCell,
    train_recovery,
)
from limbeck.report.words import count
from limbeck.run.optim import suggested_learning_rate

CLEAN, DIRTY = "clean", "with random tokens"
ROBUST = (TRIMMED, ABSOLUTE)
FACTORED = "factored"  # the kind whose rate all arms of factors have


@dataclass(frozen=True)
class Scale:
    """``problems`` a seed, each fitted in ``steps`` steps; shares of parameters; and the trainings of the students.

    ``factors`` of the usual learning rate are tried for each kind of student and each share.
    """

    problems: int
    steps: int
    keeps: tuple[float, ...]
    train_steps: int
    rows: int
    length: int
    calibration: int
    measured: int
    factors: tuple[float, ...]


SCALES = {
    "smoke": Scale(1, 60, (0.6,), 2, 4, 32, 24, 16, (1.0,)),
    "small": Scale(10, 600, (0.8, 0.6, 0.4), 24, 8, 256, 32, 128, (0.5, 1.0, 2.0)),
    "gpu": Scale(100, 600, (0.8, 0.6, 0.4), 1000, 32, 256, 256, 1024, (0.5, 1.0, 2.0)),
}
PROBLEMS = (Problem(20, 3, 600, 0.1), Problem(20, 3, 1200, 0.3))
FITS = {
    SMALL: Fit(20, 1e-3, "absolute", 0),
    LARGE: Fit(20, 1.0, "absolute", 0),
    RANK: Fit(3, 1e-3, "absolute", 0),
    SQUARE: Fit(20, 1e-3, "square", 0),
}


@dataclass(frozen=True)
class Students:
    """All students: results by arm, text and share of parameters, one a seed, and the factors of the rates."""

    results: Mapping[tuple[str, str, float], Sequence[Mapping[str, Any]]]
    factors: Mapping[str, float]
    cpu_seconds: float

    def losses(self, arm: str, text: str, keep: float, when: str = "after") -> Losses:
        """Nats and tokens of each document, (seeds, documents, 2)."""
        found = self.results[arm, text, keep]
        return np.array([np.stack([one[when], one["tokens"]], -1) for one in found])

    def by_keep(self, arm: str, text: str) -> dict[float, Losses]:
        """The losses after training at each share of parameters."""
        return {keep: self.losses(arm, text, keep) for one, said, keep in self.results if (one, said) == (arm, text)}


def run(context: RecipeContext) -> Outcome:
    """Recovers matrices, trains the students, and judges all claims."""
    scale = SCALES[context.scale]
    errors = recovered(scale, context)
    found = students(scale, context)
    robust = {arm: found.by_keep(arm, DIRTY) for arm in ROBUST}
    judged: list[ClaimResult] = [judge_recovery(errors), judge_columns(errors), judge_start(errors)]
    judged += [
        _failing(judge_robust(found.by_keep(WHITENED, DIRTY), robust), found, DIRTY, WHITENED, *ROBUST),
        _failing(
            judge_apart(found.by_keep(WHITENED, CLEAN), found.by_keep(APART, CLEAN)), found, CLEAN, WHITENED, APART
        ),
        _failing(judge_cut(found.by_keep(CUT, CLEAN), found.by_keep(APART, CLEAN)), found, CLEAN, CUT, APART),
    ]
    figure = context.out / "robust-recovery.png"
    clean = [arm for arm, text, _ in found.results if text == CLEAN]
    draw_by_share(
        {
            arm: {keep: mean(losses) for keep, losses in found.by_keep(arm, CLEAN).items()}
            for arm in dict.fromkeys(clean)
        },
        "parameters kept in the layers",
        figure,
    )
    shown = (
        "Held-out loss after training by the share of the layers' parameters that is kept, calibrated on clean text."
    )
    return Outcome(
        _ours(scale, found, context),
        tuple(of_seeds(one, context.seeds) for one in judged),
        _numbers(errors, found),
        {figure: shown},
        found.cpu_seconds,
    )


def recovered(scale: Scale, context: RecipeContext) -> Errors:
    """The relative error of each fit of each problem."""
    seeds = [1000 * (context.seed + seed) + number for seed in range(context.seeds) for number in range(scale.problems)]
    fits = {name: replace(fit, steps=scale.steps) for name, fit in FITS.items()}
    return {
        problem.outliers: {name: [relative_error(problem, fit, seed) for seed in seeds] for name, fit in fits.items()}
        for problem in PROBLEMS
    }


def students(scale: Scale, context: RecipeContext) -> Students:
    """Trains the students without a result, and gives all results."""
    folder = context.out / "text"
    source = context.data or (str(little(context.out)) if context.scale == "smoke" else "python:stdlib")
    text_for_teacher(folder, source, scale.length)
    trainings = Trainings(context, partial(train_recovery, folder=folder))
    kinds = {(kind, keep): arm for kind, arm in ((FACTORED, WHITENED), (CUT, CUT)) for keep in scale.keeps}
    tried = {
        _kind(kind, keep): {
            factor: _cell(scale, arm, keep, CLEAN, context.seed + TUNING, factor, tuning=True)
            for factor in scale.factors
        }
        for (kind, keep), arm in kinds.items()
    }
    factors = best_rates(trainings, tried, _nats)

    def cells(arm: str, text: str, keep: float) -> list[RecoveryCell]:
        factor = factors[_kind(CUT if arm == CUT else FACTORED, keep)]
        seeds = range(context.seed, context.seed + context.seeds)
        return [_cell(scale, arm, keep, text, seed, factor) for seed in seeds]

    arms = [(arm, CLEAN) for arm in (*ARMS, CUT)] + [(arm, DIRTY) for arm in ARMS if arm != SVD]
    planned = {(arm, text, keep): cells(arm, text, keep) for keep in scale.keeps for arm, text in arms}
    trainings.do(cell for row in planned.values() for cell in row)
    results = {key: [trainings.result(cell) for cell in row] for key, row in planned.items()}
    return Students(results, factors, trainings.cpu_seconds())


def _kind(kind: str, keep: float) -> str:
    return f"{kind}, {keep:.0%}"


def _nats(result: Mapping[str, Any]) -> float:
    return float(sum(result["after"]) / sum(result["tokens"]))


def _cell(
    scale: Scale, arm: str, keep: float, text: str, seed: int, factor: float, *, tuning: bool = False
) -> RecoveryCell:
    said = f"{arm.replace(', ', '-')}-{keep:g}-{text.split()[0]}-factor{factor:g}-seed{seed}"
    return RecoveryCell(
        name=said,
        arm=arm,
        keep=keep,
        dirty=text == DIRTY,
        seed=seed,
        rate=factor * suggested_learning_rate(teacher_parameters()),
        steps=scale.train_steps,
        rows=scale.rows,
        length=scale.length,
        calibration=scale.calibration,
        measured=scale.measured,
        tuning=tuning,
    )


def _failing(judged: ClaimResult, found: Students, text: str, *arms: str) -> ClaimResult:
    rows = {
        arm: [one for (a, t, _), many in found.results.items() if (a, t) == (arm, text) for one in many] for arm in arms
    }
    return with_failures(judged, rows)


def _ours(scale: Scale, found: Students, context: RecipeContext) -> str:
    """What was done here, in a few sentences."""
    tokens = scale.train_steps * scale.rows * scale.length
    sizes = {keep: next(iter(found.results[WHITENED, CLEAN, keep]))["parameters"] for keep in scale.keeps}
    kept = ", ".join(f"{share:.0%} ({count(size)})" for share, size in sizes.items())
    return (
        f"{scale.problems * context.seeds} matrices at each share of outliers, fitted in {scale.steps} steps. The built-in "
        f"teacher was factored with {kept} of its layers' parameters on {scale.calibration} rows of {scale.length} tokens, clean "
        f"or with 5 % random tokens; all students learned {count(tokens)} tokens by the teacher's logits, with {context.seeds} "
        f"seeds. Of {len(scale.factors)} learning rates each kind of student had its best at each share, with another seed."
        f"{doubtful(found.factors, scale.factors)}"
    )


def _numbers(errors: Errors, found: Students) -> dict[str, Any]:
    """The figures as JSON."""
    return {
        "relative_errors": {str(share): dict(by) for share, by in errors.items()},
        "lr_factor": dict(found.factors),
        "students": [
            {
                "arm": arm,
                "calibration": text,
                "keep": keep,
                "parameters": rows[0]["parameters"],
                "before_nats": asdict(mean(found.losses(arm, text, keep, "before"))),
                "after_nats": asdict(mean(found.losses(arm, text, keep))),
            }
            for (arm, text, keep), rows in found.results.items()
        ],
    }


def tables(numbers: Mapping[str, Any]) -> list[str]:
    """A table of all students before and after training."""
    head = (
        "| kept | arm | calibration text | parameters | nats before | nats after training |\n|---|---|---|---|---|---|"
    )
    rows = [
        f"| {one['keep']:.0%} | {one['arm']} | {one['calibration']} | {one['parameters']:,} | "
        f"{one['before_nats']['value']:.3f} | {one['after_nats']['value']:.3f} |"
        for one in numbers["students"]
    ]
    return ["\n".join([head, *rows])]


RECIPE = Recipe(
    name="robust-recovery",
    title="Robust recovery of low rank, and factors of a language model",
    paper="Global Convergence of Sub-gradient Method for Robust Matrix Recovery, arXiv 2202.08788",
    claim="Sub-gradient steps on an absolute loss over a factorisation with more columns than the rank, started small, recover a "
    "low-rank matrix from measurements of which a share is corrupted by any amount.",
    differences=(
        "One size of matrices; noise on all measurements, which the paper treats too, is left out.",
        "The start is random and small; there its direction is the sub-gradient at 0.",
        "The language model is ours: the paper has none, and its outliers are what does not belong, while large entries of a "
        "language model's matrices do.",
        "There absolute errors start from the whitened factors: from a small start they do not arrive in as many steps, since "
        "inputs differ in size by orders of magnitude.",
    ),
    run=run,
    scales=SCALES,
    tables=tables,
    short={
        "despite gross outliers": Short("Absolute errors from a small start recover, squares do not", "median [^;]+"),
        "how many columns": Short("More columns than the rank cost nothing", "error with [^;]+"),
        "has to be small": Short("The start has to be small", "error from [^;]+"),
        "fitted robustly": Short("Robust fits help a language model on dirty text", "trimmed: [^;]+"),
        "Entries kept apart": Short("Entries kept apart are worth their parameters", "difference [^;]+"),
        "better than one that is pruned": Short(
            "Factors are better than pruning at equal parameters", "difference [^;]+"
        ),
    },
)
