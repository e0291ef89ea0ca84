"""The law of capacity gap: whether the best teacher has 2.5 times its student's size, and whether only its loss matters.

The recipe judges a pilot: students of several sizes, each distilled from a ladder of teachers in two arms. In arm "cut", pruning
a student from a larger teacher removes more, which alone makes a valley. A capacity gap needs a valley in arm "fresh" too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from limbeck.jobs.pilot.grid import SCALES
from limbeck.jobs.pilot.results import ratio_fits
from limbeck.papers.lab.pilots import evidence, size_of, unsuited
from limbeck.papers.lab.recipe import ClaimResult, Outcome, Recipe, RecipeContext, Short, Verdict
from limbeck.planning.laws.equal_loss import size_at_equal_loss
from limbeck.planning.laws.points import Point
from limbeck.planning.laws.ratio import RatioFit, Valley
from limbeck.report.words import interval

RATIO = 2.5  # best teacher over student, as the paper summarises
FACTOR = 2.0  # an interval that extends further than this factor from the ratio cannot confirm it
NEGLIGIBLE = 0.01  # nats per doubling of the teacher at equal teacher loss that do not matter
COLLINEAR = 100.0  # variance inflation of size by loss: thousands in a plain ladder, ten with two over-trained teachers


def run(context: RecipeContext) -> Outcome:
    """Runs or reads the pilot, and judges the claims."""
    seen = evidence(context)
    fits = {arm: f if isinstance(f, str) else f.row() for arm, f in ratio_fits(seen.points).items()}
    numbers = {"fits": fits, "rates": seen.rates}
    return Outcome(seen.said, judge(seen.points, seen.rates), numbers, seen.figures, seen.cpu_seconds)


def judge(points: Sequence[Point], rates: Sequence[Mapping[str, Any]]) -> tuple[ClaimResult, ...]:
    """The results of the three claims. ``rates`` are the checks of the learning rate from a pilot's fits.json."""
    fits, doubt = ratio_fits(points), unsuited(rates)
    return _valley(points, fits, doubt), _ratio(points, fits["cut"], doubt), _loss_alone(points)


def _valley(points: Sequence[Point], fits: Mapping[str, RatioFit | str], doubt: str) -> ClaimResult:
    cut, fresh = fits["cut"], fits["fresh"]
    verdict: Verdict = "inconclusive"
    if isinstance(cut, RatioFit) and isinstance(fresh, RatioFit) and not doubt:
        verdict = _shape(cut.valleys, fresh.valleys)
    said = [f"{arm}: {f if isinstance(f, str) else '; '.join(map(str, f.valleys))}" for arm, f in fits.items()]
    return ClaimResult(
        "For each student size there is a best teacher, neither the smallest nor the largest, at one ratio for all sizes.",
        "Confirmed: two student sizes or more, all with an optimum whose 95 % interval excludes both ends of the ladder, in arm "
        "cut and in arm fresh, and within an arm the intervals of the ratio have a point in common. Refuted: every curve is "
        "monotone; or there is an optimum in arm cut alone, and arm fresh is monotone there or would have shown a dip of that "
        "depth (then it is pruning damage). Inconclusive otherwise, and where a learning rate suits one end better.",
        verdict,
        _joined(*said, doubt, size_of(points)),
    )


def _shape(cut: Sequence[Valley], fresh: Sequence[Valley]) -> Verdict:
    if all(v.kind == "optimum" for v in (*cut, *fresh)):
        return "confirmed" if min(len(cut), len(fresh)) > 1 and _alike(cut) and _alike(fresh) else "inconclusive"
    if all(v.kind in ("falling", "rising") for v in (*cut, *fresh)):
        return "refuted"
    other = {valley.student: valley for valley in fresh}
    bent = [valley for valley in cut if valley.kind == "optimum"]
    excluded = bool(bent) and all(v.student in other and _excludes(other[v.student], v) for v in bent)
    return "refuted" if excluded and not any(v.kind == "optimum" for v in fresh) else "inconclusive"


def _alike(valleys: Sequence[Valley]) -> bool:
    ratios = [valley.ratio for valley in valleys if valley.ratio is not None]
    return max(ratio.low for ratio in ratios) <= min(ratio.high for ratio in ratios)


def _excludes(fresh: Valley, cut: Valley) -> bool:
    """Whether the curve of arm fresh excludes a dip as deep as that of arm cut."""
    depth = cut.curvature.value * (np.log(cut.highest / cut.lowest) / 2) ** 2
    return fresh.kind in ("falling", "rising") or (fresh.kind == "flat" and fresh.detectable_nats <= depth)


def _ratio(points: Sequence[Point], fit: RatioFit | str, doubt: str) -> ClaimResult:
    verdict: Verdict = "inconclusive"
    seen = fit if isinstance(fit, str) else "no size has an optimum, so there is no line"
    if isinstance(fit, RatioFit) and fit.slope is not None and fit.intercept is not None:
        seen = f"slope {interval(fit.slope, '.2f')}, intercept {interval(fit.intercept, ',.0f')} parameters"
        if not fit.slope.holds(RATIO):
            verdict = "refuted"
        elif fit.slope.low >= RATIO / FACTOR and fit.slope.high <= RATIO * FACTOR:
            verdict = "confirmed" if all(v.kind == "optimum" for v in fit.valleys) else "inconclusive"
    elif isinstance(fit, RatioFit) and all(v.kind in ("falling", "rising") for v in fit.valleys):
        ends = [
            (v.highest, v.highest > RATIO) if v.kind == "falling" else (v.lowest, v.lowest < RATIO) for v in fit.valleys
        ]
        seen = f"the best teacher is at an end of the ladder: {', '.join(f'{end:.3g}' for end, _ in ends)} times the student"
        verdict = "refuted" if all(beyond for _, beyond in ends) else "inconclusive"
    return ClaimResult(
        "The best teacher grows linearly with its student and has about 2.5 times its parameters (slope 2.498, R² 0.9957).",
        f"In arm cut, as in the paper. Refuted: the 95 % interval of the slope of T* over S (of the ratio, where one size has an "
        f"optimum) excludes {RATIO}, or all curves are monotone to ends beyond it. Confirmed: it holds {RATIO}, lies within a "
        f"factor of {FACTOR:g} of it, all sizes have an optimum. Inconclusive otherwise, and where a rate suits one end better.",
        "inconclusive" if doubt else verdict,
        _joined(seen, doubt, size_of([p for p in points if p.arm == "cut" and p.distilled])),
    )


def _loss_alone(points: Sequence[Point]) -> ClaimResult:
    fresh = [p for p in points if p.arm == "fresh" and p.distilled]
    effect, cells = size_at_equal_loss(fresh, collinear=COLLINEAR)
    verdict: Verdict = "inconclusive"
    seen = "the teachers' sizes and losses go together, so one cannot be told from the other"
    if effect is not None:
        seen = (
            f"a doubling of the teacher at equal loss: {interval(effect, '+.4f')} nats, from {cells} means over seeds"
        )
        if effect.low >= -NEGLIGIBLE and effect.high <= NEGLIGIBLE:
            verdict = "confirmed"
        elif not effect.holds(0.0):
            verdict = "refuted"
    return ClaimResult(
        "A student's loss depends on its teacher's loss alone, not on its size (Busbridge et al., arXiv 2502.08606).",
        f"In arm fresh: the student's loss as a quadratic in the teacher's, for each student size, plus a common term in the "
        f"logarithm of the teacher's size. Confirmed: its 95 % interval lies within {NEGLIGIBLE} nats a doubling. Refuted: it "
        f"excludes 0, and is not within. Inconclusive otherwise, and where its variance inflation is above {COLLINEAR:g}.",
        verdict,
        _joined(seen, size_of(fresh)),
    )


def _joined(*parts: str) -> str:
    return "; ".join(filter(None, parts)) + "."


RECIPE = Recipe(
    name="capacity-gap",
    title="The law of capacity gap",
    paper="Towards the Law of Capacity Gap in Distilling Language Models, arXiv 2311.07052",
    claim="At a fixed student size the student first improves and then worsens as its teacher grows; the best teacher grows "
    "linearly with the student and has about 2.5 times its parameters.",
    differences=(
        "The paper distils GPT-2 and Pythia models of 70M to 2.8B parameters on OpenWebText and reads perplexity on WikiText2; "
        "here small Llamas are trained on the pilot's text and read on documents held out from it.",
        "The paper's students are all cut out of their teachers; here each is also trained from a fresh initialisation.",
        "Students are cut to a given shape by gradient importance; the paper ranks heads, neurons and channels globally.",
        "Sizes leave out embeddings; two small teachers are trained four times as long, to tell size from loss.",
        "The learning rate follows from the student's size and is checked at the ends; the paper's is not known here.",
    ),
    run=run,
    scales=SCALES,
    takes_points=True,
    short={
        "there is a best teacher": Short(
            "Each size of pruned student has a best teacher, at one ratio",
            "(?:best at [^;]+|no optimum inside|flat, any teacher will do)(?=.*; fresh: )",
        ),
        "grows linearly": Short("The best teacher has 2.5 times its student's parameters", "^[^;]+"),
        "on its teacher's loss alone": Short("Only the teacher's loss counts, not its size", "^[^;]+"),
    },
)
