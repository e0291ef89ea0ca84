"""Paired differences that recipes judge by, with intervals over held-out documents and seeds.

The results of a student are an array (seeds, documents, 2): the nats and the tokens of each document.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy.special import stdtrit

from limbeck.probes.interval import CHANCE, Interval, bootstrap
from limbeck.report.words import interval

Losses = Float[np.ndarray, "seeds documents 2"]
Ladder = Float[np.ndarray, "seeds teachers documents 2"]


def mean(losses: Losses) -> Interval:
    """The loss in nats per token, with its interval. The array is (seeds, documents, 2)."""
    return _interval(losses[..., 0], losses[..., 1])


def gain(losses: Losses, less: Losses) -> Interval:
    """The advantage of the second over the first in nats per token, paired by seed and document."""
    return _interval(losses[..., 0] - less[..., 0], losses[..., 1])


def t_interval(values: Sequence[float]) -> Interval:
    """The mean of independent values with its 95 % interval by Student's t; without one for a single value."""
    n, mean = len(values), float(np.mean(values))
    if n < 2:
        return Interval(mean, math.nan, math.nan, n)
    half = float(-stdtrit(n - 1, CHANCE / 2) * np.std(values, ddof=1) / math.sqrt(n))
    return Interval(mean, mean - half, mean + half, n)


def slope(losses: Ladder, sizes: Sequence[float], *, against: Ladder | None = None) -> Interval:
    """A student's gain in nats per doubling of its teacher: minus the slope of its loss over log2 of the teachers' sizes.

    With ``against``, the difference from its slope. Each seed has its own fit, so that the interval has both seeds and
    documents.
    """
    x = np.log2(sizes) - np.mean(np.log2(sizes))
    nats = losses[..., 0] if against is None else losses[..., 0] - against[..., 0]
    return _interval(np.einsum("t,std->sd", -x / (x @ x), nats), losses[:, 0, :, 1])


def nothing_in(found: Interval, least: float) -> bool:
    """Whether a gain may be 0 and is certainly below what would matter. Undecided if the interval is wide."""
    return found.low <= 0 and found.high < least


def with_interval(found: Interval) -> str:
    """The value and its interval, as text."""
    return interval(found, "+.4f")


def _interval(sums: Float[np.ndarray, "seeds documents"], counts: Float[np.ndarray, "seeds documents"]) -> Interval:
    return bootstrap(lambda total: total[..., :1] / total[..., 1:], np.stack([sums, counts], -1))[0]
