"""Causal convolution over time, a filter a channel: y_t = sum_s h_s u_{t-s}, cut off where the document starts.

A few taps are added up one by one; a filter as long as the text goes through the Fourier transform, on rows of twice the
length, so that its end does not come round to the start. The state is the inputs that a later token may still reach.
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
    """A filter of few taps for each channel, with a bias if wanted."""

    def __init__(self, channels: int, taps: int, *, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, taps))  # the last tap is the token's own, as in nn.Conv1d
        self.bias = nn.Parameter(torch.zeros(channels)) if bias else None
        self.initialise()

    def initialise(self) -> None:
        """As nn.Conv1d does, uniform within 1 / sqrt(taps)."""
        bound = self.weight.shape[1] ** -0.5
        init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            init.uniform_(self.bias, -bound, bound)

    def forward(
        self, u: Float[Tensor, "B T D"], documents: Documents, recent: Float[Tensor, "B S D"] | None
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B S2 D"]]:
        """The convolution, and the inputs to remember after it (``recent`` are those from before)."""
        remembered = u if recent is None else torch.cat([recent, u], 1)
        # Where nothing came before and rows are whole, what is in front of the first token is 0 by itself.
        reach = None if documents.whole and recent is None else documents.reach
        wider = torch.promote_types(u.dtype, self.weight.dtype)  # under autocast the weights may be
        y: Tensor = _Taps.apply(remembered.to(wider), self.weight.to(wider), reach, u.shape[1])
        y = y if self.bias is None else y + self.bias
        return y.to(u.dtype), last(remembered, self.weight.shape[1] - 1)


class _Taps(torch.autograd.Function):
    """sum_b w_b ⊙ heard_{t-b} for the last T of the tokens heard, where b is no more than ``reach``; outside is 0.

    With its gradient written out: one shifted copy a tap, and a second for the gradient, would take three times as long.
    """

    @staticmethod
    def forward(ctx: Any, heard: Tensor, weight: Tensor, reach: Tensor | None, length: int) -> Tensor:
        ctx.save_for_backward(heard, weight, reach)
        ctx.length = length
        rows = weight.mT.contiguous()  # what is read along a row of channels has to lie there
        y = heard[:, heard.shape[1] - length :] * rows[-1]
        for back in range(1, len(rows)):
            to, of = _shifted(heard, length, back)
            y[:, to].addcmul_(_reached(heard[:, of], reach, back, to), rows[-1 - back])
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        heard, weight, reach = ctx.saved_tensors
        rows, held = weight.mT.contiguous(), heard.shape[1] - ctx.length
        of_heard, of_rows = torch.empty_like(heard), torch.empty_like(rows)
        of_heard[:, :held] = 0
        torch.mul(grad, rows[-1], out=of_heard[:, held:])
        of_rows[-1] = (grad * heard[:, held:]).sum((0, 1))
        for back in range(1, len(rows)):
            to, of = _shifted(heard, ctx.length, back)
            left = _reached(grad[:, to], reach, back, to)
            of_heard[:, of].addcmul_(left, rows[-1 - back])
            of_rows[-1 - back] = (left * heard[:, of]).sum((0, 1))
        return of_heard, of_rows.mT, None, None


def _shifted(heard: Float[Tensor, "B S D"], length: int, back: int) -> tuple[slice, slice]:
    """Which of the last ``length`` tokens have one so far ``back`` among those heard, and which those are."""
    first = heard.shape[1] - length - back
    return slice(max(0, -first), length), slice(max(0, first), max(0, first + length))


def _reached(
    u: Float[Tensor, "B t D"], reach: Int[Tensor, "B T"] | None, back: int, to: slice
) -> Float[Tensor, "B t D"]:
    """0 where a token so far back is of another document."""
    return u if reach is None else u * (reach[:, to] >= back)[..., None]


def long_convolution(
    u: Float[Tensor, "B T D"],
    filters: Float[Tensor, "L D"],
    documents: Documents,
    recent: Float[Tensor, "B S D"] | None,
) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B S2 D"]]:
    """The convolution with filters of L taps, the first for the token itself, and the inputs to remember after it."""
    taps, length = filters.shape[0], u.shape[1]
    if recent is None or recent.shape[1] == 0:
        return convolve(u, filters, documents), last(u, taps - 1)
    remembered = torch.cat([recent, u], 1)
    if length == 1:
        return _one(remembered, filters, documents), last(remembered, taps - 1)
    held = remembered.shape[1] - length
    return convolve(remembered, filters, documents.behind(held))[:, held:], last(remembered, taps - 1)


def convolve(u: Float[Tensor, "B T D"], filters: Float[Tensor, "L D"], documents: Documents) -> Float[Tensor, "B T D"]:
    """The convolution of rows before which nothing came, each document on its own."""
    if documents.whole:
        return _fourier(u, filters)
    tokens, outputs = [], []
    for group in documents.apart():
        rows = u.new_zeros(math.prod(group.shape), u.shape[-1]).index_put((group.place,), u.flatten(0, 1)[group.tokens])
        outputs.append(_fourier(rows.unflatten(0, group.shape), filters).flatten(0, 1)[group.place])
        tokens.append(group.tokens)
    return torch.cat(outputs)[torch.cat(tokens).argsort()].view_as(u)


def convolution_flops(length: int) -> float:
    """FLOPs for each token and channel of a row of ``length`` by the Fourier transform: there, a product, and back.

    A transform of n = 2 T real numbers is taken as 2.5 n log2 n, half of a complex one by powers of 2 (Cooley & Tukey, 1965).
    """
    return 10 * math.log2(2 * length) + 6


def last(x: Float[Tensor, "B T D"], count: int) -> Float[Tensor, "B S D"]:
    """The last ``count`` tokens, or all where there are fewer."""
    return x[:, max(0, x.shape[1] - count) :]


def _one(remembered: Tensor, filters: Tensor, documents: Documents) -> Tensor:
    """The convolution at the last token alone."""
    count = min(remembered.shape[1], filters.shape[0])
    back = torch.arange(count - 1, -1, -1, device=remembered.device)
    reached = (back <= documents.reach)[..., None]  # (B, count, 1)
    return (last(remembered, count) * filters[back] * reached).sum(1, keepdim=True).to(remembered.dtype)


def _fourier(u: Float[Tensor, "B T D"], filters: Float[Tensor, "L D"]) -> Float[Tensor, "B T D"]:
    taps = filters[: u.shape[1]]  # those beyond the row reach nothing
    found: Tensor = _Fourier.apply(wide(u), wide(taps))
    return found.to(u.dtype)


class _Fourier(torch.autograd.Function):
    """The convolution of rows with filters no longer than they are, by the Fourier transform.

    Its gradients are correlations, of real numbers like itself; automatic ones would go through complex transforms.
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
    """Of rows twice as long as the text, along the last axis, which is what a Fourier transform walks fastest."""
    return torch.fft.rfft(x.mT, n=2 * length)


def _first(spectrum: Complex[Tensor, "*rows D F"], count: int) -> Float[Tensor, "*rows T D"]:
    """The first ``count`` tokens of the rows that have this spectrum."""
    return torch.fft.irfft(spectrum, n=2 * (spectrum.shape[-1] - 1))[..., :count].mT
