"""The choice of learning rates, by one rule for all arms: the rate of the best training on another seed.

`searched_rates` goes on beyond the rates that were to be tried. Recipes whose pages were made before it have `best_rates`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from limbeck.papers.lab.search import BestRates, Trial, searched
from limbeck.papers.lab.trainings import Cell, Trainings

TUNING = 10_000  # added to the seed, for the choice of rates


def best_rates(
    trainings: Trainings, tried: Mapping[str, Mapping[float, Cell]], loss: Callable[[Mapping[str, Any]], float | None]
) -> dict[str, float]:
    """The rate of each arm whose cell has the lowest ``loss``. A training that diverged is the worst.

    ``tried`` has a cell for each rate of each arm. An arm with one rate needs no training.
    """
    open_ = {arm: cells for arm, cells in tried.items() if len(cells) > 1}
    trainings.do(cell for cells in open_.values() for cell in cells.values())

    def ended(cell: Cell) -> float:
        result = trainings.result(cell)
        found = None if result["failed"] else loss(result)
        return math.inf if found is None or math.isnan(found) else found

    best = {arm: next(iter(cells)) for arm, cells in tried.items()}
    for arm, cells in open_.items():
        found = {rate: ended(cell) for rate, cell in cells.items()}
        best[arm] = min(found, key=found.__getitem__)
    return best


def searched_rates(
    trainings: Trainings,
    arms: Iterable[str],
    rates: Sequence[float],
    cell: Callable[[str, float], Cell],
    loss: Callable[[Mapping[str, Any]], float],
) -> BestRates:
    """The rate of each arm whose training has the lowest ``loss`` (`search.searched`). A training that diverged is the worst.

    ``cell`` is the training of an arm at a rate.
    """

    def losses(trials: Sequence[Trial]) -> list[float | None]:
        cells = [cell(arm, rate) for arm, rate in trials]
        trainings.do(cells)
        results = [trainings.result(one) for one in cells]
        return [None if one["failed"] else loss(one) for one in results]

    return searched(arms, rates, losses)
