"""Pass probabilities from counts: three estimators and exact intervals.

Sampling stops at the r-th pass or at the cap, so the likelihood is p^x (1 - p)^(n - x) in both cases, and its maximum is x/n,
the paper's r/K (arXiv 2310.03262, sec. 3). This estimate is biased upwards: at r = 1 by the factor -ln p / (1 - p), which is
11.5 at p = 1e-5. The unbiased estimator of this stopping rule is (r - 1)/(K - 1) if r passes were reached, and x/n at the cap
(Girshick, Mosteller & Savage 1946, Ann. Math. Stat. 17, 13). Zeros of capped instances are correct in a mean, though no
instance's probability is 0. The third estimator treats capped instances as censored. It fits a Beta distribution of p over
instances by the likelihood of all counts, and gives its mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from scipy.optimize import minimize
from scipy.special import betainccinv, betaincinv, betaln

from limbeck.errors import BadSetting
from limbeck.probes.interval import Interval, mean_interval
from limbeck.probes.pass_until import Count
from limbeck.types import Reading

_LEFT_OUT = 0.025  # on each side of a 95 % interval


def ratio(counts: Sequence[Count]) -> Float[np.ndarray, " instances"]:
    """The maximum-likelihood estimate x/n of each instance, which is r/K if it was not capped. It is biased upwards."""
    passed, drawn, _ = _arrays(counts)
    return passed / drawn


def unbiased(counts: Sequence[Count]) -> Float[np.ndarray, " instances"]:
    """The unbiased estimate of each instance: (r - 1)/(K - 1), or x/n if it was capped (Girshick et al. 1946).

    Raises BadSetting if an instance stopped at its first pass, where every unbiased estimate is 0 or 1.
    """
    passed, drawn, capped = _arrays(counts)
    if (~capped & (passed < 2)).any():
        raise BadSetting(
            "the unbiased estimate (r - 1)/(K - 1) needs counts of at least 2 successes, got 1: measure with --successes 2 "
            "or more, 4 is usual"
        )
    return np.where(capped, passed / drawn, (passed - 1) / np.maximum(drawn - 1, 1))


def exact_interval(count: Count) -> tuple[float, float]:
    """The exact 95 % interval of one instance's pass probability, with at least that coverage (Clopper & Pearson 1934).

    Outcomes are ordered by rising p: first capped ones by their passes, then waiting times from long to short. K <= k means at
    least r passes in k samples, so each bound is a quantile of a Beta distribution.
    """
    x, n = count.successes, count.samples
    low = float(betaincinv(x, n - x + 1, _LEFT_OUT)) if x else 0.0
    if count.capped:
        return low, float(betainccinv(x + 1, n - x, _LEFT_OUT)) if x < n else 1.0
    return low, float(betainccinv(x, n - x, _LEFT_OUT)) if x < n else 1.0


def censored_mean(counts: Sequence[Count]) -> float:
    """The mean of the Beta distribution of pass probabilities with the maximum likelihood of the counts; 0.0 without passes.

    The likelihood is beta-binomial, since the factor of the stopping rule does not depend on p.
    """
    passed, drawn, _ = _arrays(counts)
    return _beta_mean(passed, drawn, np.ones_like(passed))


def mean_pass(counts: Sequence[Count]) -> Interval:
    """The mean of the unbiased estimates over instances, with its 95 % interval from resampled instances."""
    return _mean_share(unbiased(counts))


def readings(model: str, counts: Sequence[Count], *, seed: int) -> list[Reading]:
    """The task's pass rate by each estimator, the exact rate if known, and the number of samples used. n counts instances.

    ``pass_rate`` is the unbiased estimate. It is left out if it needs more successes.
    """
    found: list[tuple[str, Interval, str]] = []
    passed, drawn, capped = _arrays(counts)
    if not (~capped & (passed < 2)).any():
        found.append(("pass_rate", mean_pass(counts), "probability"))
    found.append(("pass_rate_ratio", _mean_share(ratio(counts)), "probability"))
    found.append(("pass_rate_censored", censored_interval(counts), "probability"))
    exact = [count.log_p for count in counts if count.log_p is not None]
    if len(exact) == len(counts):
        found.append(("pass_rate_exact", _mean_share(np.exp(exact)), "probability"))
    found.append(("capped", _mean_share(capped.astype(float)), "share of instances"))
    found.append(("without_success", _mean_share((passed == 0).astype(float)), "share of instances"))
    found.append(("samples", _over_instances(drawn), "samples/instance"))
    return [Reading(model, "pass-until", name, x.value, unit, x.n, x.low, x.high, seed) for name, x, unit in found]


def censored_interval(counts: Sequence[Count]) -> Interval:
    """`censored_mean` with its 95 % interval from 100 resamples of the instances, by the normal distribution of log p."""
    passed, drawn, _ = _arrays(counts)
    value = _beta_mean(passed, drawn, np.ones_like(passed))
    n = len(passed)
    if value in (0, 1):
        return _mean_share(np.full(n, value))
    if n < 2:
        return Interval(value, math.nan, math.nan, n)
    generator = np.random.default_rng(0)
    draws = [_beta_mean(passed, drawn, w) for w in generator.multinomial(n, np.full(n, 1 / n), size=100).astype(float)]
    logs = np.log([draw for draw in draws if draw > 0])
    half = 1.96 * float(np.std(logs, ddof=1)) if len(logs) > 1 else math.nan
    return Interval(value, value * math.exp(-half), min(1.0, value * math.exp(half)), n)


def _beta_mean(passed: np.ndarray, drawn: np.ndarray, weight: np.ndarray) -> float:
    passed, drawn, weight = (column[weight > 0] for column in (passed, drawn, weight))
    total = float((weight * passed).sum())
    if total == 0:
        return 0.0
    if total == float((weight * drawn).sum()):
        return 1.0

    def nats(at: np.ndarray) -> float:
        a, b = np.exp(at)
        value = float(-(weight * (betaln(a + passed, b + drawn - passed) - betaln(a, b))).sum())
        return value if math.isfinite(value) else 1e300

    start = np.log([0.5, max(1e-4, 0.5 * ((weight * drawn).sum() / total - 1))])
    best = minimize(nats, start, method="L-BFGS-B", bounds=[(-12, 12), (-12, 25)], options={"maxiter": 100})
    a, b = np.exp(best.x)
    return float(a / (a + b))


def _mean_share(values: Float[np.ndarray, " instances"]) -> Interval:
    """The mean of numbers between 0 and 1 over instances, with its interval.

    If all are 0, or all 1, resampling shows no spread. Each instance is at least one trial of the mean's probability, so the
    exact bound for that many trials applies instead (Clopper & Pearson 1934).
    """
    n, first = len(values), values[0]
    if first not in (0, 1) or (values != first).any():
        return _over_instances(values)
    reach = _LEFT_OUT ** (1 / n)  # bound for n trials with equal outcomes
    return Interval(float(first), reach if first else 0.0, 1.0 if first else 1 - reach, n)


def _over_instances(values: Float[np.ndarray, " instances"]) -> Interval:
    return mean_interval(np.asarray(values, dtype=float), np.ones(len(values)))


def _arrays(
    counts: Sequence[Count],
) -> tuple[Float[np.ndarray, " instances"], Float[np.ndarray, " instances"], Bool[np.ndarray, " instances"]]:
    passed = np.array([count.successes for count in counts], dtype=float)
    drawn = np.array([count.samples for count in counts], dtype=float)
    return passed, drawn, np.array([count.capped for count in counts], dtype=bool)
