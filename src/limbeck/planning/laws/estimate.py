"""A number with the bounds of its 95 % interval: what every fit of this folder gives.

What surprises: a bound may be infinite. A valley whose bottom the noise hides has no last size at which it must lie, and an
interval that leaves that out would be a claim.
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
        """The value with percentiles of bootstrap draws (Efron & Tibshirani 1993, ch. 13); infinite draws count as such."""
        # "lower" and "higher" take a draw that was made: between a finite one and an infinite one there is nothing
        low = np.quantile(draws, (1 - LEVEL) / 2, method="lower")
        high = np.quantile(draws, (1 + LEVEL) / 2, method="higher")
        return cls(float(value), float(low), float(high))

    @classmethod
    def both_ways(cls, value: float, draws: Float[np.ndarray, " draws"], *, positive: bool = False) -> Estimate:
        """As `of`, and mirrored at the value (the basic bootstrap), whichever lies further out.

        Where an estimate leans to one side its draws lean there once more: percentiles then end too early on the other side,
        their mirror image on this one. Of ``positive`` values ratios are mirrored, not differences.
        """
        if positive:
            logs = cls.both_ways(float(np.log(value)), np.log(draws))
            return cls(float(value), float(np.exp(logs.low)), float(np.exp(logs.high)))
        one = cls.of(value, draws)
        return cls(one.value, min(one.low, 2 * value - one.high), max(one.high, 2 * value - one.low))

    def holds(self, value: float) -> bool:
        """Whether a value lies inside the interval."""
        return self.low <= value <= self.high
