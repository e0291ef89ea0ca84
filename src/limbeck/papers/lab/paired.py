"""Differences that recipes judge by: intervals over held-out documents and seeds, and when there is nothing in one.

A student comes as an array of (seeds, documents, 2): the nats and the tokens of each document.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from limbeck.probes.interval import Interval, bootstrap
from limbeck.report.words import interval

Losses = Float[np.ndarray, "seeds documents 2"]
Ladder = Float[np.ndarray, "seeds teachers documents 2"]


def mean(losses: Losses) -> Interval:
    """Nats per token."""
    return _interval(losses[..., 0], losses[..., 1])


def gain(losses: Losses, less: Losses) -> Interval:
    """Nats per token by which the second is better, seed by seed."""
    return _interval(losses[..., 0] - less[..., 0], losses[..., 1])


def slope(losses: Ladder, sizes: Sequence[float], *, against: Ladder | None = None) -> Interval:
    """Nats that a student gains as its teacher doubles: less the slope of its loss over log2 of the teachers' sizes.

    With ``against``, how much more than there. Fitted to each seed, so that seeds and documents both show in the interval.
    """
    x = np.log2(sizes) - np.mean(np.log2(sizes))
    nats = losses[..., 0] if against is None else losses[..., 0] - against[..., 0]
    return _interval(np.einsum("t,std->sd", -x / (x @ x), nats), losses[:, 0, :, 1])


def nothing_in(found: Interval, least: float) -> bool:
    """Whether a gain may be none and is surely less than what would matter. Undecided where the interval is wide."""
    return found.low <= 0 and found.high < least


def with_interval(found: Interval) -> str:
    """The value and its interval."""
    return interval(found, "+.4f")


def _interval(sums: Float[np.ndarray, "seeds documents"], counts: Float[np.ndarray, "seeds documents"]) -> Interval:
    return bootstrap(lambda total: total[..., :1] / total[..., 1:], np.stack([sums, counts], -1))[0]
