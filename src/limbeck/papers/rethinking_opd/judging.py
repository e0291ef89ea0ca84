"""The criteria of the recipe rethinking-opd. Gains are differences of greedy answers to the same test chains, by seed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy.special import stdtrit
from scipy.stats import rankdata

from limbeck.papers.lab.recipe import ClaimResult, Verdict
from limbeck.papers.lab.right import Right, counted, difference, in_points
from limbeck.probes.interval import CHANCE, Interval, bootstrap
from limbeck.report.words import interval, share

LITTLE = 0.3  # a correlation below which overlap would say little
NEAR = 0.1  # accuracy in which teachers of two patterns may differ
AHEAD = 0.1  # accuracy by which a teacher must be ahead of its student
HALF = 0.5  # of the share of the gap that teachers with new chains close

Means = Float[np.ndarray, " pairs"]


def judge_overlap(
    overlap: Means, divergence: Means, accuracy: Means, gains: Means, patterns: Sequence[str]
) -> ClaimResult:
    """Judges whether overlap before predicts gains among teachers of one pattern, by itself and beside what else is known before.

    All are means over seeds. Teachers of a pattern are alike, so over all of them a difference between two patterns would count
    as many pairs.
    """
    within = [np.array([one == kind for one in patterns], float) for kind in sorted(set(patterns))[1:]]
    alone, beside = correlation(overlap, gains, within), correlation(overlap, gains, (*within, divergence, accuracy))
    verdict: Verdict = "inconclusive"
    if alone.low > 0 and beside.low > 0:
        verdict = "confirmed"
    elif alone.high < LITTLE or beside.high < LITTLE:
        verdict = "refuted"
    return ClaimResult(
        "The overlap of the most probable tokens of student and teacher, on the student's own answers before, predicts what "
        "on-policy distillation gains, and does so beyond the teacher's accuracy and the divergence before.",
        "Confirmed: over pairs of student and teacher, Spearman's correlation of overlap and gain given the teacher's pattern is "
        "above 0, and so is the partial one given KL(student || teacher) and the teacher's accuracy too, each by its whole 95 % "
        "interval (Fisher's z). "
        f"Refuted: one of the two is below {LITTLE:g} by its whole interval. Inconclusive otherwise.",
        verdict,
        f"correlation {_plain(alone)}; partial correlation {_plain(beside)}; of the divergence with gains "
        f"{_plain(correlation(divergence, gains, within))}, of the teacher's accuracy "
        f"{_plain(correlation(accuracy, gains, within))}; of overlap over all patterns {_plain(correlation(overlap, gains))}; "
        f"n = {len(gains)} pairs, means over seeds.",
    )


def judge_pattern(same: Right, other: Right, teachers: tuple[float, float]) -> ClaimResult:
    """Judges whether a teacher that writes as the student does teaches more. ``teachers``: accuracies of both kinds."""
    found = difference(same, other)
    fair = abs(teachers[0] - teachers[1]) <= NEAR
    verdict: Verdict = "inconclusive"
    if fair and found.low > 0:
        verdict = "confirmed"
    elif fair and found.high <= 0:
        verdict = "refuted"
    return ClaimResult(
        "On-policy distillation gains more from a teacher that writes derivations as the student does than from one that "
        "writes them otherwise.",
        "Confirmed: the student answers more test chains greedily after the first, by the whole 95 % interval over chains and "
        f"seeds. Refuted: no more, by the whole interval. Inconclusive otherwise, and where the teachers' accuracies differ by "
        f"more than {100 * NEAR:g} points.",
        verdict,
        f"difference {in_points(found)}; teachers {share(teachers[0])} and {share(teachers[1])}; {counted(same, 'chains')}.",
    )


def judge_knowledge(before: Right, seen: tuple[Right, Right], new: tuple[Right, Right]) -> ClaimResult:
    """Judges whether a teacher has to know more than what the student was trained on.

    ``seen`` and ``new`` are right answers of the student after it, and of the teacher.
    """
    columns = np.stack([before, *seen, *new, np.ones_like(before)], -1)
    of_seen, of_new, less = bootstrap(_closed, columns)
    gap = float(seen[1].mean() - before.mean())
    verdict: Verdict = "inconclusive"
    if gap >= AHEAD and less.high < 0:
        verdict = "confirmed"
    elif gap >= AHEAD and less.low > 0:
        verdict = "refuted"
    return ClaimResult(
        "A better teacher that was trained on what the student was trained on teaches little: a teacher has to know something "
        "new to the student.",
        "Confirmed: of the gap to its teacher in accuracy, a student closes less than half the share with a larger teacher of "
        "the same chains that it closes with one of further chains, by the whole 95 % interval over chains and seeds. Refuted: "
        f"more than half, by the whole interval. Inconclusive otherwise, and where the first teacher is not {100 * AHEAD:g} "
        "points ahead of the student.",
        verdict,
        f"share closed less half of the other's {_plain(less)}; of the same chains {_plain(of_seen)}, of further chains "
        f"{_plain(of_new)}; that teacher is {100 * gap:+.1f} points ahead; {counted(before, 'chains')}.",
    )


def judge_on_policy(on: Right, off: Right, off_by_flops: Right) -> ClaimResult:
    """Judges whether the student's own answers teach more than the teacher's, at equal tokens and at equal FLOPs."""
    tokens, flops = (difference(on, one) for one in (off, off_by_flops))
    verdict: Verdict = "inconclusive"
    if min(tokens.low, flops.low) > 0:
        verdict = "confirmed"
    elif tokens.high <= 0 or flops.high <= 0:
        verdict = "refuted"
    return ClaimResult(
        "Distillation on the student's own answers gains more than on the teacher's.",
        "Confirmed: over all teachers, the student answers more test chains greedily, at equal tokens and at equal FLOPs, each "
        "by the whole 95 % interval over chains and seeds. Refuted: no more in one of the two, by the whole interval. "
        "Inconclusive otherwise.",
        verdict,
        f"difference at equal tokens {in_points(tokens)}; difference at equal FLOPs {in_points(flops)}; {counted(on, 'chains')}.",
    )


def correlation(x: Means, y: Means, given: Sequence[Means] = ()) -> Interval:
    """Spearman's correlation of x and y, partial if others are ``given``, with its 95 % interval by Fisher's z.

    The standard error is that of Bonett and Wright (2000), with Student's t. An interval of NaN means too few values, or none
    that differ.
    """
    n, k = len(x), len(given)
    ranks = [rankdata(one) for one in (x, y, *given)]
    if n < k + 5 or any(np.ptp(one) == 0 for one in ranks):
        return Interval(math.nan, math.nan, math.nan, n)
    design = np.stack([np.ones(n), *ranks[2:]], -1)
    a, b = (one - design @ np.linalg.lstsq(design, one, rcond=None)[0] for one in ranks[:2])
    r = float(np.clip(a @ b / math.sqrt((a @ a) * (b @ b)), -1, 1))
    bounded = min(max(r, -1 + 1e-12), 1 - 1e-12)
    half = float(-stdtrit(n - k - 2, CHANCE / 2)) * math.sqrt((1 + r * r / 2) / (n - k - 3))
    low, high = (math.tanh(math.atanh(bounded) + side * half) for side in (-1, 1))
    return Interval(r, low, high, n)


def _closed(total: Float[np.ndarray, "... 6"]) -> Float[np.ndarray, "... 3"]:
    """The share of the gap that a student closes with either kind of teacher, and the first less half the second."""
    before, seen, its_teacher, new, other_teacher, _ = np.moveaxis(total, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):  # a teacher that is not ahead, which decides nothing
        first, second = (seen - before) / (its_teacher - before), (new - before) / (other_teacher - before)
    return np.stack([first, second, first - HALF * second], -1)


def _plain(found: Interval) -> str:
    return interval(found, "+.2f")
