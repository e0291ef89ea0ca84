"""95 % intervals of whatever can be computed from sums over documents.

Documents are what was sampled, so documents are resampled (Efron & Tibshirani 1993, ch. 13): tokens of one document are
not independent, and an interval over tokens would be several times too narrow. Two models are compared on the same
resampled documents. The spread over training seeds comes on top, by Student's t, because resampling two or three seeds
cannot show how much a fourth would differ.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

RESAMPLES = 2000
_CELLS = 2**21  # of one block of resampling counts: 16 MB
_T = (
    12.706,
    4.303,
    3.182,
    2.776,
    2.571,
    2.447,
    2.365,
    2.306,
    2.262,
    2.228,
)  # two-sided 95 %, 1 to 10 degrees of freedom
_Z = 1.959964

Statistic = Callable[[Float[np.ndarray, "*draws columns"]], Float[np.ndarray, "*draws statistics"]]


@dataclass(frozen=True)
class Interval:
    """A value and the bounds of its 95 % interval, from ``n`` documents. One document gives no interval: NaN."""

    value: float
    low: float
    high: float
    n: int

    @property
    def half(self) -> float:
        """Half its width: what stands after the ±."""
        return (self.high - self.low) / 2

    @property
    def excludes_zero(self) -> bool:
        """Whether the sign is known."""
        return self.low > 0 or self.high < 0


def wilson(right: int, n: int) -> Interval:
    """The share of ``right`` among ``n`` independent trials (Wilson 1927): bounds inside 0 and 1 also where all, or none, are.

    Without trials the share is NaN, and somewhere between 0 and 1.
    """
    if n == 0:
        return Interval(math.nan, 0.0, 1.0, 0)
    share, spread = right / n, _Z**2 / n
    middle = (share + spread / 2) / (1 + spread)
    half = math.sqrt(share * (1 - share) * spread + spread**2 / 4) / (1 + spread)
    return Interval(share, middle - half if right else 0.0, middle + half if right < n else 1.0, n)


def share_interval(right: Float[np.ndarray, " rows"], asked: Float[np.ndarray, " rows"]) -> Interval:
    """The share of questions answered right, over rows that ask several each: those of a row are not independent.

    Where all are right, or none, resampling shows no spread; then a row counts as one trial (`wilson`).
    """
    n = len(right)
    if n < 2 or right.sum() in (0, asked.sum()):
        return wilson(n if right.sum() else 0, n)
    found = mean_interval(right, asked)
    return Interval(found.value, max(0.0, found.low), min(1.0, found.high), n)


def mean_interval(sums: Float[np.ndarray, " documents"], counts: Float[np.ndarray, " documents"]) -> Interval:
    """Sum of ``sums`` per sum of ``counts``, as nats per token."""
    return bootstrap(lambda total: total[..., :1] / total[..., 1:], np.stack([sums, counts], -1)[None])[0]


def difference_interval(
    sums_a: Float[np.ndarray, "seeds documents"],
    sums_b: Float[np.ndarray, "seeds documents"],
    counts: Float[np.ndarray, " documents"],
) -> Interval:
    """a - b per count, both measured on the same documents. Row k of either is of seed k."""
    difference = np.asarray(sums_a) - np.asarray(sums_b)
    columns = np.stack([difference, np.broadcast_to(counts, difference.shape)], -1)
    return bootstrap(lambda total: total[..., :1] / total[..., 1:], columns)[0]


def bootstrap(
    statistic: Statistic, runs: Float[np.ndarray, "seeds documents columns"], *, debias: bool = False
) -> list[Interval]:
    """Intervals of statistics of the column sums over documents, averaged over seeds.

    A document whose columns are all 0 was not read and does not count. Percentiles over resampled documents are widened
    as Student's t would, which matters below some 30 documents; the seeds' share is added in squares. ``debias`` moves
    the bounds by what resampling alone adds to the statistic: needed where noise counts one way, as in an absolute
    value.
    """
    runs = np.asarray(runs, dtype=np.float64)
    runs = runs[:, (runs != 0).any(axis=(0, 2))]
    seeds, n, _ = runs.shape
    per_seed = statistic(runs.sum(1))  # (seeds, statistics)
    value = per_seed.mean(0)
    if n < 2:
        return [Interval(float(v), math.nan, math.nan, n) for v in value]
    draws = np.concatenate([statistic(counts @ runs).mean(0) for counts in _resampling_counts(n)])
    low, high = np.percentile(draws, [2.5, 97.5], axis=0)
    shift = draws.mean(0) - value if debias else 0.0
    widen = _t(n - 1) / _Z * math.sqrt(n / (n - 1))
    spread = _t(seeds - 1) * per_seed.std(0, ddof=1) / math.sqrt(seeds) if seeds > 1 else 0.0
    below = np.hypot(np.maximum(0, value - (low - shift)) * widen, spread)
    above = np.hypot(np.maximum(0, (high - shift) - value) * widen, spread)
    return [
        Interval(float(v), float(v - down), float(v + up), n) for v, down, up in zip(value, below, above, strict=True)
    ]


def _resampling_counts(n: int) -> Iterator[Float[np.ndarray, "draws n"]]:
    """How often each of n documents is in each resample, a block of resamples at a time; always the same ones."""
    generator = np.random.default_rng(0)
    for start in range(0, RESAMPLES, block := max(1, _CELLS // n)):
        draws = min(block, RESAMPLES - start)
        yield generator.multinomial(n, np.full(n, 1 / n), size=draws).astype(np.float64)


def _t(freedom: int) -> float:
    """The 97.5 % quantile of Student's t (beyond the table by Fisher's expansion, right to 0.003)."""
    if freedom <= len(_T):
        return _T[freedom - 1]
    return _Z + (_Z**3 + _Z) / (4 * freedom) + (5 * _Z**5 + 16 * _Z**3 + 3 * _Z) / (96 * freedom**2)
