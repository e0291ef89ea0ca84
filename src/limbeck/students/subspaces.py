"""What the frozen matrices of LoRA-XS are: the directions in which a layer's weight may move.

A layer's change is ``B R A`` with A and B frozen, so it stays between the columns of B and the rows of A. They may be singular
vectors of the weight (LoRA-XS, Bałazy et al., arXiv 2405.17604), of the gradient of the data at the start, or of AdamW's first
step, which is the gradient's sign (LoRA-SB, Ponkshe et al., arXiv 2411.19557, sec. 3). All but the first are orthonormal, so the
gradient in R is that of the weight seen from inside (``B^T g A^T``), and no scale is left to choose.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from limbeck.models.language_model import LanguageModel
from limbeck.students.adapters import Subspace, linear_layers, outputs_and_inputs

Kind = Literal["gradient", "update", "sb", "weights", "random"]
KINDS: tuple[Kind, ...] = get_args(Kind)
OF_DATA: tuple[Kind, ...] = ("gradient", "update", "sb")  # that need gradients of the data
_WHOLE = 1024  # the smaller side of a matrix up to which all singular vectors are computed
_EXTRA, _PASSES = 8, 10  # of a larger one: vectors beside those that are kept, and passes of subspace iteration


@torch.no_grad()
def subspaces(
    model: LanguageModel,
    kind: Kind,
    rank: int,
    *,
    gradients: Mapping[str, Tensor],
    step: float = 0.0,
    seed: int = 0,
) -> dict[str, Subspace]:
    """The subspace of each linear layer of a decoder by its name, on the CPU in float32.

    ``weights``: the weight's leading singular vectors, B with the singular values. ``gradient``: those of the loss's gradient in
    the weight, by name in ``gradients``, each in its weight's shape. ``update``: those of minus the gradient's sign. ``random``:
    orthonormal ones from ``seed``. R begins at 0; ``sb`` is ``update`` with R at ``step`` times its singular values, so that the
    model begins after a step of that size in each number, cut to the rank.
    """
    found, generator = {}, torch.Generator().manual_seed(seed)
    for name, layer in linear_layers(model.model):
        outputs, inputs = outputs_and_inputs(layer)
        start = torch.zeros(rank, rank)
        if kind == "random":
            pair = (torch.randn(size, rank, generator=generator) for size in (outputs, inputs))
            b, a = (torch.linalg.qr(one).Q for one in pair)
            found[name] = Subspace(a.t().contiguous(), b.contiguous(), start)
            continue
        matrix = (layer.weight if kind == "weights" else gradients[name]).detach().float().cpu()
        matrix = matrix.t() if isinstance(layer, Conv1D) else matrix
        if kind in ("update", "sb"):
            matrix = -matrix.sign()
        u, s, vt = _singular(matrix, rank)
        if kind == "sb":
            start = torch.diag(step * s)
        found[name] = Subspace(vt.contiguous(), (u * s if kind == "weights" else u).contiguous(), start)
    return found


def _singular(
    matrix: Float[Tensor, "m n"], rank: int
) -> tuple[Float[Tensor, "m rank"], Float[Tensor, " rank"], Float[Tensor, "rank n"]]:
    """The leading singular vectors and values; of a large matrix by randomised subspace iteration, the same each time."""
    if min(matrix.shape) <= _WHOLE:
        u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
        return u[:, :rank], s[:rank], vt[:rank]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        u, s, v = torch.svd_lowrank(matrix, q=min(rank + _EXTRA, min(matrix.shape)), niter=_PASSES)
    return u[:, :rank], s[:rank], v[:, :rank].t()
