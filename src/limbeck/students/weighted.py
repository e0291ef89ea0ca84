"""Weights times the sizes of what they multiply: the score of Wanda, for whole units.

Wanda (arXiv 2306.11695, eq. 1) scores the weight of output i on input j by |W_ij| times the Euclidean norm of input j over all
positions. Here a unit has the sum over all weights that read it: a neuron the column of the map behind it, a head the columns of
its channels (as Wanda-sp in arXiv 2312.11983), a hidden channel its columns of all matrices that read it, the head's among them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from limbeck.models.anatomy import Anatomy
from limbeck.types import Batch

_ROWS = 4096  # of a matrix of which absolute values are in memory at once


class Matrix(NamedTuple):
    """A matrix that reads units along an ``axis``, "heads", "ffn" or "hidden", by its layer and its name there."""

    axis: str
    layer: int
    name: str


HEAD = Matrix("hidden", -1, "head")


def matrices(model: PreTrainedModel, anatomy: Anatomy) -> Iterator[tuple[Matrix, nn.Module]]:
    """All matrices inside the layers that read units, and their modules."""
    inputs = 0 if anatomy.kind.transposed else 1
    for number, layer in enumerate(anatomy.layers_of(model)):
        for name, axes in anatomy.inside.items():
            if len(axes) == 2 and axes[inputs] in ("heads", "ffn", "hidden"):
                module = name.removesuffix(".weight")
                yield Matrix(axes[inputs], number, module), layer.get_submodule(module)


def weights_of(module: nn.Module, anatomy: Anatomy) -> Float[Tensor, "m n"]:
    """The weights of a module of `matrices`, an output in each row."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight.T if anatomy.kind.transposed else weight


class WeightedInputs:
    """Of each matrix: sums of squares of its inputs over positions, and sums of its absolute weights over outputs."""

    def __init__(self, anatomy: Anatomy) -> None:
        self._anatomy = anatomy
        self._squares: dict[Matrix, Tensor] = {}
        self._weights: dict[Matrix, Tensor] = {}

    def add(
        self, matrix: Matrix, row: Batch, read: Float[Tensor, "1 T n"], weight: Callable[[], Float[Tensor, "m n"]]
    ) -> None:
        """Adds what a matrix reads in a row. ``weight`` gives its weights, which are asked for once."""
        values = read.detach()[0].to(wide(read))
        squares = (row.weight.reshape(-1).to(values.dtype) @ values.square()).double()
        if matrix not in self._squares:
            parts = [part.detach().abs().sum(0, dtype=torch.float64) for part in weight().split(_ROWS)]
            self._squares[matrix], self._weights[matrix] = torch.zeros_like(squares), torch.stack(parts).sum(0)
        self._squares[matrix] += squares

    def units(self) -> tuple[Float[Tensor, "L H"], Float[Tensor, "L F"], Float[Tensor, " D"]]:
        """The scores of heads, neurons and hidden channels."""
        found: dict[str, list[Tensor]] = {"heads": [], "ffn": [], "hidden": []}
        for matrix, squares in self._squares.items():
            found[matrix.axis].append(squares.sqrt() * self._weights[matrix])
        heads, ffn, hidden = (torch.stack(some) for some in found.values())
        heads = heads.unflatten(1, (self._anatomy.sizes.heads, -1)).sum(-1)
        return heads.float(), ffn.float(), hidden.sum(0).float()


def wide(tensor: Tensor) -> torch.dtype:
    """The tensor's format, at least float32, because sums of many small products lose bits in smaller formats."""
    return torch.promote_types(tensor.dtype, torch.float32)
