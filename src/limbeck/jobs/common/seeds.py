"""What readings of several seeds are of: each seed alone, and all together."""

from __future__ import annotations

from collections.abc import Iterable


def each_and_all(seeds: Iterable[int]) -> list[tuple[int | None, list[int]]]:
    """Each seed with itself alone, in their order; then, where there are several, None with all of them."""
    ordered = sorted(seeds)
    alone: list[tuple[int | None, list[int]]] = [(seed, [seed]) for seed in ordered]
    return alone + ([(None, ordered)] if len(ordered) > 1 else [])
