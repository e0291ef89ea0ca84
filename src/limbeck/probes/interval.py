"""95 % intervals of whatever can be computed from sums over documents.

Documents are what was sampled, so documents are resampled (Efron & Tibshirani 1993, ch. 13): tokens of one document are
not independent, and an interval over tokens would be several times too narrow. Two models are compared on the same
resampled documents. The spread over training seeds comes on top, by Student's t, because resampling two or three seeds
cannot show how much a fourth would differ. The two are added in squares, each with its own t: at least 95 % whichever is
the larger; with two seeds, whose t is 12.7, up to 99 %.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.optimize import brentq
from scipy.special import stdtrit

FEWEST_SEEDS = 3  # the spread of fewer says next to nothing about another seed
FEWEST_DOCUMENTS = 3  # of fewer no interval is given: Student's t of two is six times that of many, and says nothing
CHANCE = 0.05  # a difference as rare as this without a cause is called one
RESAMPLES = 2000
_CELLS = 2**21  # of one block of resampling counts: 16 MB
_Z = 1.959964
_LEAST = 1e-9  # of a probability: what 2,000 resamples show is nowhere near it

Statistic = Callable[[Float[np.ndarray, "*draws columns"]], Float[np.ndarray, "*draws statistics"]]


@dataclass(frozen=True)
class Interval:
    """A value and the bounds of its 95 % interval, from ``n`` documents. One or two documents give no interval: NaN."""

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

    def within(self, least: float, most: float = math.inf) -> Interval:
        """The same with bounds that are no further out than the value can be."""
        low, high = (float(np.clip(end, least, most)) for end in (self.low, self.high))
        return Interval(self.value, low, high, self.n)


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
    return found.within(0.0, 1.0)


def mean_interval(sums: Float[np.ndarray, " documents"], counts: Float[np.ndarray, " documents"]) -> Interval:
    """Sum of ``sums`` per sum of ``counts``, as nats per token."""
    return bootstrap(lambda total: total[..., :1] / total[..., 1:], np.stack([sums, counts], -1)[None])[0]


def difference_interval(
    sums_a: Float[np.ndarray, "seeds documents"],
    sums_b: Float[np.ndarray, "seeds documents"],
    counts: Float[np.ndarray, " documents"],
) -> Interval:
    """a - b per count, both measured on the same documents. Row k of either is of seed k."""
    return _difference(sums_a, sums_b, counts).interval()


def difference_test(
    sums_a: Float[np.ndarray, "seeds documents"],
    sums_b: Float[np.ndarray, "seeds documents"],
    counts: Float[np.ndarray, " documents"],
) -> tuple[Interval, float]:
    """The interval of a - b per count, and how likely a difference at least as large is where there is none (two-sided).

    The second is the level at which the interval's end would lie at 0, so below 5 % exactly where the interval excludes 0. It
    is NaN of one or two documents, and with one seed it is about the documents alone.
    """
    found = _difference(sums_a, sums_b, counts)
    return found.interval(), found.chance()


def holm(chances: Sequence[float]) -> list[float]:
    """The probabilities of several comparisons, so that the chance of any false one is what they say (Holm 1979).

    The smallest of m is multiplied by m, the next by m - 1, and so on; none is below one that was smaller. NaN is no comparison.
    """
    order = sorted((i for i, chance in enumerate(chances) if chance == chance), key=lambda i: chances[i])
    found, least = [math.nan] * len(chances), 0.0
    for rank, i in enumerate(order):
        found[i] = least = max(least, min(1.0, (len(order) - rank) * chances[i]))
    return found


def bootstrap(
    statistic: Statistic,
    runs: Float[np.ndarray, "seeds documents columns"],
    *,
    debias: bool = False,
    positive: bool = False,
) -> list[Interval]:
    """Intervals of statistics of the column sums over documents, averaged over seeds.

    A document whose columns are all 0 was not read and does not count. Percentiles over resampled documents are widened
    as Student's t would, which matters below some 30 documents; the seeds' share is added in squares. ``debias`` moves
    the bounds by what resampling alone adds to the statistic: needed where noise counts one way, as in an absolute
    value. ``positive``: the statistics are above 0, as nats are, and widened as ratios, so that the bounds are too.
    """
    return [spread.interval() for spread in _spreads(statistic, runs, debias=debias, positive=positive)]


@dataclass(frozen=True)
class _Spread:
    """What a value would be otherwise: of other documents below and above it (95 %), of other seeds by its standard error.

    All three are of its logarithm where it is ``positive``.
    """

    value: float
    below: float
    above: float
    n: int
    error: float
    seeds: int
    positive: bool = False

    def interval(self) -> Interval:
        if self.n < FEWEST_DOCUMENTS:
            return Interval(self.value, math.nan, math.nan, self.n)
        down, up = (math.hypot(side, _t(self.seeds - 1) * self.error) for side in (self.below, self.above))
        if self.positive:
            return Interval(self.value, self.value * math.exp(-down), self.value * math.exp(up), self.n)
        return Interval(self.value, self.value - down, self.value + up, self.n)

    def chance(self) -> float:
        """The level at which the interval would end at 0."""
        if self.n < FEWEST_DOCUMENTS or not math.isfinite(self.value):
            return math.nan
        side = self.below if self.value > 0 else self.above

        def beyond(level: float) -> float:
            documents = side * _t(self.n - 1, level) / _t(self.n - 1)
            return math.hypot(documents, _t(self.seeds - 1, level) * self.error) - abs(self.value)

        if beyond(1.0) >= 0:
            return 1.0
        return _LEAST if beyond(_LEAST) <= 0 else float(brentq(beyond, _LEAST, 1.0))


def _difference(
    sums_a: Float[np.ndarray, "seeds documents"],
    sums_b: Float[np.ndarray, "seeds documents"],
    counts: Float[np.ndarray, " documents"],
) -> _Spread:
    difference = np.asarray(sums_a) - np.asarray(sums_b)
    columns = np.stack([difference, np.broadcast_to(counts, difference.shape)], -1)
    return _spreads(lambda total: total[..., :1] / total[..., 1:], columns)[0]


def _spreads(
    statistic: Statistic,
    runs: Float[np.ndarray, "seeds documents columns"],
    *,
    debias: bool = False,
    positive: bool = False,
) -> list[_Spread]:
    runs = np.asarray(runs, dtype=np.float64)
    runs = runs[:, (runs != 0).any(axis=(0, 2))]
    seeds, n, _ = runs.shape
    per_seed = statistic(runs.sum(1))  # (seeds, statistics)
    value = per_seed.mean(0)
    if n < FEWEST_DOCUMENTS:
        return [_Spread(float(v), math.nan, math.nan, n, math.nan, seeds) for v in value]
    draws = np.concatenate([statistic(counts @ runs).mean(0) for counts in _resampling_counts(n)])
    low, high = np.percentile(draws, [2.5, 97.5], axis=0)
    shift = draws.mean(0) - value if debias else 0.0
    error = per_seed.std(0, ddof=1) / math.sqrt(seeds) if seeds > 1 else np.zeros_like(value)
    if positive:
        below, above, error = np.log(value / (low - shift)), np.log((high - shift) / value), error / value
    else:
        below, above = value - (low - shift), (high - shift) - value
    widen = _t(n - 1) / _Z * math.sqrt(n / (n - 1))
    sides = zip(value, np.maximum(0, below) * widen, np.maximum(0, above) * widen, error, strict=True)
    return [_Spread(float(v), float(a), float(b), n, float(e), seeds, positive) for v, a, b, e in sides]


def _resampling_counts(n: int) -> Iterator[Float[np.ndarray, "draws n"]]:
    """How often each of n documents is in each resample, a block of resamples at a time; always the same ones."""
    if n * RESAMPLES <= _CELLS:
        yield _whole(n)
        return
    generator = np.random.default_rng(0)
    for start in range(0, RESAMPLES, block := max(1, _CELLS // n)):
        draws = min(block, RESAMPLES - start)
        yield generator.multinomial(n, np.full(n, 1 / n), size=draws).astype(np.float64)


@functools.lru_cache(maxsize=2)
def _whole(n: int) -> Float[np.ndarray, "draws n"]:
    """All resamples of a few documents, kept: a report asks for those of one text many times."""
    counts = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=RESAMPLES).astype(np.float64)
    counts.flags.writeable = False
    return counts


def _t(freedom: int, level: float = CHANCE) -> float:
    """How far out Student's t lies with probability ``level`` on both sides together; 0 of no freedom, where nothing was seen."""
    return float(-stdtrit(freedom, level / 2)) if freedom else 0.0
