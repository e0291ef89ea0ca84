"""Numbers as blocks of a GGUF file hold them: 32 in a row share a scale, which is stored in half precision.

The quantised whole numbers follow from the scale before it is rounded; only what is stored is rounded. All of it is float32, so
values are those that the package `gguf` quantises to and reads again, one for one. Source: `gguf.quants`, ggml's reference.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.models.gguf.numbers import BLOCK


def in_blocks(values: Float[Tensor, "*rows columns"], kind: str) -> Float[Tensor, "*rows columns"]:
    """The values in float32 that blocks of a ``kind``, q8_0 or q4_0, hold of these; blocks run along the last axis.

    Values that come from such blocks stay as they are. The length of the last axis is a multiple of 32.
    """
    blocks = values.detach().float().unflatten(-1, (-1, BLOCK))
    q, scale = (_q8_0 if kind == "q8_0" else _q4_0)(blocks)
    stored = scale.half().float()
    # a scale that half precision rounds to 0 leaves nothing of its block
    return torch.where(stored == 0, 0.0, q * stored).flatten(-2)


def _q8_0(blocks: Tensor) -> tuple[Tensor, Tensor]:
    scale = blocks.abs().amax(-1, keepdim=True) / 127
    scaled = blocks * _inverse(scale)
    size = scaled.abs()
    whole = size.floor()
    return scaled.sign() * (whole + (2 * (size - whole)).floor()), scale


def _q4_0(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """The number of largest size, the first of several, becomes -8; one of its size and the other sign can only be 7."""
    largest = blocks.gather(-1, blocks.abs().argmax(-1, keepdim=True))
    scale = largest / -8
    return (blocks * _inverse(scale) + 8.5).trunc().clamp(0, 15) - 8, scale


def _inverse(scale: Tensor) -> Tensor:
    return torch.where(scale == 0, 0.0, 1 / scale)
