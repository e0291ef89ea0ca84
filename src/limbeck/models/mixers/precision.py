"""How wide numbers are where a whole text is summed up, whatever the weights and autocast say."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def wide(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """In float32 unless it is wider: what sums over a whole text needs that."""
    return x if x.dtype == torch.float64 else x.float()


def exact(x: Float[Tensor, "*shape"]) -> torch.autocast:
    """Where products of matrices are as wide as their factors: autocast would round what a whole text is summed up in."""
    return torch.autocast(x.device.type, enabled=False)
