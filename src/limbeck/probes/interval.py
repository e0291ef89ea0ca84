"""95 % intervals of statistics that are functions of sums over documents.

Documents are the sampling unit, so documents are resampled (Efron & Tibshirani 1993, ch. 13). Tokens of one document are not
independent, and an interval over tokens would be several times too narrow. Two models are compared on the same resampled
documents. The spread over training seeds is added by Student's t, since resampling two or three seeds cannot show how much a
fourth would differ. The two parts are added in squares, each with its own t. The coverage is at least 95 % whichever part is
larger; with two seeds, whose t is 12.7, it is up to 99 %.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from scipy.optimize import brentq
from scipy.special import stdtrit

FEWEST_SEEDS = 3  # fewer seeds show almost nothing about another seed
FEWEST_DOCUMENTS = 3  # fewer give no interval: Student's t of two documents is six times that of many
CHANCE = 0.05  # significance level: differences with a smaller p-value count as real
RESAMPLES = 2000
_CELLS = 2**21  # numbers in one block of resampling counts: 16 MB
_Z = 1.959964
_LEAST = 1e-9  # smallest probability; 2,000 resamples cannot resolve it

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
        """Half the width of the interval, the number after the ±."""
        return (self.high - self.low) / 2

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0

    def within(self, least: float, most: float = math.inf) -> Interval:
        """The same interval with its bounds clipped to ``least`` and ``most``, the limits of the value."""
        low, high = (float(np.clip(end, least, most)) for end in (self.low, self.high))
        return Interval(self.value, low, high, self.n)


def wilson(right: int, n: int) -> Interval:
    """The share of ``right`` among ``n`` independent trials, with its Wilson interval (Wilson 1927).

    Bounds stay within 0 and 1, also if all or no trials are right. Without trials, the share is NaN and the bounds are 0 and 1.
    """
    if n == 0:
        return Interval(math.nan, 0.0, 1.0, 0)
    share, spread = right / n, _Z**2 / n
    middle = (share + spread / 2) / (1 + spread)
    half = math.sqrt(share * (1 - share) * spread + spread**2 / 4) / (1 + spread)
    return Interval(share, middle - half if right else 0.0, middle + half if right < n else 1.0, n)


def share_interval(right: Float[np.ndarray, " rows"], questions: Float[np.ndarray, " rows"]) -> Interval:
    """The share of correct answers, with rows as the sampling unit, since questions of one row are not independent.

    ``right`` and ``questions`` count correct answers and questions of each row. If all answers are correct, or none, resampling
    shows no spread; then each row counts as one trial (`wilson`). One or two rows give no interval: how much rows differ is
    unknown, however many questions they have.
    """
    n = len(right)
    if n == 0 or (n >= FEWEST_DOCUMENTS and right.sum() in (0, questions.sum())):
        return wilson(n if right.sum() else 0, n)
    found = mean_interval(right, questions)
    return found.within(0.0, 1.0)


def mean_interval(sums: Float[np.ndarray, " documents"], counts: Float[np.ndarray, " documents"]) -> Interval:
    """The ratio of the sum of ``sums`` to the sum of ``counts``, such as nats per token, with its interval over documents."""
    return bootstrap(lambda total: total[..., :1] / total[..., 1:], np.stack([sums, counts], -1)[None])[0]


def difference_interval(
    sums_a: Float[np.ndarray, "seeds documents"],
    sums_b: Float[np.ndarray, "seeds documents"],
    counts: Float[np.ndarray, " documents"],
) -> Interval:
    """The difference a - b per count, with its interval. Both are measured on the same documents; row k belongs to seed k."""
    return _difference(sums_a, sums_b, counts).interval()


def paired_shares(
    mine: Float[np.ndarray, " items"], theirs: Float[np.ndarray, " items"], counts: Float[np.ndarray, " items"]
) -> Interval:
    """The difference of two models' shares, paired by item.

    Where no item differs, resampling shows no spread: the interval is what Wilson's allows for none among n, either way.
    """
    if (mine == theirs).all():
        most = wilson(0, len(mine)).high
        return Interval(0.0, -most, most, len(mine))
    return uncertain(difference_interval(mine[None], theirs[None], counts))[0]


def uncertain(found: Interval, chance: float = math.nan) -> tuple[Interval, float]:
    """A difference of shares and its p-value, where all items have it alike with what that allows; any other as it is.

    Resampling shows no spread then. The interval reaches to what Wilson's allows for all among n, and the p-value is that of as
    many signs, 2 to the power 1 - n.
    """
    if not found.low == found.value == found.high or found.value == 0:
        return found, chance
    low, high = sorted((found.value * wilson(found.n, found.n).low, found.value))
    return replace(found, low=low, high=high), max(chance, min(1.0, 2 * 0.5**found.n))


def difference_test(
    sums_a: Float[np.ndarray, "seeds documents"],
    sums_b: Float[np.ndarray, "seeds documents"],
    counts: Float[np.ndarray, " documents"],
) -> tuple[Interval, float]:
    """The difference a - b per count with its interval, and its two-sided p-value.

    The p-value is the level at which the interval's end is 0, so it is below 5 % exactly if the interval excludes 0. It is NaN
    for one or two documents. With one seed, it covers the sampling of documents only.
    """
    found = _difference(sums_a, sums_b, counts)
    return found.interval(), found.chance()


def holm(chances: Sequence[float]) -> list[float]:
    """p-values of several comparisons, adjusted to control the family-wise error rate (Holm 1979).

    The smallest of m is multiplied by m, the next by m - 1, and so on, and their order is kept. NaN does not count.
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
    """Bootstrap intervals of statistics of column sums over documents, averaged over seeds.

    Documents whose columns are all 0 were not read and do not count. Percentiles over resampled documents are widened to
    Student's t, which matters below about 30 documents. The spread over seeds is added in squares. ``debias`` shifts the
    bounds by the bias that resampling adds; statistics such as absolute values need it, since noise only increases them.
    ``positive`` is for statistics above 0, such as nats: the interval is computed on logarithms, so bounds stay above 0.
    """
    return [spread.interval() for spread in _spreads(statistic, runs, debias=debias, positive=positive)]


@dataclass(frozen=True)
class _Spread:
    """The spread of a value: below and above it over documents (95 %), and its standard error over seeds.

    If ``positive``, all three are of the value's logarithm.
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
        """The p-value: the level at which the interval's end is 0."""
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
    """The count of each of n documents in each resample, one block of resamples at a time. Results are deterministic."""
    if n * RESAMPLES <= _CELLS:
        yield _whole(n)
        return
    generator = np.random.default_rng(0)
    for start in range(0, RESAMPLES, block := max(1, _CELLS // n)):
        draws = min(block, RESAMPLES - start)
        yield generator.multinomial(n, np.full(n, 1 / n), size=draws).astype(np.float64)


@functools.lru_cache(maxsize=2)
def _whole(n: int) -> Float[np.ndarray, "draws n"]:
    """All resamples of a small number of documents, cached, since a report needs the same ones many times."""
    counts = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=RESAMPLES).astype(np.float64)
    counts.flags.writeable = False
    return counts


def _t(freedom: int, level: float = CHANCE) -> float:
    """The two-sided quantile of Student's t at ``level``, or 0 without degrees of freedom."""
    return float(-stdtrit(freedom, level / 2)) if freedom else 0.0
