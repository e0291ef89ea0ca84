"""The criteria of the recipe rich-lazy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from limbeck.papers.lab.paired import t_interval
from limbeck.papers.lab.recipe import ClaimResult, Verdict
from limbeck.probes.interval import Interval
from limbeck.report.words import interval

ENOUGH = 0.5  # rank correlation of a start's change with its end that would choose starts

ByTask = Mapping[str, Mapping[int, Sequence[float]]]  # a value by task, then by rank, one a network


def judge_tangent(tangent: ByTask) -> ClaimResult:
    """Judges whether a start of low rank changes its tangent kernel more, at equal loss."""
    found = {task: paired(by[_highest(by)], by[_lowest(by)]) for task, by in tangent.items()}
    return ClaimResult(
        "A start of low rank is learned from more richly: at equal loss its tangent kernel has changed more.",
        "Confirmed: the kernel of a start of full rank is aligned with that before training by more than that of the lowest "
        "rank, by the whole 95 % interval over networks, in each task. Refuted: by less, by the whole interval, in one. "
        "Inconclusive otherwise.",
        _each(list(found.values())),
        f"difference of alignments {_by_task(found)}; n = {_count(tangent)}.",
    )


def judge_moved(moved: ByTask) -> ClaimResult:
    """Judges whether a start of low rank moves further, at equal loss."""
    found = {task: paired(by[_lowest(by)], by[_highest(by)]) for task, by in moved.items()}
    return ClaimResult(
        "A start of low rank moves further to the same loss.",
        "Confirmed: its recurrent matrix has moved further than that of a start of full rank, by the whole 95 % interval over "
        "networks, in each task. Refuted: less far, by the whole interval, in one. Inconclusive otherwise.",
        _each(list(found.values())),
        f"difference of distances {_by_task(found)}; n = {_count(moved)}.",
    )


def judge_selector(
    what: str, change: Mapping[str, Sequence[float]], nats: Mapping[str, Sequence[float]]
) -> ClaimResult:
    """Judges whether how far a start has moved early says how good its student ends. Both are by start, one a seed."""
    seeds = len(next(iter(nats.values())))
    found = t_interval([_spearman([change[s][i] for s in nats], [nats[s][i] for s in nats]) for i in range(seeds)])
    verdict: Verdict = "inconclusive"
    if found.excludes_zero and abs(found.value) >= ENOUGH:
        verdict = "confirmed"
    elif found.low > -ENOUGH and found.high < ENOUGH:
        verdict = "refuted"
    return ClaimResult(
        f"Of several starts of one student, {what} after a few steps says which ends best.",
        f"Confirmed: its rank correlation with the final loss over starts, a mean over seeds, is at least {ENOUGH:g} in size, "
        f"and its 95 % interval excludes 0. Refuted: the interval is within {ENOUGH:g} of 0. Inconclusive otherwise.",
        verdict,
        f"rank correlation {interval(found, '+.2f')}; n = {len(nats)} starts, {seeds} seeds.",
    )


def paired(first: Sequence[float], second: Sequence[float]) -> Interval:
    """The mean difference of pairs, with Student's interval."""
    return t_interval([a - b for a, b in zip(first, second, strict=True)])


def _spearman(a: Sequence[float], b: Sequence[float]) -> float:
    first, second = (np.argsort(np.argsort(values)) for values in (a, b))
    return float(np.corrcoef(first, second)[0, 1])


def _each(found: Sequence[Interval]) -> Verdict:
    if all(one.low > 0 for one in found):
        return "confirmed"
    return "refuted" if any(one.high < 0 for one in found) else "inconclusive"


def _by_task(found: Mapping[str, Interval]) -> str:
    return ", ".join(f"{interval(one, '+.2f')} in {task}" for task, one in found.items())


def _lowest(by: Mapping[int, Sequence[float]]) -> int:
    return min(by)


def _highest(by: Mapping[int, Sequence[float]]) -> int:
    return max(by)


def _count(by: ByTask) -> str:
    first = next(iter(by.values()))
    return f"{len(first[_lowest(first)])} networks of each rank in each task"
