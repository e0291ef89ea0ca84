"""Precision of sums over a whole text: float32 or wider, independent of the weights' dtype and of autocast."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor


def wide(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """``x`` in float32, or unchanged in float64. Sums over a whole text need this precision."""
    return x if x.dtype == torch.float64 else x.float()


def exact(x: Float[Tensor, "*shape"]) -> torch.autocast:
    """A context without autocast on the device of ``x``, so that matrix products keep the width of their factors."""
    return torch.autocast(x.device.type, enabled=False)


@contextmanager
def full_products() -> Iterator[None]:
    """A context in which products of float32 are computed in float32, where those of layers may be in fewer digits (TF32)."""
    before = torch.get_float32_matmul_precision()
    if before == "highest":
        yield
        return
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
