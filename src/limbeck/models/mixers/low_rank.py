"""A linear map of low rank, with a sparse part if it has one: what limbeck's decoder has instead of a factored matrix.

A map of m outputs and n inputs has rank (m + n) parameters, and one for each kept entry, whose place takes 32 bits more.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.models.mixers.mixer import linear

_FEW = 8  # tokens up to which the entries that are kept apart are multiplied one by one; more are faster as a matrix


class LowRank(nn.Module):
    """The map y = (left right + S) x, where ``left`` is (outputs, rank) and ``right`` (rank, inputs).

    S has ``kept`` entries: ``values``, at the ``places`` of the matrix (outputs, inputs) in row-major order. Places do not move
    in training.
    """

    places: Int[Tensor, " kept"]

    def __init__(self, inputs: int, outputs: int, rank: int, kept: int = 0) -> None:
        super().__init__()
        self.right, self.left = linear(inputs, rank), linear(rank, outputs)
        self.values = nn.Parameter(torch.zeros(kept)) if kept else None
        self.register_buffer("places", torch.arange(kept, dtype=torch.int32) if kept else None)

    @property
    def weight(self) -> Float[Tensor, "m n"]:
        """The matrix itself."""
        product = self.left.weight @ self.right.weight
        return product if self.values is None else with_entries(product, self.places, self.values)

    def forward(self, x: Float[Tensor, "... n"]) -> Float[Tensor, "... m"]:
        y = self.left(self.right(x))
        if self.values is None:
            return y
        inputs = x.shape[-1]
        if x.numel() <= _FEW * inputs:
            rows, columns = self.places.div(inputs, rounding_mode="floor"), self.places % inputs
            return y.index_add(-1, rows, (x.index_select(-1, columns) * self.values).to(y.dtype))
        apart = with_entries(self.values.new_zeros(y.shape[-1], inputs), self.places, self.values)
        return y + F.linear(x, apart.to(x.dtype))


def with_entries(
    matrix: Float[Tensor, "m n"], places: Int[Tensor, " kept"], values: Float[Tensor, " kept"]
) -> Float[Tensor, "m n"]:
    """A matrix with ``values`` added to it at the ``places`` in row-major order, in its own format."""
    return matrix.flatten().index_add(0, places, values.to(matrix.dtype)).view_as(matrix)


def replace_linear(model: nn.Module, name: str, rank: int, kept: int) -> LowRank:
    """Puts a map of this rank in the place of the linear map ``name``, on its device and in its format; returns it.

    Raises AttributeError where the model has no such part, and TypeError where it is no linear map without bias.
    """
    parent, _, last = name.rpartition(".")
    old = model.get_submodule(name)
    if not isinstance(old, nn.Linear) or old.bias is not None:
        raise TypeError(f"{name}: expected a linear map without bias, got {type(old).__name__}")
    new = LowRank(old.in_features, old.out_features, rank, kept).to(old.weight.device, old.weight.dtype)
    setattr(model.get_submodule(parent), last, new)
    return new
