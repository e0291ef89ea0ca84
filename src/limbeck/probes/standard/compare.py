"""Readings from scores on standard tasks: levels, paired differences, retention above chance, and flips.

Two models are compared item by item. Items are resampled for intervals (`probes.interval`), and seeds are added as there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import bdtr

from limbeck.probes.interval import Interval, bootstrap, difference_interval, mean_interval, uncertain, wilson
from limbeck.probes.standard.scores import BYTES, MARGIN, NATS, TaskScores, require_same_items
from limbeck.types import Reading

PROBE = "tasks"  # and "tasks of G" of those in a group G
_SHARE, _BITS = "share", "bits/byte"


def levels(model: str, runs: Sequence[TaskScores], *, seed: int | None = None) -> list[Reading]:
    """The scores of a model on one task, each with its interval over items. ``runs``: one a seed, of the same items."""
    for other in runs[1:]:
        require_same_items(runs[0], other)
    found = [(name, _unit(runs, name), level(runs, name)) for name in _named(runs)]
    if NATS in runs[0].columns:
        found.append(("bits_per_byte", _BITS, bits_per_byte(runs)))
    readings = [_reading(model, name, runs[0], unit, value, seed) for name, unit, value in found]
    if float(runs[0].chance.mean()) > 0:
        chance = float(runs[0].chance.mean())
        readings.append(
            Reading(model, _probe(runs[0]), f"chance, {runs[0].label}", chance, _SHARE, 1, chance, chance, seed)
        )
    return readings


def differences(
    model: str, runs: Sequence[TaskScores], other: str, others: Sequence[TaskScores], *, seed: int | None = None
) -> list[Reading]:
    """What a model has more than another on the same items; with shares also the part retained above chance, and flips.

    ``runs`` and ``others``: one a seed; a model without seeds is given once. Flips are of single runs alone. Raises Mismatch if
    items or prompts differ.
    """
    for one in (*runs, *others):
        require_same_items(runs[0], one)
    readings = []
    for name in _named(runs):
        if name not in others[0].columns:
            continue
        found = difference(runs, others, name)
        readings.append(_reading(model, f"{name}_minus_{other}", runs[0], _unit(runs, name), found, seed))
        if name == MARGIN or _unit(runs, name) != _SHARE:
            continue
        kept = retention(runs, others, name)
        if kept is not None:
            readings.append(_reading(model, f"{name}_retention_of_{other}", runs[0], _SHARE, kept, seed))
        if len(runs) == len(others) == 1:
            readings += _flips(model, name, runs[0], other, others[0], seed)
    if NATS in runs[0].columns and NATS in others[0].columns:
        found = bits_difference(runs, others)
        readings.append(_reading(model, f"bits_per_byte_minus_{other}", runs[0], _BITS, found, seed))
    return readings


def level(runs: Sequence[TaskScores], name: str) -> Interval:
    """The mean of a score over items and seeds. Shares of one run have Wilson's interval."""
    values = _stacked(runs, name)
    right = values.sum(1)
    if _binary(values) and (len(runs) == 1 or right.sum() in (0, values.size)):
        return wilson(int(right[0]), values.shape[1])
    found = _means(values)
    return found.within(0.0, 1.0) if _binary(values) else found


def bits_per_byte(runs: Sequence[TaskScores]) -> Interval:
    """Bits per byte of the right answers, a ratio of sums."""
    columns = np.stack([_stacked(runs, NATS) / math.log(2), _stacked(runs, BYTES)], -1)
    return bootstrap(lambda total: total[..., :1] / total[..., 1:], columns)[0]


def difference(runs: Sequence[TaskScores], others: Sequence[TaskScores], name: str) -> Interval:
    """The mean of a score less that of another model, paired by item.

    Where no item differs, resampling shows no spread: the interval is what Wilson's allows for none among n, either way.
    """
    a, b = _broadcast(_stacked(runs, name), _stacked(others, name))
    n = a.shape[1]
    if _binary(a) and _binary(b) and bool((a == b).all()):
        most = wilson(0, n).high
        return Interval(0.0, -most, most, n)
    found = difference_interval(a, b, np.ones(n))
    return uncertain(found)[0] if _binary(a) and _binary(b) else found


def bits_difference(runs: Sequence[TaskScores], others: Sequence[TaskScores]) -> Interval:
    """Bits per byte less those of another model, paired by item; their tokenizers may differ."""
    a, b = _broadcast(_stacked(runs, NATS), _stacked(others, NATS))
    return difference_interval(a / math.log(2), b / math.log(2), runs[0].columns[BYTES])


def retention(runs: Sequence[TaskScores], others: Sequence[TaskScores], name: str) -> Interval | None:
    """(S - chance)/(T - chance) with its interval, items paired. None unless T is above chance by its interval."""
    s, t = _broadcast(_stacked(runs, name), _stacked(others, name))
    above = t - runs[0].chance
    if not above_chance(others, name):
        return None
    columns = np.stack([s - runs[0].chance, above, np.ones_like(s)], -1)  # ones, so that no item counts as unread
    with np.errstate(divide="ignore", invalid="ignore"):  # resamples of few items, in which the teacher is at chance
        return bootstrap(lambda total: total[..., :1] / total[..., 1:2], columns)[0]


def above_chance(runs: Sequence[TaskScores], name: str = "acc") -> bool:
    """Whether accuracy is above that of guessing, by its interval; True where a task has no accuracy."""
    if name not in runs[0].columns:
        return True
    above = _stacked(runs, name).mean(0) - runs[0].chance
    return bool(mean_interval(above, np.ones_like(above)).low > 0)


def mcnemar(a: Bool[np.ndarray, " items"], b: Bool[np.ndarray, " items"]) -> tuple[int, int, float]:
    """(items right for a alone, items right for b alone, exact two-sided p) of McNemar's test (1947), from the binomial."""
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    chance = min(1.0, 2 * float(bdtr(min(only_a, only_b), only_a + only_b, 0.5))) if only_a + only_b else 1.0
    return only_a, only_b, chance


def _flips(model: str, name: str, ours: TaskScores, other: str, theirs: TaskScores, seed: int | None) -> list[Reading]:
    a, b = ours.columns[name] > 0.5, theirs.columns[name] > 0.5
    gained, lost, p = mcnemar(a, b)
    n = len(a)
    named = ((f"{name}_gained_on_{other}", gained, "items"), (f"{name}_lost_to_{other}", lost, "items"))
    found = [(what, float(value), unit) for what, value, unit in named] + [(f"{name}_mcnemar_p_{other}", p, "p")]
    return [
        Reading(model, _probe(ours), f"{what}, {ours.label}", value, unit, n, value, value, seed)
        for what, value, unit in found
    ]


def _named(runs: Sequence[TaskScores]) -> list[str]:
    return [name for name in runs[0].columns if name not in (NATS, BYTES)]


def _unit(runs: Sequence[TaskScores], name: str) -> str:
    if name == MARGIN:
        return "nats"
    return _SHARE if _binary(_stacked(runs, name)) else "mean"


def _binary(values: Float[np.ndarray, "seeds items"]) -> bool:
    return bool(np.isin(values, (0.0, 1.0)).all())


def _stacked(runs: Sequence[TaskScores], name: str) -> Float[np.ndarray, "seeds items"]:
    return np.stack([run.columns[name] for run in runs])


def _means(values: Float[np.ndarray, "seeds items"]) -> Interval:
    return bootstrap(lambda total: total[..., :1] / total[..., 1:], np.stack([values, np.ones_like(values)], -1))[0]


def _broadcast(
    a: Float[np.ndarray, "seeds items"], b: Float[np.ndarray, "others items"]
) -> tuple[Float[np.ndarray, "seeds items"], Float[np.ndarray, "seeds items"]]:
    """Both with as many seeds: a model without seeds stands beside each; of unequal numbers the first are paired."""
    if 1 in (len(a), len(b)):
        most = max(len(a), len(b))
        return np.repeat(a, most // len(a), 0), np.repeat(b, most // len(b), 0)
    least = min(len(a), len(b))
    return a[:least], b[:least]


def _reading(model: str, name: str, of: TaskScores, unit: str, found: Interval, seed: int | None) -> Reading:
    return Reading(model, _probe(of), f"{name}, {of.label}", found.value, unit, found.n, found.low, found.high, seed)


def _probe(of: TaskScores) -> str:
    return f"{PROBE} of {of.group}" if of.group else PROBE
