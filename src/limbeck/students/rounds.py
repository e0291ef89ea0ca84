"""Pruning in rounds: shapes between a teacher's and its student's, the share of a training for each, and what came of units.

With training between, later rounds choose among units that have adapted to what is gone (Minitron, arXiv 2407.14679, prunes more
than half in rounds; limbeck has not measured whether that is better at equal tokens).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from limbeck.models.anatomy import Anatomy
from limbeck.students.shape import Shape

_STEP = 8  # of hidden channels and neurons, as of other narrow students


def shapes_between(teacher: Anatomy, target: Shape, rounds: int) -> tuple[Shape, ...]:
    """The shapes of all rounds but the last, largest first: each axis shrinks by about the same ratio in every round.

    Every shape can be pruned from the one before it, and the target from the last.
    """
    found: list[Shape] = []
    for number in range(1, rounds):
        previous = found[-1] if found else Shape.of_anatomy(teacher)
        found.append(_between(teacher, previous, target, number / rounds))
    return tuple(found)


def shares(rounds: int) -> tuple[float, ...]:
    """The share of a training's steps for each round: half for the last, half of the rest for the one before it, and so on.

    The first two have as many.
    """
    halves = [0.5**number for number in range(1, rounds)]
    return (1 - sum(halves), *reversed(halves))


def composed(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """The kept indices (as a lineage has them) of two prunings, one after the other, as indices of the first one's teacher."""
    layers: Sequence[int] = second["layers"]
    inside = {
        axis: [[first[axis][layer][unit] for unit in units] for layer, units in zip(layers, second[axis], strict=True)]
        for axis in ("heads", "kv_heads", "ffn")
    }
    outside = {axis: [first[axis][unit] for unit in second[axis]] for axis in ("layers", "hidden")}
    return outside | inside


def _between(teacher: Anatomy, previous: Shape, target: Shape, share: float) -> Shape:
    """The shape at a share of the way to the target, in the logarithm of each axis, within the shape of the round before."""
    full = Shape.of_anatomy(teacher)

    def part(large: int, small: int, most: int, step: int = 1) -> int:
        wanted = math.ceil(large * (small / large) ** share / step) * step
        return max(small, min(most, wanted))

    kv_heads = part(full.kv_heads, target.kv_heads, previous.kv_heads)
    group, most = target.heads // target.kv_heads, previous.heads // previous.kv_heads
    heads = kv_heads * part(full.heads // full.kv_heads, group, most)
    hidden = part(full.hidden, target.hidden, previous.hidden, _STEP)
    if teacher.kind.square:
        hidden = heads * int(teacher.sizes.head_dim)
    elif teacher.kind.divides:
        widths = range(-(-target.hidden // heads) * heads, previous.hidden + 1, heads)
        if not widths:  # no multiple of these heads is left: those of the round before have one, its own width
            heads, kv_heads = previous.heads, previous.kv_heads
            widths = range(-(-target.hidden // heads) * heads, previous.hidden + 1, heads)
        hidden = next((width for width in widths if width >= hidden), widths[-1])
    return Shape(
        layers=part(full.layers, target.layers, previous.layers),
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        ffn=part(full.ffn, target.ffn, previous.ffn, _STEP),
    )
