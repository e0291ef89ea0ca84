"""How a model ranks pairs of completions of one prompt, against the model before tuning, and how much of that is their length.

The implicit reward of a completion is log q - log p, summed over its tokens, with p the model before (arXiv 2305.18290). Sums
grow with length, so a model may seem to prefer what is only longer: the correlation of the margin with the difference in length,
and the share of pairs whose preferred completion is the longer one, are given beside the accuracy. A completion that is preferred
may still become less probable; by how much log q of both sides moved is given too.

Measurements are by side: entries 2 d and 2 d + 1 are the preferred and the rejected completion of pair d. Pairs of one prompt are
not independent, so prompts are the sampling unit of intervals: what is summed over pairs is summed by prompt first.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from limbeck.probes.interval import Interval, bootstrap, wilson
from limbeck.probes.measurements import Measurements
from limbeck.types import Reading

_READINGS = (  # name, unit; in the order of `_statistic`
    ("pair_margin", "nats/pair"),
    ("chosen_gain", "nats/completion"),
    ("rejected_gain", "nats/completion"),
    ("margin_length_correlation", "correlation"),
)

PairValues = Float[np.ndarray, " pairs"]


def read_pairs(measured: Measurements) -> Bool[np.ndarray, " pairs"]:
    """Which pairs were measured."""
    found: np.ndarray = np.all(measured.tokens.reshape(-1, 2) > 0, axis=1)
    return found


def pairs_read(measured: Measurements) -> int:
    """How many pairs were measured."""
    return int(read_pairs(measured).sum())


def by_prompt(values: Float[np.ndarray, "*pairs"], prompts: Int[np.ndarray, " pairs"]) -> Float[np.ndarray, "*prompts"]:
    """Sums over the pairs of each prompt; pairs are the first axis, ``prompts`` their numbers, from 0."""
    found = np.zeros((int(prompts.max(initial=-1)) + 1, *values.shape[1:]))
    np.add.at(found, prompts, values)
    return found


def prompts_read(measured: Measurements, prompts: Int[np.ndarray, " pairs"]) -> int:
    """How many prompts have a pair that was measured."""
    return len(np.unique(prompts[read_pairs(measured)]))


def gains(measured: Measurements, before: Measurements) -> Float[np.ndarray, "pairs 2"]:
    """log q - log p of both completions of each pair, in nats; 0 of those that were not measured."""
    found: np.ndarray = (before.nats - measured.nats).reshape(-1, 2)
    return found


def right(measured: Measurements, before: Measurements) -> PairValues:
    """1 for pairs whose preferred completion has the larger implicit reward, one half for equal ones, 0 for others."""
    chosen, rejected = gains(measured, before).T
    return _wins(chosen - rejected, read_pairs(before))


def longer(before: Measurements) -> PairValues:
    """1 for pairs whose preferred completion has more tokens, one half for equally many, 0 for others."""
    chosen, rejected = before.tokens.reshape(-1, 2).T
    return _wins(chosen - rejected, read_pairs(before))


def preference(
    model: str,
    runs: Sequence[Measurements],
    before: Measurements,
    prompts: Int[np.ndarray, " pairs"],
    *,
    seed: int | None = None,
) -> list[Reading]:
    """Readings of one model trained with several seeds; of the model before what it ranks itself, and what length would.

    ``pair_accuracy`` is of implicit rewards, ``likelihood_accuracy`` of log q itself, ``longer_wins`` of numbers of tokens.
    ``pair_margin`` is the mean difference of the rewards, not scaled by beta. ``prompts`` are the numbers of pairs' prompts; what
    readings count is prompts.
    """

    def reading(name: str, unit: str, found: Interval) -> Reading:
        return Reading(model, "preference", name, found.value, unit, found.n, found.low, found.high, seed)

    there = read_pairs(before)
    ranked = [_wins(np.subtract(*run.nats.reshape(-1, 2).T[::-1]), there) for run in runs]
    readings = [reading("likelihood_accuracy", "share", share_right(ranked, there, prompts))]
    if all(run is before for run in runs):
        return [*readings, reading("longer_wins", "share", share_right([longer(before)], there, prompts))]
    scored = [right(run, before) for run in runs]
    readings.insert(0, reading("pair_accuracy", "share", share_right(scored, there, prompts)))
    found = bootstrap(_statistic, np.stack([by_prompt(_columns(run, before), prompts) for run in runs]))
    found[-1] = found[-1].within(-1.0, 1.0)  # a correlation
    more = [reading(name, unit, one) for (name, unit), one in zip(_READINGS, found, strict=True)]
    return readings + [one for one in more if np.isfinite(one.value)]


def share_right(
    runs: Sequence[PairValues], there: Bool[np.ndarray, " pairs"], prompts: Int[np.ndarray, " pairs"]
) -> Interval:
    """The share of pairs that are right, over seeds, with its interval over prompts, within 0 and 1.

    Of all or none right it is that of Wilson, with prompts as trials.
    """
    total = sum(float(run.sum()) for run in runs)
    if total in (0, len(runs) * int(there.sum())):
        n = len(np.unique(prompts[there]))
        return wilson(n if total else 0, n)
    columns = np.stack([by_prompt(np.stack([run, there.astype(float)], -1), prompts) for run in runs])
    return bootstrap(lambda sums: sums[..., :1] / sums[..., 1:], columns)[0].within(0.0, 1.0)


def _wins(difference: PairValues, there: Bool[np.ndarray, " pairs"]) -> PairValues:
    return np.where(there, (np.sign(difference) + 1) / 2, 0.0)


def _columns(run: Measurements, before: Measurements) -> Float[np.ndarray, "pairs columns"]:
    chosen, rejected = gains(run, before).T
    margin, gap = chosen - rejected, np.subtract(*before.tokens.reshape(-1, 2).T)
    there = read_pairs(before).astype(float)
    columns = [there, margin, chosen, rejected, gap, margin**2, gap**2, margin * gap]
    found: np.ndarray = np.stack(columns, -1) * there[:, None]
    return found


def _statistic(total: Float[np.ndarray, "*draws columns"]) -> Float[np.ndarray, "*draws statistics"]:
    mean = np.moveaxis(total[..., 1:] / total[..., :1], -1, 0)
    margin, chosen, rejected, gap, margins, gaps, products = mean
    spread = np.sqrt(np.maximum((margins - margin**2) * (gaps - gap**2), 0))
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = np.where(spread > 0, (products - margin * gap) / spread, np.nan)
    return np.stack([margin, chosen, rejected, correlation], -1)
