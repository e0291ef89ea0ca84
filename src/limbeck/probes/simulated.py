"""Tests estimators of a pass rate on simulated counts: the bias of the mean, and the coverage of exact intervals.

Counts are simulated as the sampler would count them at known probabilities. The paper's r/K is too high wherever sampling
stops at a pass, by up to a factor of six at r = 1 for rates of one in a thousand.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.stats import beta, norm

from limbeck.probes.interval import Interval
from limbeck.probes.pass_rate import exact_interval, ratio, unbiased
from limbeck.probes.pass_until import Count

_LEAST = 1e-15  # smallest rate; waiting times of smaller rates overflow integers


@dataclass(frozen=True)
class Trial:
    """The result of an ``estimator`` at a number of ``successes``: relative bias of the mean, and coverage of exact intervals.

    The intervals of bias and coverage are simultaneous: those of all trials contain their true values together in 95 % of
    cases. n counts instances times repeats.
    """

    estimator: str
    successes: int
    exact_mean: float
    bias: Interval
    coverage: Interval


def simulate(
    rates: Float[np.ndarray, " draws"], successes: int, cap: int, generator: np.random.Generator
) -> list[Count]:
    """Simulates the sampler's counts at the pass probabilities ``rates``, with a limit of ``cap`` samples."""
    rates = np.maximum(rates, _LEAST)
    waited = successes + generator.negative_binomial(successes, rates)
    counts = []
    for rate, k in zip(rates.tolist(), waited.tolist(), strict=True):
        if k <= cap:
            counts.append(Count("", successes, k, capped=False))
            continue
        passed = successes
        while passed >= successes:
            passed = int(generator.binomial(cap, rate))
        counts.append(Count("", passed, cap, capped=True))
    return counts


def try_estimators(
    models: Sequence[Float[np.ndarray, " instances"]], *, successes: Sequence[int], repeats: int, cap: int
) -> list[list[Trial]]:
    """For each model, given as exact pass probabilities, the trials of both estimators at each number of successes."""
    number = sum(1 if r == 1 else 2 for r in successes) * len(models)
    return [[trial for r in successes for trial in _trials(exact, r, repeats, cap, number)] for exact in models]


def _trials(exact: np.ndarray, r: int, repeats: int, cap: int, number: int) -> list[Trial]:
    generator = np.random.default_rng(r)
    drawn = [simulate(np.repeat(p, repeats), r, cap, generator) for p in exact]
    known = {count: exact_interval(count) for count in {count for counts in drawn for count in counts}}
    held = sum(bool(known[c][0] <= p <= known[c][1]) for p, counts in zip(exact, drawn, strict=True) for c in counts)
    draws, left_out = len(exact) * repeats, 0.05 / number / 2
    covered = Interval(
        held / draws,
        float(beta.ppf(left_out, held, draws - held + 1)) if held else 0.0,
        float(beta.ppf(1 - left_out, held + 1, draws - held)) if held < draws else 1.0,
        draws,
    )
    found = []
    for name, estimate in (("r/K", ratio), ("(r-1)/(K-1)", unbiased)):
        if r == 1 and estimate is unbiased:
            continue
        values = np.array([estimate(counts) for counts in drawn])
        bias = float(values.mean() / exact.mean() - 1)
        spread = math.sqrt(float(values.var(axis=1, ddof=1).sum()) / repeats) / len(exact) / float(exact.mean())
        half = float(norm.isf(left_out)) * spread
        found.append(Trial(name, r, float(exact.mean()), Interval(bias, bias - half, bias + half, draws), covered))
    return found
