"""The elementwise recurrence h_t = a_t h_{t-1} + b_t, in about 2 sqrt(T) steps instead of T.

A row is split into about sqrt(T) blocks, which run in parallel from 0. The final states then pass from block to block. The
state before a block, times the product of a up to a token, is added to that token. There is no division, so a may be 0, as it
is where a document starts. The backward pass is the same recurrence from the end. With g the gradient of h, the gradient of b_t
is l_t = g_t + a_{t+1} l_{t+1}, and the gradient of a_t is l_t h_{t-1} (Martin & Cundy, arXiv 1709.04057, sec. 2).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def scan(
    a: Float[Tensor, "B T *rest"], b: Float[Tensor, "B T *rest"], before: Float[Tensor, " B *rest"] | None
) -> Float[Tensor, "B T *rest"]:
    """h of every token by h_t = a_t h_{t-1} + b_t. ``before`` is the state before the first token, 0 if None."""
    before = torch.zeros_like(b[:, 0]) if before is None else before
    return _Scan.apply(a, b, before)


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, before: Tensor) -> Tensor:
        h = _in_blocks(a, b, before)
        ctx.save_for_backward(a, h, before)
        return h

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a, h, before = ctx.saved_tensors
        following = torch.cat([a[:, 1:], torch.zeros_like(a[:, :1])], 1)
        b_grad = _in_blocks(following.flip(1), g.flip(1), torch.zeros_like(before)).flip(1)
        previous = torch.cat([before[:, None], h[:, :-1]], 1)
        return b_grad * previous, b_grad, a[:, 0] * b_grad[:, 0]


def _in_blocks(a: Tensor, b: Tensor, before: Tensor) -> Tensor:
    length = b.shape[1]
    size = max(1, math.isqrt(length))
    missing = -length % size
    fill = (0, 0) * (b.ndim - 2) + (0, missing)
    a, h = (
        F.pad(part, fill).unflatten(1, (-1, size)).transpose(1, 2).contiguous() for part in (a, b)
    )  # (B, c, n, ...)
    product = a.clone()
    for i in range(1, size):
        h[:, i].addcmul_(a[:, i], h[:, i - 1])
        product[:, i].mul_(product[:, i - 1])
    arriving, state = [], before
    for last, through in zip(h[:, -1].unbind(1), product[:, -1].unbind(1), strict=True):
        arriving.append(state)
        state = last + through * state
    h.addcmul_(product, torch.stack(arriving, 1)[:, None])
    return h.transpose(1, 2).flatten(1, 2)[:, :length]
