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
    return tuple(_between(teacher, target, number / rounds) for number in range(1, rounds))


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


def _between(teacher: Anatomy, target: Shape, share: float) -> Shape:
    """The shape at a share of the way to the target, in the logarithm of each axis."""
    full = Shape.of_anatomy(teacher)

    def part(large: int, small: int, step: int = 1) -> int:
        wanted = math.ceil(large * (small / large) ** share / step) * step
        return max(small, min(large, wanted))

    kv_heads = part(full.kv_heads, target.kv_heads)
    heads = kv_heads * part(full.heads // full.kv_heads, target.heads // target.kv_heads)
    hidden = part(full.hidden, target.hidden, _STEP)
    if teacher.kind.square:
        hidden = heads * int(teacher.sizes.head_dim)
    elif teacher.kind.divides:
        hidden = math.ceil(hidden / heads) * heads
        if hidden > full.hidden:  # no multiple of these heads is left: the target's widths are legal
            heads, kv_heads, hidden = target.heads, target.kv_heads, target.hidden
    layers, ffn = part(full.layers, target.layers), part(full.ffn, target.ffn, _STEP)
    return Shape(layers=layers, hidden=hidden, heads=heads, kv_heads=kv_heads, ffn=ffn)
