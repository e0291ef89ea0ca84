"""The criteria of the recipe generalization."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from limbeck.papers.lab.paired import t_interval
from limbeck.papers.lab.recipe import ClaimResult, Verdict
from limbeck.probes.interval import Interval

NEAR, FAR = 0.03, 0.1  # relative differences of the formula from simulations
WITHIN = 0.05  # a share by which an error may be above that of the best stop
MOST, FEW = 0.8, 0.5  # shares of the read-outs

Errors = Mapping[int, Mapping[int, Sequence[Mapping[str, float]]]]  # by samples, then by width, one a seed


def judge_formula(differences: Mapping[float, float], draws: int) -> ClaimResult:
    """Judges the formula by its largest relative difference from simulations, at each number of samples over numbers."""
    verdict: Verdict = "inconclusive"
    if all(found <= NEAR for found in differences.values()):
        verdict = "confirmed"
    elif any(found > FAR for found in differences.values()):
        verdict = "refuted"
    seen = ", ".join(f"{found:.1%} at {ratio:g} samples per number" for ratio, found in differences.items())
    return ClaimResult(
        "The formula gives the held-out error of a linear read-out at each time of its training.",
        f"Confirmed: means over simulations differ from it by at most {NEAR:.0%} at each time and each number of samples. "
        f"Refuted: by more than {FAR:.0%} at one. Inconclusive otherwise.",
        verdict,
        f"largest difference {seen}; n = {draws} draws of the inputs at each.",
    )


def judge_peak(errors: Errors) -> ClaimResult:
    """Judges whether training to the end does worst with as many features as samples."""
    found = {samples: [_above(by, samples, other) for other in (min(by), max(by))] for samples, by in errors.items()}
    verdict: Verdict = "inconclusive"
    if all(one.low > 0 for both in found.values() for one in both):
        verdict = "confirmed"
    elif any(one.high < 0 for both in found.values() for one in both):
        verdict = "refuted"
    seen = ", ".join(
        f"{math.exp(few.value):.3g} and {math.exp(many.value):.3g} times at {samples:,}"
        for samples, (few, many) in found.items()
    )
    return ClaimResult(
        "Trained to the end, a read-out of random features of a language model's hidden states errs most with as many features "
        "as samples.",
        "Confirmed: its test error is above that with the fewest and that with the most features, by the whole 95 % interval of "
        "the logarithm over seeds, at each number of samples. Refuted: below one of them, by the whole interval, at one. "
        "Inconclusive otherwise.",
        verdict,
        f"error of that with fewest and most features {seen} samples; n = {_seeds(errors)} seeds.",
    )


def judge_stop(errors: Errors) -> ClaimResult:
    """Judges whether the formula's stop is about as good as the best in hindsight."""
    share = {how: share_within(errors, how) for how in ("formula", "left_out", "end")}
    verdict: Verdict = "inconclusive"
    if share["formula"] >= MOST:
        verdict = "confirmed"
    elif share["formula"] < FEW:
        verdict = "refuted"
    count = sum(len(rows) for by in errors.values() for rows in by.values())
    return ClaimResult(
        "From the spectrum of the features and the labels, the formula says when to stop.",
        f"Confirmed: in at least {MOST:.0%} of the read-outs the test error at its stop is at most {WITHIN:.0%} above that at "
        f"the best stop in hindsight. Refuted: in fewer than {FEW:.0%}. Inconclusive otherwise.",
        verdict,
        f"{share['formula']:.0%} within {WITHIN:.0%} by the formula; {share['left_out']:.0%} by samples left out; "
        f"{share['end']:.0%} trained to the end; n = {count} read-outs.",
    )


def share_within(errors: Errors, how: str) -> float:
    """The share of the read-outs whose error is within the margin of the best."""
    rows = [one for by in errors.values() for many in by.values() for one in many]
    return float(np.mean([one[how] <= (1 + WITHIN) * one["best"] for one in rows]))


def _above(by: Mapping[int, Sequence[Mapping[str, float]]], width: int, other: int) -> Interval:
    return t_interval([math.log(a["end"] / b["end"]) for a, b in zip(by[width], by[other], strict=True)])


def _seeds(errors: Errors) -> int:
    return len(next(iter(next(iter(errors.values())).values())))
