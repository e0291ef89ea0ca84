"""The criteria of the recipe sft-guide. Accuracies are of greedy answers to the same test skills, paired by seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from limbeck.papers.lab.paired import t_interval
from limbeck.papers.lab.recipe import ClaimResult, Verdict
from limbeck.papers.lab.right import FLOOR, Right, counted, difference, in_points, judge_as_good, learned
from limbeck.probes.interval import Interval
from limbeck.report.words import interval, share

# Set before the first run, and our choices. The paper gives no coefficient, and differences without seeds.
STRONG = 0.3  # a rank correlation that can choose between runs
LEAST = 0.02  # of accuracy, that matters


@dataclass(frozen=True)
class Group:
    """Runs of one base in one setting, which differ in the order of their samples: a signal of each, and its accuracy."""

    signal: Sequence[float]
    accuracy: Sequence[float]

    @property
    def correlation(self) -> float | None:
        """Spearman's rank correlation; None where all signals or all accuracies are equal."""
        ranks = [rankdata(values) for values in (self.signal, self.accuracy)]
        if any(np.ptp(one) == 0 for one in ranks):
            return None
        return float(np.corrcoef(*ranks)[0, 1])


def judge_norm(groups: Sequence[Group]) -> ClaimResult:
    """Judges the early norm of the gradient as a signal, between runs that differ in the order of their samples alone."""
    return _signal(groups, -1, "Of runs in the same setting, those whose gradients are small early end better.")


def judge_loss(groups: Sequence[Group]) -> ClaimResult:
    """Judges the early training loss as a signal, between runs that differ in the order of their samples alone."""
    return _signal(groups, 1, "Of runs in the same setting, those whose training loss is high early end better.")


def judge_batch(large: Right, small: Right, names: tuple[str, str], *, inside: bool) -> ClaimResult:
    """Judges large batches against small ones for as many samples, each at its best rate.

    ``inside``: neither rate is the first or the last that was tried.
    """
    found = difference(large, small)
    verdict: Verdict = "inconclusive"
    if inside and learned(large, small):
        if found.low > 0 and found.value > LEAST:
            verdict = "confirmed"
        elif found.high < LEAST:
            verdict = "refuted"
    return ClaimResult(
        "For equally many samples, the largest batch ends better than the smallest, each at its best rate.",
        f"Rates are those of the best validation over all seeds. Confirmed: more than {LEAST * 100:g} points more test skills "
        "are answered, and the whole 95 % interval over skills and seeds is above 0. Refuted: the whole interval is below that "
        f"many points. Inconclusive otherwise, where both answer fewer than {share(FLOOR)}, and where one of the rates is the "
        "lowest or the highest that was tried.",
        verdict,
        f"difference {in_points(found)}, {names[0]} from {names[1]}{'' if inside else ', at the edge of the rates'}; "
        f"{counted(large, 'skills')}.",
    )


def judge_schedule(constant: Right, decayed: Right) -> ClaimResult:
    """Judges a constant rate against warm-up and decay."""
    return judge_as_good(
        constant, decayed, "A constant rate without warm-up is as good as one with warm-up and a cosine.", "skills"
    )


def judge_stacked(stacked: Right, phased: Right) -> ClaimResult:
    """Judges all samples in every epoch against short answers before long ones."""
    return judge_as_good(
        stacked,
        phased,
        "All samples in every epoch are as good as two phases, short answers before long ones.",
        "skills",
    )


def judge_choice(by_signal: Right, by_validation: Right) -> ClaimResult:
    """Judges the choice of a setting by the early norm of the gradient against that by the early validation loss."""
    return judge_as_good(
        by_signal,
        by_validation,
        "Of all settings, the one whose gradients are smallest early is as good as the one whose validation loss is lowest then.",
        "skills",
    )


def _signal(groups: Sequence[Group], sign: int, claim: str) -> ClaimResult:
    """A claim that a signal predicts accuracy within a setting, with a correlation of a sign."""
    found = [one.correlation for one in groups]
    known = [one for one in found if one is not None]
    rho = t_interval(known) if known else Interval(float("nan"), float("nan"), float("nan"), 0)
    low, high = sorted((sign * rho.low, sign * rho.high))
    verdict: Verdict = "inconclusive"
    if sign * rho.value > STRONG and low > 0:
        verdict = "confirmed"
    elif high < STRONG:
        verdict = "refuted"
    runs = sum(len(one.signal) for one in groups)
    return ClaimResult(
        claim,
        f"Of each base in each setting the rank correlation over orders of samples is taken, and the mean of all. Confirmed: it "
        f"is stronger than {sign * STRONG:+g}, and its whole 95 % interval is on that side of 0. Refuted: the whole interval is "
        f"weaker than {sign * STRONG:+g}. Inconclusive otherwise.",
        verdict,
        f"mean correlation {interval(rho, '+.2f')}; n = {len(known)} groups of {len(groups)}, {runs} runs.",
    )
