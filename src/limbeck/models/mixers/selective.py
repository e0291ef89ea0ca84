"""Mamba's selective scan, h_t = exp(Δ_t A) h_{t-1} + Δ_t B_t u_t and y_t = h_t · C_t, one piece of the text at a time.

The states are N times as large as the inputs, so memory is the main cost. The states of a piece fit a processor's cache, and
only the states between pieces are saved. The backward pass computes each piece again, as in Gu & Dao, arXiv 2312.00752,
sec. 3.3.2. With g the gradient of y, the gradient of h is l_t = g_t C_t + exp(Δ_{t+1} A) l_{t+1}.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

_CACHED = 2**19  # numbers of a piece's states: 2 MiB


def selective_scan(
    u: Float[Tensor, "B T E"],
    delta: Float[Tensor, "B T E"],
    a: Float[Tensor, "N E"],
    b: Float[Tensor, "B T N"],
    c: Float[Tensor, "B T N"],
    *,
    start: Bool[Tensor, "B T"],
    before: Float[Tensor, "B N E"] | None,
) -> tuple[Float[Tensor, "B T E"], Float[Tensor, "B N E"]]:
    """The outputs y, and the state h after the last token, for E channels with N states each.

    ``delta`` is the step Δ. ``start`` marks the first token of each document, where the state restarts from 0. ``before`` is
    the state before the first token, 0 if None. Source: Gu & Dao, arXiv 2312.00752, sec. 3.
    """
    before = u.new_zeros(u.shape[0], *a.shape) if before is None else before
    # Time is the first axis and channels are the last, so that the data of a token are contiguous.
    y, after = _Scan.apply(*(part.transpose(0, 1) for part in (u, delta, b, c, start)), a, before)
    return y.transpose(0, 1), after


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, u: Tensor, delta: Tensor, b: Tensor, c: Tensor, start: Tensor, a: Tensor, before: Tensor
    ) -> tuple[Tensor, Tensor]:
        y, state, kept = torch.empty_like(u), before, []
        for piece in _pieces(u, a):
            kept.append(state)
            _, h = _states(u[piece], delta[piece], b[piece], start[piece], a, state)
            y[piece] = (c[piece][:, :, None] @ h)[:, :, 0]
            state = h[-1].clone()
        ctx.save_for_backward(u, delta, b, c, start, a, *kept)
        return y, state

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, y_grad: Tensor, after_grad: Tensor) -> tuple[Tensor | None, ...]:
        u, delta, b, c, start, a, *kept = ctx.saved_tensors
        u_grad, delta_grad, b_grad, c_grad = (torch.empty_like(part) for part in (u, delta, b, c))
        a_grad, later = torch.zeros_like(a), after_grad  # later: gradient of the state after a piece
        for piece, state in reversed(list(zip(_pieces(u, a), kept, strict=True))):
            d, x = delta[piece], u[piece]
            decay, h = _states(x, d, b[piece], start[piece], a, state)
            g = y_grad[piece][:, :, None] * c[piece][..., None]
            g[-1] += later
            for t in range(len(g) - 1, 0, -1):
                g[t - 1].addcmul_(decay[t], g[t])
            later = decay[0] * g[0]
            c_grad[piece] = (h @ y_grad[piece][..., None])[..., 0]
            b_grad[piece] = (g @ (d * x)[..., None])[..., 0]
            driven = (b[piece][:, :, None] @ g)[:, :, 0]
            u_grad[piece] = driven * d
            h = torch.cat([state[None], h[:-1]]).mul_(g).mul_(decay)  # the gradient of Δ A
            a_grad += (h * d[:, :, None]).sum((0, 1))
            delta_grad[piece] = driven * x + (h * a).sum(-2)
        return u_grad, delta_grad, b_grad, c_grad, None, a_grad, later


def _pieces(u: Float[Tensor, "T B E"], a: Float[Tensor, "N E"]) -> Iterator[slice]:
    size = max(16, _CACHED // (u.shape[1] * a.numel()))
    return (slice(first, first + size) for first in range(0, len(u), size))


def _states(
    u: Float[Tensor, "T B E"],
    delta: Float[Tensor, "T B E"],
    b: Float[Tensor, "T B N"],
    start: Bool[Tensor, "T B"],
    a: Float[Tensor, "N E"],
    before: Float[Tensor, "B N E"],
) -> tuple[Float[Tensor, "T B N E"], Float[Tensor, "T B N E"]]:
    """The decays exp(Δ A), set to 0 where a document starts, and h of every token."""
    decay = (delta[:, :, None] * a).exp_()
    if start.any():
        decay.masked_fill_(start[..., None, None], 0.0)
    h = (delta * u)[:, :, None] * b[..., None]
    for t in range(len(h)):
        h[t].addcmul_(decay[t], before)
        before = h[t]
    return decay, h
