"""A number with the bounds of its 95 % interval, the result of every fit in this folder.

Bounds may be infinite. If noise hides the minimum of a loss curve, no largest size bounds its place, and a finite interval
would claim more than the data show.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A value and the bounds of its 95 % interval, all in the unit of the value."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, value: float, draws: Float[np.ndarray, " draws"]) -> Estimate:
        """The value with percentiles of bootstrap draws (Efron & Tibshirani 1993, ch. 13). Draws may be infinite."""
        # "lower" and "higher" select actual draws, since a finite and an infinite draw cannot be interpolated
        low = np.quantile(draws, (1 - LEVEL) / 2, method="lower")
        high = np.quantile(draws, (1 + LEVEL) / 2, method="higher")
        return cls(float(value), float(low), float(high))

    @classmethod
    def both_ways(cls, value: float, draws: Float[np.ndarray, " draws"], *, positive: bool = False) -> Estimate:
        """The wider of the percentile bounds of `of` and the bounds mirrored at the value (the basic bootstrap).

        The draws of a biased estimate have the same bias again. Percentiles are then too narrow on one side, and their mirror
        image on the other. For ``positive`` values, ratios are mirrored instead of differences.
        """
        if positive:
            logs = cls.both_ways(float(np.log(value)), np.log(draws))
            return cls(float(value), float(np.exp(logs.low)), float(np.exp(logs.high)))
        one = cls.of(value, draws)
        return cls(one.value, min(one.low, 2 * value - one.high), max(one.high, 2 * value - one.low))

    def holds(self, value: float) -> bool:
        """Whether the interval contains a value."""
        return self.low <= value <= self.high
