"""A search among learning rates that goes on where the best is the lowest or the highest of those tried."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

FURTHER = 2  # rates of an arm at most, beyond those that all try
Trial = tuple[str, float]  # an arm and a rate


class BestRates(dict[str, float]):
    """The best rate of each arm. ``tried``: all rates of an arm that were tried."""

    def __init__(self, best: Mapping[str, float], tried: Mapping[str, Sequence[float]]) -> None:
        super().__init__(best)
        self.tried = dict(tried)

    @property
    def doubt(self) -> str:
        """A sentence about arms whose best rate is still at an end of three or more that were tried; "" if none."""
        ends = [arm for arm, some in self.tried.items() if len(some) > 2 and self[arm] in (min(some), max(some))]
        return f" The best rate of {', '.join(ends)} is at an end of those tried." if ends else ""

    @property
    def number(self) -> str:
        """How many rates an arm tried, such as "3" or "3 to 5"."""
        counts = [len(some) for some in self.tried.values()]
        return f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"


def searched(
    arms: Iterable[str], rates: Sequence[float], losses: Callable[[Sequence[Trial]], Sequence[float | None]]
) -> BestRates:
    """The rate of each arm with the lowest loss, among ``rates`` and up to `FURTHER` beyond an end where the best lies.

    ``losses`` trains each arm of some pairs at its rate, and gives what it reached, None where it diverged. A single rate needs
    no training.
    """
    arms = list(arms)
    if len(rates) == 1:
        return BestRates(dict.fromkeys(arms, rates[0]), dict.fromkeys(arms, tuple(rates)))
    found: dict[str, dict[float, float]] = {arm: {} for arm in arms}
    trials = [(arm, rate) for arm in arms for rate in rates]
    while trials:
        for (arm, rate), loss in zip(trials, losses(trials), strict=True):
            found[arm][rate] = math.inf if loss is None or math.isnan(loss) else loss
        further = {arm: _beyond(found[arm]) for arm in arms if len(found[arm]) < len(rates) + FURTHER}
        trials = [(arm, rate) for arm, rate in further.items() if rate is not None]
    return BestRates({arm: _best(one) for arm, one in found.items()}, {arm: tuple(one) for arm, one in found.items()})


def _best(found: Mapping[float, float]) -> float:
    return min(found, key=found.__getitem__)


def _beyond(found: Mapping[float, float]) -> float | None:
    """The rate beyond the best one, as far from it as its neighbour; None where that is inside, or all diverged."""
    best, tried = _best(found), sorted(found)
    if not math.isfinite(found[best]) or best not in (tried[0], tried[-1]):
        return None
    neighbour = tried[1] if best == tried[0] else tried[-2]
    beyond = float(f"{best * best / neighbour:.2g}")
    return None if beyond in found else beyond


def doubtful(rates: Mapping[str, float], factors: Sequence[float]) -> str:
    """A sentence about kinds whose best rate is at an end of the candidates, since a better one may lie beyond; "" if none.

    With one or two candidates each is at an end, and there is no sentence. Of a search `BestRates.doubt` says it.
    """
    ends = [name for name, rate in rates.items() if rate in (min(factors), max(factors))]
    return f" The best rate of {', '.join(ends)} is at an end of those tried." if ends and len(factors) > 2 else ""
