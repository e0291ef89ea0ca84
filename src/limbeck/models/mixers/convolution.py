"""Causal convolution over time with one filter a channel: y_t = sum_s h_s u_{t-s}, within the token's document.

Short filters are summed tap by tap. Filters as long as the text use the Fourier transform on rows of twice the length, so
that the end of a row does not wrap round to its start. The state holds the inputs within reach of a later token.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor, nn
from transformers import initialization as init

from limbeck.models.mixers.documents import Documents
from limbeck.models.mixers.precision import wide


class ShortConv(nn.Module):
    """A causal depthwise convolution with ``taps`` taps for each channel, and optionally a bias."""

    def __init__(self, channels: int, taps: int, *, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, taps))  # the last tap is the token's own, as in nn.Conv1d
        self.bias = nn.Parameter(torch.zeros(channels)) if bias else None
        self.initialise()

    def initialise(self) -> None:
        """Draws weights and biases uniformly within 1 / sqrt(taps), as nn.Conv1d does."""
        bound = self.weight.shape[1] ** -0.5
        init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            init.uniform_(self.bias, -bound, bound)

    def forward(
        self, u: Float[Tensor, "B T D"], documents: Documents, recent: Float[Tensor, "B S D"] | None
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B S2 D"]]:
        """The convolution, and the inputs to keep for the next call. ``recent`` are the inputs kept by the previous call."""
        remembered = u if recent is None else torch.cat([recent, u], 1)
        # Rows that are one document each and continue none have zeros in front of the first token, so no mask is needed.
        reach = None if documents.whole and recent is None else documents.reach
        wider = torch.promote_types(u.dtype, self.weight.dtype)  # under autocast the weights may be wider
        y: Tensor = _Taps.apply(remembered.to(wider), self.weight.to(wider), reach, u.shape[1])
        y = y if self.bias is None else y + self.bias
        return y.to(u.dtype), last(remembered, self.weight.shape[1] - 1)


class _Taps(torch.autograd.Function):
    """sum_b w_b ⊙ u_{t-b} for the last T input tokens, where b is at most ``reach``; terms beyond it are 0.

    The gradient is written out: automatic differentiation would copy twice for each tap and take three times as long.
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, reach: Tensor | None, length: int) -> Tensor:
        ctx.save_for_backward(inputs, weight, reach)
        ctx.length = length
        rows = weight.mT.contiguous()  # contiguous along the channels, which are read together
        y = inputs[:, inputs.shape[1] - length :] * rows[-1]
        for back in range(1, len(rows)):
            to, of = _shifted(inputs, length, back)
            y[:, to].addcmul_(_reached(inputs[:, of], reach, back, to), rows[-1 - back])
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        inputs, weight, reach = ctx.saved_tensors
        rows, held = weight.mT.contiguous(), inputs.shape[1] - ctx.length
        of_inputs, of_rows = torch.empty_like(inputs), torch.empty_like(rows)
        of_inputs[:, :held] = 0
        torch.mul(grad, rows[-1], out=of_inputs[:, held:])
        of_rows[-1] = (grad * inputs[:, held:]).sum((0, 1))
        for back in range(1, len(rows)):
            to, of = _shifted(inputs, ctx.length, back)
            left = _reached(grad[:, to], reach, back, to)
            of_inputs[:, of].addcmul_(left, rows[-1 - back])
            of_rows[-1 - back] = (left * inputs[:, of]).sum((0, 1))
        return of_inputs, of_rows.mT, None, None


def _shifted(inputs: Float[Tensor, "B S D"], length: int, back: int) -> tuple[slice, slice]:
    """Slices of the last ``length`` tokens that have an input ``back`` tokens earlier, and of those earlier inputs."""
    first = inputs.shape[1] - length - back
    return slice(max(0, -first), length), slice(max(0, first), max(0, first + length))


def _reached(
    u: Float[Tensor, "B t D"], reach: Int[Tensor, "B T"] | None, back: int, to: slice
) -> Float[Tensor, "B t D"]:
    """``u``, set to 0 where the token ``back`` positions earlier belongs to another document."""
    return u if reach is None else u * (reach[:, to] >= back)[..., None]


def long_convolution(
    u: Float[Tensor, "B T D"],
    filters: Float[Tensor, "L D"],
    documents: Documents,
    recent: Float[Tensor, "B S D"] | None,
) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B S2 D"]]:
    """The convolution with filters of L taps, and the inputs to keep for the next call.

    The first tap is for the token itself. ``recent`` are the inputs kept by the previous call, or None.
    """
    taps, length = filters.shape[0], u.shape[1]
    if recent is None or recent.shape[1] == 0:
        return convolve(u, filters, documents), last(u, taps - 1)
    remembered = torch.cat([recent, u], 1)
    if length == 1:
        return _one(remembered, filters, documents), last(remembered, taps - 1)
    held = remembered.shape[1] - length
    return convolve(remembered, filters, documents.behind(held))[:, held:], last(remembered, taps - 1)


def convolve(u: Float[Tensor, "B T D"], filters: Float[Tensor, "L D"], documents: Documents) -> Float[Tensor, "B T D"]:
    """The convolution of rows that continue no earlier text, each document separately."""
    if documents.whole:
        return _fourier(u, filters)
    tokens, outputs = [], []
    for group in documents.apart():
        rows = u.new_zeros(math.prod(group.shape), u.shape[-1]).index_put((group.place,), u.flatten(0, 1)[group.tokens])
        outputs.append(_fourier(rows.unflatten(0, group.shape), filters).flatten(0, 1)[group.place])
        tokens.append(group.tokens)
    return torch.cat(outputs)[torch.cat(tokens).argsort()].view_as(u)


def convolution_flops(length: int) -> float:
    """FLOPs for each token and channel of a row of ``length``: a Fourier transform, a product, and the inverse transform.

    A transform of n = 2 T real numbers counts as 2.5 n log2 n, half of a complex radix-2 one (Cooley & Tukey, 1965).
    """
    return 10 * math.log2(2 * length) + 6


def last(x: Float[Tensor, "B T D"], count: int) -> Float[Tensor, "B S D"]:
    """The last ``count`` tokens, or all tokens if there are fewer."""
    return x[:, max(0, x.shape[1] - count) :]


def _one(remembered: Tensor, filters: Tensor, documents: Documents) -> Tensor:
    """The convolution at the last token only."""
    count = min(remembered.shape[1], filters.shape[0])
    back = torch.arange(count - 1, -1, -1, device=remembered.device)
    reached = (back <= documents.reach)[..., None]  # (B, count, 1)
    return (last(remembered, count) * filters[back] * reached).sum(1, keepdim=True).to(remembered.dtype)


def _fourier(u: Float[Tensor, "B T D"], filters: Float[Tensor, "L D"]) -> Float[Tensor, "B T D"]:
    taps = filters[: u.shape[1]]  # later taps have no input
    found: Tensor = _Fourier.apply(wide(u), wide(taps))
    return found.to(u.dtype)


class _Fourier(torch.autograd.Function):
    """The convolution of rows with filters that are no longer than the rows, by the Fourier transform.

    Gradients are written out as correlations of real numbers; automatic differentiation would use complex transforms.
    """

    @staticmethod
    def forward(ctx: Any, u: Float[Tensor, "B T D"], taps: Float[Tensor, "L D"]) -> Float[Tensor, "B T D"]:
        ctx.taps = len(taps)
        rows, filters = (_spectrum(part, u.shape[1]) for part in (u, taps))
        ctx.save_for_backward(rows, filters)
        return _first(rows * filters, u.shape[1])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Float[Tensor, "B T D"]) -> tuple[Tensor, Tensor]:
        rows, filters = ctx.saved_tensors
        back = _spectrum(grad, grad.shape[1])
        of_u = _first(back * filters.conj(), grad.shape[1])
        return of_u, _first((back * rows.conj()).sum(0), ctx.taps)


def _spectrum(x: Float[Tensor, "*rows T D"], length: int) -> Complex[Tensor, "*rows D F"]:
    """The spectrum of rows padded to twice the text. Time is the last axis, which is fastest to transform."""
    return torch.fft.rfft(x.mT, n=2 * length)


def _first(spectrum: Complex[Tensor, "*rows D F"], count: int) -> Float[Tensor, "*rows T D"]:
    """The first ``count`` tokens of the rows that have this spectrum."""
    return torch.fft.irfft(spectrum, n=2 * (spectrum.shape[-1] - 1))[..., :count].mT
