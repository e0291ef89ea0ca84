"""Which differences between trained models are called better or worse: none with one or two trainings each.

An interval over documents separates two trainings that differ only in their seed far more often than in 5 % of pairs. So a
difference is always shown with its interval, but it is called better only from three seeds on, where the interval covers the
noise of training, and only where Holm's correction over all comparisons of one table leaves its probability below 5 %. Intervals
stay those of a single comparison, as in other tables and files; the words report what the correction left.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from scipy.special import stdtr, stdtrit

from limbeck.probes.interval import CHANCE, FEWEST_SEEDS, holm

Decision = Literal["better", "worse", "inconclusive", "undecided"]

_NUMBERS = {1: "one", 2: "two"}


def decisions(found: Sequence[tuple[float, float, int]]) -> list[tuple[Decision, float]]:
    """The decision on each comparison of a table, and its probability by chance after Holm's correction.

    Each is given as its value, its probability by chance and its seeds. "undecided" is what too few seeds leave, with NaN; one
    without a probability (too few documents) is inconclusive. "better" is a value above 0.
    """
    enough = [seeds >= FEWEST_SEEDS for _, _, seeds in found]
    left = holm([chance if ok else math.nan for (_, chance, _), ok in zip(found, enough, strict=True)])
    return [
        ("undecided" if not ok else _decided(value, chance), chance)
        for (value, _, _), ok, chance in zip(found, enough, left, strict=True)
    ]


def _decided(value: float, chance: float) -> Decision:
    if not chance < CHANCE:
        return "inconclusive"
    return "better" if value > 0 else "worse"


def too_few(seeds: int) -> str:
    """``one training each, not decided``."""
    return f"{_NUMBERS[seeds]} training{'s' if seeds > 1 else ''} each, not decided"


def rows_decided(rows: Sequence[Mapping[str, Any]]) -> list[tuple[Decision, float]]:
    """`decisions` of differences as verdict.json holds them.

    Where an older limbeck wrote no probability, one that is not below the true one is read off the interval: as if it were the
    seeds' alone.
    """
    return decisions([(row["value"], _chance(row), row["seeds"]) for row in rows])


def _chance(row: Mapping[str, Any]) -> float:
    if row.get("chance") is not None:
        return float(row["chance"])
    value, low, high, freedom = row["value"], row["low"], row["high"], row["seeds"] - 1
    if "chance" in row or low is None or high is None or freedom < 1:
        return math.nan
    side = value - low if value > 0 else high - value
    return (
        float(2 * stdtr(freedom, -abs(value) / side * stdtrit(freedom, 1 - CHANCE / 2)))
        if side > 0
        else float(value == 0)
    )


def rule(seeds: Sequence[int]) -> str:
    """The rule by which a table names winners, given the seeds of each comparison."""
    compared = sum(one >= FEWEST_SEEDS for one in seeds)
    if not compared:
        return (
            "intervals are over documents and not over trainings, which differ too: a winner is named from "
            f"{FEWEST_SEEDS} seeds on"
        )
    if compared == 1:
        return "a winner is named where the interval excludes 0"
    return (
        f"a winner is named where its probability by chance, corrected over these {compared} comparisons (Holm), is below 5 %; "
        "each interval is that of its own comparison, not corrected"
    )


def by_chance(chance: float) -> str:
    """A probability with its sign: ``p = 0.03``, ``p < 0.001``."""
    if math.isnan(chance):
        return ""
    return "p < 0.001" if chance < 0.001 else f"p = {chance:.2g}"
