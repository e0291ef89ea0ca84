"""Judges estimators of a pass rate: r/K, which the paper uses, (r-1)/(K-1), and exact intervals.

The method is simulation at the exact probabilities of trained models.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from limbeck.jobs.probe.pass_until import Result
from limbeck.papers.lab.recipe import ClaimResult, Verdict
from limbeck.probes.simulated import Trial, try_estimators
from limbeck.report.words import interval

COVERAGE, SHORT = 0.95, 0.01  # of exact intervals, and the margin for the error of the simulation
MET = (1e-4, 0.5)  # mean rates for the simulation: lower rates have too few passes, higher ones little bias
WAITED, CAP = (1, 2, 4, 10), 10_000
REPEATS, _SMOKE_REPEATS = 200, 5  # of 200 instances: the coverage over 40,000 draws has an error of 0.3 %
_SIMULTANEOUS = "all intervals together at 95 %"


def try_on(results: Sequence[Result], *, smoke: bool = False) -> list[list[Trial]]:
    """Simulates the estimators at the exact probabilities of the smallest and the middle model that pass often enough.

    The last result is of the held-out model and takes no part.
    """
    exact = [np.exp([c.log_p for c in r.counts if c.log_p is not None]) for r in results[:-1]]
    met = [p for p in exact if p.size and MET[0] <= p.mean() <= MET[1]]
    chosen = [met[i] for i in sorted({0, len(met) // 2})] if met else []
    return try_estimators(chosen, successes=WAITED, repeats=_SMOKE_REPEATS if smoke else REPEATS, cap=CAP)


def judge_estimators(models: Sequence[Sequence[Trial]]) -> tuple[ClaimResult, ClaimResult]:
    """Judges whether r/K is biased and the unbiased estimator is not, and whether exact intervals have their coverage."""
    trials = [trial for model in models for trial in model]
    bias: Verdict = "inconclusive"
    cover: Verdict = "inconclusive"
    seen = covered = "no model had a mean rate at which estimators can be tried"
    if trials:
        theirs, ours = ([t for t in trials if (t.estimator == "r/K") == first] for first in (True, False))
        biased = [t.bias.excludes_zero for t in theirs]
        if not any(biased) or any(t.bias.excludes_zero for t in ours):
            bias = "refuted"
        elif all(biased):
            bias = "confirmed"
        n = f"n = {trials[0].bias.n:,} draws each, {len(models)} models; {_SIMULTANEOUS}; one seed for each r"
        worst = [max(group, key=lambda t: abs(t.bias.value)) for group in (theirs, ours)]
        biases = [f"{t.estimator} {interval(t.bias, '+.1%')} at r = {t.successes}" for t in worst]
        seen = f"largest bias of {', of '.join(biases)}; {n}"
        least = min(trials, key=lambda t: t.coverage.value)
        covered = f"least coverage {interval(least.coverage, '.1%')}; {n}"
        if any(t.coverage.high < COVERAGE for t in trials):
            cover = "refuted"
        elif all(t.coverage.low >= COVERAGE - SHORT for t in trials):
            cover = "confirmed"
    return ClaimResult(
        "The paper's estimate r/K is too high; (r-1)/(K-1) has no bias.",
        f"Simulated from exact probabilities at r = {', '.join(map(str, WAITED))}, {_SIMULTANEOUS}. Confirmed: the interval of "
        "the bias of the mean excludes 0 for r/K at every r, and holds it for the other. Refuted: the other's excludes 0 at some "
        "r, or r/K's at none. Inconclusive otherwise.",
        bias,
        f"{seen}.",
    ), ClaimResult(
        "Exact 95 % intervals of an instance's probability hold it in 95 % of cases.",
        f"In the same simulation. Refuted: the interval of the coverage lies below {COVERAGE:.0%} at some r. Confirmed: it lies "
        f"above {COVERAGE - SHORT:.0%} at every r. Inconclusive otherwise.",
        cover,
        f"{covered}.",
    )
