"""The cost of training adapters on frozen weights: how many numbers are trained, and the FLOPs of a token.

The backward pass leaves out the products that give gradients of the weights, one of the two of each matrix (LoRA, Hu et al.,
arXiv 2106.09685); attention, which multiplies no weights, keeps both. The adapters add products of their own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from limbeck.planning.cost.memory import WIDE, Narrow
from limbeck.planning.cost.size import Size


@dataclass(frozen=True)
class AdapterSize:
    """The adapters of a model: how many ``numbers`` are trained, and the ``flops`` of a token in their own products, forward and
    backward. ``narrow``: which of the weights under them are held in fewer bytes while they are frozen. ``alone``: whether the
    tuned model is measured without its start beside it, of which hidden states are kept.
    """

    numbers: int
    flops: float
    narrow: Narrow = WIDE
    alone: bool = False

    @classmethod
    def of(
        cls, rank: int, shapes: Sequence[Sequence[int]], *, between: bool = False, held: float | None = None
    ) -> AdapterSize:
        """Adapters of a rank for weights of these shapes: two narrow matrices each, with 2 FLOPs a number in each of 3 products.

        ``between``: those two are frozen, and a square matrix between them alone is trained (LoRA-XS, arXiv 2405.17604).
        ``held``: in how many bytes a number of the weights under them is held, None for as many as one that is trained.
        """
        ends, square, under = rank * sum(map(sum, shapes)), rank**2 * len(shapes), sum(map(math.prod, shapes))
        numbers, flops = (square, 4.0 * ends + 6.0 * square) if between else (ends, 6.0 * ends)
        unpacked = max(map(math.prod, shapes)) if held is not None and held < 1 else 0
        return cls(numbers, flops, WIDE if held is None else Narrow(under, held, unpacked))


def step_flops(size: Size, length: int, adapters: AdapterSize | None = None) -> float:
    """FLOPs a token of a forward and backward pass in rows of ``length`` tokens: of all weights, or of adapters alone."""
    whole = size.forward_flops(length) + size.backward_flops(length)
    return whole if adapters is None else whole - 2.0 * size.multiplied + adapters.flops
