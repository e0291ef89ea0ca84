"""Sampling without replacement for many rows at once, used by the synthetic tasks."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int64


def distinct(generator: np.random.Generator, rows: int, count: int, below: int) -> Int64[np.ndarray, "rows count"]:
    """``count`` distinct numbers from 0 to ``below`` - 1 in each row. Every ordered choice is equally likely.

    A small ``count`` is sampled independently, and rows with repetitions are sampled again, which keeps rows uniform. A large
    ``count`` is the start of a random permutation.
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
    """``count`` places of each row, sampled one after the other without replacement, with probabilities as their weights.

    The result has the places of the smallest of independent exponential times with these weights as rates, in order of time.
    The distribution is the same, without a loop (Yellott 1977; in logarithms, this is the Gumbel top-k trick).
    """
    times = generator.standard_exponential((rows, len(weights))) / weights
    return np.argsort(times, axis=1)[:, :count]


def _repeats(found: Int64[np.ndarray, "rows count"]) -> np.ndarray:
    ordered = np.sort(found, axis=1)
    return (ordered[:, 1:] == ordered[:, :-1]).any(1)
