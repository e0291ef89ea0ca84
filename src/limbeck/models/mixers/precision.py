"""Precision of sums over a whole text: float32 or wider, independent of the weights' dtype and of autocast."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def wide(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """``x`` in float32, or unchanged in float64. Sums over a whole text need this precision."""
    return x if x.dtype == torch.float64 else x.float()


def exact(x: Float[Tensor, "*shape"]) -> torch.autocast:
    """A context without autocast on the device of ``x``, so that matrix products keep the width of their factors."""
    return torch.autocast(x.device.type, enabled=False)
