"""Draws without replacement, for many rows at once: what the tasks are made of."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int64


def distinct(generator: np.random.Generator, rows: int, count: int, below: int) -> Int64[np.ndarray, "rows count"]:
    """``count`` different numbers of 0 to ``below`` - 1 in each row, every ordered choice as likely as any other.

    Few of many are drawn freely, and rows with a repetition drawn anew, which leaves what remains uniform; many of few are the
    start of a permutation.
    """
    if count**2 > 2 * below:
        pool = np.broadcast_to(np.arange(below), (rows, below))
        return generator.permuted(pool, axis=1)[:, :count]
    found = generator.integers(below, size=(rows, count))
    while len(again := np.flatnonzero(_repeats(found))):
        found[again] = generator.integers(below, size=(len(again), count))
    return found


def one_by_one(
    generator: np.random.Generator, rows: int, count: int, weights: Float[np.ndarray, " places"]
) -> Int64[np.ndarray, "rows count"]:
    """``count`` places of each row, drawn one after the other among those left, each with a chance as its weight.

    The places of the smallest of independent exponential times with these weights as rates, in the order of the times: the
    same distribution (Yellott 1977; with logarithms it is the Gumbel top-k trick), without a loop over draws.
    """
    times = generator.standard_exponential((rows, len(weights))) / weights
    return np.argsort(times, axis=1)[:, :count]


def _repeats(found: Int64[np.ndarray, "rows count"]) -> np.ndarray:
    ordered = np.sort(found, axis=1)
    return (ordered[:, 1:] == ordered[:, :-1]).any(1)
