"""Learning rates by one rule for all arms: each takes the one with which a training on another seed ends best."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from limbeck.papers.lab.trainings import Cell, Trainings

TUNING = 10_000  # added to the seed that rates are chosen on


def best_rates(
    trainings: Trainings, tried: Mapping[str, Mapping[float, Cell]], loss: Callable[[Mapping[str, Any]], float | None]
) -> dict[str, float]:
    """For each arm the rate whose cell has the least ``loss``; one that came to no end, or to no number, is the worst.

    ``tried`` has for each arm a cell a rate. Where an arm has one rate nothing is trained.
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
