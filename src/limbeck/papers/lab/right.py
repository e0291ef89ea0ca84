"""Shares of right answers that recipes judge by: an array (seeds, questions) with 1 for each right answer of a seed's model.

The share of several runs of a seed may stand in its place. Differences are paired by seed and question.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from limbeck.papers.lab.recipe import ClaimResult, Verdict
from limbeck.probes.interval import Interval, difference_interval
from limbeck.report.words import interval, share

# Choices of the recipes that judge by them, set before their first runs.
EQUAL = 0.02  # what two equally good models may differ by
FLOOR = 0.3  # accuracy below which nothing was learned that could be compared

Right = Float[np.ndarray, "seeds questions"]


def difference(ours: Right, theirs: Right) -> Interval:
    """How much more often ours answers right, with its interval over questions and seeds."""
    return difference_interval(ours, theirs, np.ones(ours.shape[1]))


def in_points(found: Interval) -> str:
    """A difference of accuracies with its interval, in points of a hundred."""
    points = Interval(100 * found.value, 100 * found.low, 100 * found.high, found.n)
    return f"{interval(points, '+.1f')} points"


def counted(right: Right, what: str) -> str:
    """The number of questions and of seeds; ``what`` the questions are called."""
    return f"n = {right.shape[1]:,} {what}, {right.shape[0]} seeds"


def learned(ours: Right, theirs: Right) -> bool:
    """Whether one of two models answers often enough that they can be compared."""
    return max(float(ours.mean()), float(theirs.mean())) >= FLOOR


def verdict_of_more(ours: Right, theirs: Right, least: float, *, room: float = 1.0) -> Verdict:
    """Whether ours answers more, by more than ``least``.

    Confirmed where it does, and the whole interval of the difference is above 0; refuted where the whole interval is below
    ``least``, unless theirs answers more than ``room``. Inconclusive otherwise, and where neither has `learned`.
    """
    found = difference(ours, theirs)
    if not learned(ours, theirs):
        return "inconclusive"
    if found.low > 0 and found.value > least:
        return "confirmed"
    return "refuted" if found.high < least and float(theirs.mean()) <= room else "inconclusive"


def judge_as_good(ours: Right, theirs: Right, claim: str, what: str) -> ClaimResult:
    """A claim that ours is no worse; ``what`` the questions are called."""
    found = difference(ours, theirs)
    verdict: Verdict = "inconclusive"
    if learned(ours, theirs) and found.low > -EQUAL:
        verdict = "confirmed"
    elif learned(ours, theirs) and found.high < -EQUAL:
        verdict = "refuted"
    return ClaimResult(
        claim,
        f"Confirmed: the whole 95 % interval of the difference in answered test {what}, over {what} and seeds, is above "
        f"-{EQUAL * 100:g} points. Refuted: the whole interval is below it. Inconclusive otherwise, and where both answer fewer "
        f"than {share(FLOOR)}.",
        verdict,
        f"difference {in_points(found)}; {counted(ours, what)}.",
    )
