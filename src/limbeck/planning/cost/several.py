"""The size of several teachers that one student has, each of its own rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from limbeck.planning.cost.size import Size


@dataclass(frozen=True)
class SeveralSizes(Size):
    """Teachers of one training, all in memory: the sum of the parameters of ``held`` models, and the widths of the widest.

    A token is read by one of them, so its FLOPs are their mean by the ``shares`` of the rows that each has.
    """

    sizes: tuple[Size, ...] = ()
    shares: tuple[float, ...] = ()

    @classmethod
    def together(cls, sizes: Sequence[Size], shares: Sequence[float], held: Sequence[Size]) -> SeveralSizes:
        """Of models of these sizes. The shares have the sum 1. ``held``: of each model that is in memory, once."""
        widest = {
            field.name: max(getattr(size, field.name) for size in sizes)
            for field in fields(Size)
            if field.name not in ("parameters", "mixture")
        }
        parameters = sum(size.parameters for size in held)
        return cls(**widest, parameters=parameters, sizes=tuple(sizes), shares=tuple(shares))

    def forward_flops(self, length: int) -> float:
        """FLOPs of a forward pass per token, a mean over the teachers."""
        return sum(share * size.forward_flops(length) for size, share in zip(self.sizes, self.shares, strict=True))
