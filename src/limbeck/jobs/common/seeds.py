"""What readings of several seeds are of: each seed alone, and all together; and readings by model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from limbeck.types import Reading


def each_and_all(seeds: Iterable[int]) -> list[tuple[int | None, list[int]]]:
    """Each seed with itself alone, in their order; then, where there are several, None with all of them."""
    ordered = sorted(seeds)
    alone: list[tuple[int | None, list[int]]] = [(seed, [seed]) for seed in ordered]
    return alone + ([(None, ordered)] if len(ordered) > 1 else [])


def by_model(readings: Sequence[Reading]) -> dict[str, dict[str, Any]]:
    """Readings by model and name, over all seeds if there are several."""
    found: dict[str, dict[str, Any]] = {}
    for reading in readings:
        row = reading.row()
        found.setdefault(reading.model, {})[reading.name] = {
            key: row[key] for key in ("value", "low", "high", "unit", "n")
        }
    return found
