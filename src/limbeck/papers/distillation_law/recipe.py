"""The distillation scaling law: its published value, a refit against a law without a capacity gap, and its limit.

The teachers of a pilot are models trained on text alone, of other sizes and tokens than its students. So they are points of the
supervised law, which the pilot would not determine without them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from limbeck.errors import BadPoints, NotConverged
from limbeck.jobs.pilot.grid import SCALES
from limbeck.papers.lab.pilots import evidence, size_of
from limbeck.papers.lab.recipe import ClaimResult, Outcome, Recipe, RecipeContext, Short, Verdict
from limbeck.planning.laws.distillation import COMPUTE_OPTIMAL, PUBLISHED, RELATIVE_ERROR
from limbeck.planning.laws.estimate import Estimate
from limbeck.planning.laws.fit import DistillationFit, Validation, cross_validate, fit_distillation_law
from limbeck.planning.laws.limit import published_gains, refitted_gains
from limbeck.planning.laws.points import Point, with_teachers
from limbeck.report.words import interval

TABLE, ROUNDING = 2.42, 0.005  # nats per token of the paper's table of students of 546M, teacher of 1.82B
HELD_OUT = 0.03  # relative error up to which a held-out cell counts as predicted
FAR = 1e6  # tokens per parameter, far beyond any training
_RUNS = "73 supervised and 697 distilled runs in the paper"


def run(context: RecipeContext) -> Outcome:
    """Runs or reads the pilot, fits the law, and judges the claims."""
    seen = evidence(context)
    points = with_teachers([point for point in seen.points if point.arm == "fresh"])
    found = refit(points)
    gains: list[Estimate] = []
    numbers: dict[str, Any] = {"published_nats": published(), "refit": found}
    if not isinstance(found, str):
        fit, validation = found
        gains = refitted_gains(fit, points, tokens=FAR)
        numbers["refit"] = {
            "validation": asdict(validation),
            "intervals": {k: asdict(v) for k, v in fit.intervals.items()},
        }
    stated = f"± {RELATIVE_ERROR:.0%} as the paper says; n = {_RUNS}; no seeds"
    judged = (
        judge_number(published()),
        judge_refit(found if isinstance(found, str) else found[1], size_of(points)),
        judge_limit("published law", published_gains(tokens=FAR), stated),
        judge_limit("law refitted here", gains, size_of(points)),
    )
    return Outcome(seen.said, judged, numbers, seen.figures, seen.cpu_seconds)


def refit(points: Sequence[Point]) -> tuple[DistillationFit, Validation] | str:
    """The law of the points and its cross-validation, or the reason why there is none."""
    try:
        return fit_distillation_law(points), cross_validate(points)
    except (BadPoints, NotConverged) as error:
        return str(error)


def published() -> float:
    """The paper's loss of a student of 546M with a teacher of 1.82B, in nats per token."""
    student, teacher = 546e6, 1.82e9
    return float(PUBLISHED.of_teacher(student, COMPUTE_OPTIMAL * student, teacher, COMPUTE_OPTIMAL * teacher))


def judge_number(value: float) -> ClaimResult:
    """Judges whether the published coefficients give the published loss."""
    off = RELATIVE_ERROR * value
    return ClaimResult(
        "The published coefficients give the loss in the paper's table: 2.42 nats for a teacher of 1.82B, a student of 546M, "
        "20 tokens per parameter.",
        f"Confirmed: within {ROUNDING} of {TABLE}, which is how the table is rounded. Refuted otherwise.",
        "confirmed" if abs(value - TABLE) <= ROUNDING else "refuted",
        f"{value:.4f} ({value - off:.3f} to {value + off:.3f} by the law's stated error of {RELATIVE_ERROR:.0%}); n = {_RUNS}; "
        "computed, so without seeds.",
    )


def judge_refit(found: Validation | str, size: str) -> ClaimResult:
    """Judges whether a refit predicts held-out cells, and better than without a capacity gap."""
    verdict: Verdict = "inconclusive"
    seen = f"no law was fitted: {found}"
    if isinstance(found, Validation):
        error, gain = interval(found.error, ".2%"), interval(found.gain, ".2%")
        seen = f"error {error}, without a gap larger by {gain}, {found.cells} cells"
        if found.gain.high <= 0:
            verdict = "refuted"
        elif found.gain.low > 0 and found.error.high < HELD_OUT:
            verdict = "confirmed"
    return ClaimResult(
        "Refitted, the law predicts students it has not seen, and its capacity gap is needed for that.",
        f"Arm fresh, each cell left out once, five parts. Confirmed: the 95 % interval over cells of the mean relative error is "
        f"below {HELD_OUT:.0%}, and that of the gain over a law without a gap (c1 = 0) above 0. Refuted: the gain's interval "
        "does not reach above 0. Inconclusive otherwise, and where the points determine no law.",
        verdict,
        f"{seen}; {size}.",
    )


def judge_limit(law: str, gains: Sequence[Estimate], size: str) -> ClaimResult:
    """Judges whether training on text catches up by a law. ``gains`` are nats of distillation far out, by pair."""
    verdict: Verdict = "inconclusive"
    seen = f"there is no {law}"
    if gains:
        most, behind = max(gains, key=lambda gain: gain.high), sum(gain.high < 0 for gain in gains)
        seen = f"text alone is ahead in {behind} of {len(gains)} pairs; distillation gains at most {interval(most, '+.4f')} nats"
        verdict = (
            "confirmed" if behind == len(gains) else "refuted" if max(g.low for g in gains) > 0 else "inconclusive"
        )
    return ClaimResult(
        f"With enough student tokens training on text alone always catches up, by the {law}.",
        f"At {FAR:,.0f} tokens per parameter, extrapolated. Confirmed: in every pair of student and teacher the interval of what "
        "distillation gains is below 0. Refuted: it is above 0 in one. Inconclusive otherwise.",
        verdict,
        f"{seen}; {size}.",
    )


RECIPE = Recipe(
    name="distillation-law",
    title="The distillation scaling law",
    paper="Distillation Scaling Laws, arXiv 2502.08606",
    claim="A student's loss follows from its size, its tokens and its teacher's loss alone; a teacher can be too good for its "
    "student; and with enough tokens training on text catches up with distillation.",
    differences=(
        "The paper has students and teachers of 143M to 12.6B parameters on English C4, under muP; here they are a pilot's.",
        "The pilot's objective is half cross-entropy, half forward KL; the paper's is forward KL alone.",
        "d1 and gamma' are held at their published values: a pilot does not determine them.",
        "Two numbers of student tokens, one per size; the paper has many.",
        "A teacher serves as a point of the supervised law too; the paper trains 73 models for that.",
    ),
    run=run,
    scales=SCALES,
    takes_points=True,
    short={
        "The published coefficients": Short("The published coefficients give the table's 2.42 nats", "^[^;]+"),
        "Refitted": Short("Refitted, the law predicts unseen students and needs its gap", "^[^;]+"),
        "by the published law": Short("Text alone catches up, by the published law", "^[^;]+; [^;]+"),
        "by the law refitted here": Short("Text alone catches up, by the refitted law", "^[^;]+; [^;]+"),
    },
)
