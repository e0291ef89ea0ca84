"""Shapes of decoders with equal bytes, from the one of fewest FLOPs to the one of most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from limbeck.models.anatomy import Anatomy
from limbeck.planning.cost.size import Size
from limbeck.students.shape import Budget, Shape

BYTES_APART = 0.02  # share of the budget by which bytes may differ
_NEAR = 0.02  # share by which FLOPs may miss what was aimed at, for an FFN of the usual width
_USUAL_FFN = 8 / 3  # times the width of the model, as in Llama


@dataclass(frozen=True)
class Axes:
    """The largest layers and width of the search; widths are multiples of a ``head``, all heads have as many channels."""

    layers: int
    hidden: int
    head: int


def at_equal_bytes(anatomy: Anatomy, budget: Budget, axes: Axes, *, number: int, length: int) -> Sequence[Shape]:
    """So many shapes of about the bytes of a budget, evenly spaced in the logarithm of FLOPs per token in rows of ``length``.

    The first has the fewest FLOPs of all, and the last the most: the choice of the paper's fitness at equal bytes. Between them
    each is, of those near in FLOPs, the one whose FFN is nearest to the usual width.
    """
    layers, hidden, ffn = np.meshgrid(
        np.arange(1, axes.layers + 1),
        np.arange(axes.head, axes.hidden + 1, axes.head),
        np.arange(axes.head, 4 * axes.hidden + 1, axes.head),
        indexing="ij",
    )
    heads = hidden // axes.head
    every: dict[str, Any] = {"layers": layers, "hidden": hidden, "heads": heads, "kv_heads": heads, "ffn": ffn}
    inside = np.abs(budget.count(anatomy, **every) / budget.most - 1) <= BYTES_APART
    points = {name: values[inside] for name, values in every.items()}
    flops = np.log(Size.of_anatomy(replace(anatomy, sizes=replace(anatomy.sizes, **points))).forward_flops(length))
    unusual = np.abs(np.log(points["ffn"] / points["hidden"] / _USUAL_FFN))
    aims = np.linspace(flops.min(), flops.max(), number)
    found = [int(flops.argmin()), *(_near(flops, unusual, aim) for aim in aims[1:-1]), int(flops.argmax())]
    return [Shape(**{name: int(values[i]) for name, values in points.items()}) for i in dict.fromkeys(found)]


def _near(flops: np.ndarray, unusual: np.ndarray, aim: float) -> int:
    """The point of the most usual FFN near an aim in log FLOPs, or the nearest where none is near."""
    away = np.abs(flops - aim)
    return int(np.where(away <= max(_NEAR, away.min()), unusual, np.inf).argmin())
