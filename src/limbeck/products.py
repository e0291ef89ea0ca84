"""In how many digits products of float32 are computed: in all of them, or on a GPU in those of TF32, which its tensor cores take.

What measures, compares or writes a result computes products in full. Only the layers of a training step may use TF32, where the
plan of the training says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_products() -> Iterator[None]:
    """A context, or decorator, in which products of float32 are computed in float32, also inside `tf32_products`."""
    with _products("highest"):
        yield


@contextmanager
def tf32_products() -> Iterator[None]:
    """A context in which products of float32 are computed in TF32 where the device has it."""
    with _products("high"):
        yield


@contextmanager
def _products(wanted: str) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    if before == wanted:
        yield
        return
    torch.set_float32_matmul_precision(wanted)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
