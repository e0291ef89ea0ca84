"""How often the teacher's logits must be used for distillation to beat cross-entropy on the same FLOPs, from measurements.

Three trainings are needed: the student, cross-entropy on as many tokens, and cross-entropy on the tokens that equal compute buys,
``ratio`` times as many. Between the two of cross-entropy its loss is taken as a line over the logarithm of the tokens. Were each
forward pass of the teacher used u times, equal compute would buy 1 + step / u times the tokens, a place on that line; the
break-even is the u at which the line meets the student's loss, all else equal: the same student, tokens and text.

At each place the difference to the student is a sum over held-out documents like any other, so it has the same interval; the
interval of the break-even is every u at which that of the difference holds 0 (Fieller's construction). A learning curve is convex
over log tokens, so beyond the second training the line flatters cross-entropy: fewer uses than given there may be enough.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from limbeck.planning.checks.price import Price
from limbeck.probes.interval import FEWEST_SEEDS, bootstrap
from limbeck.probes.measurements import Measurements
from limbeck.report.decision import too_few

_PLACES = 401  # between infinitely many uses and one, a line is drawn from each to the next
_GOAL = "to beat cross-entropy on the same FLOPs"
_MUST = "the teacher's logits must be used"
_BY = "by the 95 % interval"  # of this alone: no decision of the comparisons that are decided together


@dataclass(frozen=True)
class BreakEven:
    """Uses of each forward pass of the teacher from which on distilling wins at equal compute, beside the ``used`` ones.

    ``low`` and ``high`` are a 95 % interval over documents and ``seeds``. inf: no number of uses is enough, or none is known to
    be. 1 stands for one use or less: nothing can be used less often. NaN: it has no interval.
    """

    value: float
    low: float
    high: float
    used: float
    seeds: int

    def row(self) -> dict[str, Any]:
        """The JSON form, with null for numbers that are not finite."""
        return {name: value if math.isfinite(value) else None for name, value in vars(self).items()}

    @property
    def text(self) -> str:
        """The break-even as a sentence."""
        return f"break-even: {self._needed}; here they are used {_times(self.used)}"

    @property
    def _needed(self) -> str:
        if self.seeds < FEWEST_SEEDS:
            return f"{_enough(self.value)} ({too_few(self.seeds)})"
        if math.isnan(self.low):
            return f"{_enough(self.value)} (inconclusive, by so few documents)"
        if math.isinf(self.low):
            return f"{_enough(self.low)}: at equal tokens already the whole 95 % interval is for cross-entropy"
        if self.high <= 1:
            return f"{_enough(self.high)} {_BY}"
        if self.high <= self.used:
            return f"{_MUST} at most {_times(self.high)} {_GOAL} {_BY}"
        between = f"{self.low:.1f} to {self.high:.1f}" if math.isfinite(self.high) else f"more than {self.low:.1f}"
        decided = "" if self.low > self.used and math.isfinite(self.high) else ": inconclusive"
        return f"{_MUST} {_times(self.value)} ({between}) {_GOAL}{decided}"


def _enough(uses: float) -> str:
    """A number of uses in words."""
    if math.isinf(uses):
        return f"no number of uses of the teacher's logits is enough {_GOAL}"
    return f"one use of the teacher's logits is enough {_GOAL}" if uses <= 1 else f"{_MUST} {_times(uses)} {_GOAL}"


def _times(uses: float) -> str:
    return "once" if uses == 1 else f"{uses:.1f} times"


def break_even(
    student: Sequence[Measurements], alone: Sequence[Measurements], longer: Sequence[Measurements], price: Price
) -> BreakEven:
    """The break-even of a student, beside cross-entropy at equal tokens (``alone``) and at equal compute (``longer``).

    Measurement k of each is of seed k; seeds that not all three have are left out.
    """
    runs = list(zip(student, alone, longer, strict=False))
    ours, short, long = (np.stack([run.nats for run in of]) for of in zip(*runs, strict=True))
    columns = np.stack([short - ours, long - short, np.broadcast_to(student[0].tokens, ours.shape)], -1)
    once = math.log(price.ratio_at(1)) / math.log(
        price.ratio
    )  # the place of a single use; that of infinitely many is 0
    places = np.linspace(0, once, _PLACES)
    gains = bootstrap(lambda x: (x[..., :1] + places * x[..., 1:2]) / x[..., 2:], columns)

    def uses(bound: str) -> float:
        """The fewest uses with which a bound of the gain is above 0."""
        found = np.array([getattr(gain, bound) for gain in gains])
        if np.isnan(found[0]):
            return math.nan
        if found[0] <= 0:
            return math.inf
        if (found >= 0).all():
            return 1.0
        after = int(np.argmax(found < 0))
        share = found[after - 1] / (found[after - 1] - found[after])
        return price.uses_at(price.ratio ** float(places[after - 1] + share * places[1]))

    return BreakEven(uses("value"), uses("high"), uses("low"), price.uses, len(runs))
