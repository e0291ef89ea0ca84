"""Frozen weights in 4 bits, under adapters that are trained (QLoRA, Dettmers et al., arXiv 2305.14314).

The format is that paper's NF4 (sec. 3 and appendix E): blocks of 64 numbers, each a scale times one of 16 levels, which are
equally probable for normally distributed numbers. Scales are in bfloat16, where the paper quantises them a second time: 4.25 bits
a number instead of 4.13. A product takes the weights back to its own number format and keeps none of that: the backward pass does
it again.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, cast

import torch
from jaxtyping import BFloat16, Float, Int64, UInt8
from torch import Tensor, nn

BLOCK = 64  # numbers of one scale
BYTES = 0.5 + 2 / BLOCK  # of a number
_LEVELS = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334),
    *(-0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)


def to_nf4(
    numbers: Float[Tensor, "*shape"],
) -> tuple[UInt8[Tensor, " half"], BFloat16[Tensor, " blocks"]]:
    """Numbers in NF4: two levels a byte, the first in its upper half, and the scale of each block. All must be finite.

    The last block is filled up with zeros.
    """
    flat = numbers.detach().float().flatten()
    flat = nn.functional.pad(flat, (0, -flat.numel() % BLOCK)).view(-1, BLOCK)
    scales = flat.abs().amax(1).bfloat16()
    levels = torch.tensor(_LEVELS, device=flat.device)
    shares = flat / scales.float().clamp(min=torch.finfo(torch.float32).tiny)[:, None]
    codes = torch.bucketize(shares, (levels[1:] + levels[:-1]) / 2).to(torch.uint8).view(-1, 2)
    return codes[:, 0] << 4 | codes[:, 1], scales


def from_nf4(
    codes: UInt8[Tensor, " half"], scales: BFloat16[Tensor, " blocks"], shape: torch.Size, dtype: torch.dtype
) -> Float[Tensor, "*shape"]:
    """The numbers that `to_nf4` gave, in a shape and format; products of levels and scales are rounded once, to that."""
    flat = _pairs(codes.device).index_select(0, codes.int()).view(torch.float32).view(-1, BLOCK)
    flat.mul_(scales[:, None])
    return flat.flatten()[: shape.numel()].view(shape).to(dtype)


@lru_cache
def _pairs(device: torch.device) -> Int64[Tensor, " 256"]:
    """Both levels of each byte, in float32, as one number of 64 bits: such are selected several times as fast."""
    levels = torch.tensor(_LEVELS, device=device)
    return torch.stack((levels.repeat_interleave(16), levels.repeat(16)), 1).view(torch.int64).flatten()


class _Product(torch.autograd.Function):
    """``x`` times the transposed weight, which has no gradient and is taken out of its 4 bits in both passes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, codes: Tensor, scales: Tensor, shape: torch.Size) -> Tensor:
        """The product, in the format of ``x``."""
        ctx.save_for_backward(codes, scales)
        ctx.shape = shape
        return x @ from_nf4(codes, scales, shape, x.dtype).t()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        """The gradient of ``x``."""
        (gradient,), (codes, scales) = gradients, ctx.saved_tensors
        return gradient @ from_nf4(codes, scales, ctx.shape, gradient.dtype), None, None, None


class Nf4Linear(nn.Linear):
    """`torch.nn.Linear` with a frozen weight in NF4: ``weight`` holds the codes, ``scales`` the scales of its blocks.

    It computes in the format of its input, or in that of autocast.
    """

    scales: nn.Parameter

    def __init__(self, plain: nn.Linear | Nf4Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features, self.bias = plain.in_features, plain.out_features, plain.bias
        if isinstance(plain, Nf4Linear):
            self.weight, self.scales = plain.weight, plain.scales
        else:
            codes, scales = to_nf4(plain.weight)
            self.weight = nn.Parameter(codes, requires_grad=False)
            self.scales = nn.Parameter(scales, requires_grad=False)

    @property
    def shape(self) -> torch.Size:
        """Outputs and inputs."""
        return torch.Size((self.out_features, self.in_features))

    def forward(self, input: Tensor) -> Tensor:
        """The layer's output."""
        device = input.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else input.dtype
        found = cast("Tensor", _Product.apply(input.to(dtype), self.weight, self.scales, self.shape))
        return found if self.bias is None else found + self.bias.to(dtype)

    @torch.no_grad()
    def plain(self) -> nn.Linear:
        """An ordinary layer of the same numbers, in float32."""
        made = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        made.weight = nn.Parameter(from_nf4(self.weight, self.scales, self.shape, torch.float32))
        made.bias = self.bias
        return made.train(self.training)


def through_nf4(numbers: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """What NF4 leaves of numbers, in their format."""
    return from_nf4(*to_nf4(numbers), numbers.shape, numbers.dtype)
