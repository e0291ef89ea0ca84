"""Causal attention inside short documents by plain matrix products, with its own gradient.

A block of queries meets the keys up to its own end, so nearly half of all pairs are never computed. Query heads that share a key
head share its products. Documents are lengthened to one of a few sizes; what is added lies behind the causal mask. Those of a
size are computed together, in batches of a power of two, since a CPU compiles each shape of a product. The weights of attention
are kept for the gradient, about H·L²/2 numbers for a document of L tokens.
On a CPU this is faster than PyTorch's fused attention, most of all in bfloat16 (benchmarks/attention.py).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from limbeck.models.mixers.precision import exact

_BLOCK = 128  # queries


def attend_short(
    q: Float[Tensor, "N H K"],
    k: Float[Tensor, "N G K"],
    v: Float[Tensor, "N G V"],
    lengths: Sequence[int],
    *,
    scale: float,
) -> Float[Tensor, "N H V"]:
    """Causal attention of H query heads on G key heads, where G divides H, inside consecutive documents of these lengths.

    ``scale`` multiplies the scores. All three have one number format; in bfloat16 scores and weights are rounded to it, and the
    softmax between them is float32. It has no second derivative.
    """
    return _Attention.apply(q, k, v, _Layout.of(tuple(lengths)), scale)


@dataclass(frozen=True)
class _Layout:
    """The order in which documents are computed: ``groups`` of (documents, size), one after the other, M tokens in all.

    ``source`` gives the token at each place, ``place`` the place of each token; both are None where the order stays.
    """

    groups: Sequence[tuple[int, int]]
    source: Int[Tensor, " M"] | None
    place: Int[Tensor, " N"] | None

    @staticmethod
    @lru_cache(maxsize=32)  # all layers, forward and backward, of a few micro-batches
    def of(lengths: tuple[int, ...]) -> _Layout:
        if len(set(lengths)) == 1:
            return _Layout([(len(lengths), lengths[0])], None, None)
        alike = defaultdict(list)
        for number, length in enumerate(lengths):
            alike[_size(length)].append(number)
        known, sources, real = torch.tensor(lengths), [], []
        first = known.cumsum(0) - known
        for size, numbers in alike.items():
            offset, own = torch.arange(size), known[numbers][:, None]
            real.append((offset < own).flatten())
            sources.append((first[numbers][:, None] + torch.minimum(offset, own - 1)).flatten())
        source, places = torch.cat(sources), torch.cat(real).nonzero()[:, 0]
        place = torch.empty_like(places).index_copy_(0, source[places], places)
        groups = [(count, size) for size, numbers in alike.items() for count in _batches(len(numbers))]
        return _Layout(groups, source, place)

    def arrange(self, x: Float[Tensor, "N X K"]) -> Float[Tensor, "X M K"]:
        """Tokens in the order of computation, by head."""
        return (x if self.source is None else x.index_select(0, self.source)).transpose(0, 1).contiguous()

    def restore(self, x: Float[Tensor, "X M K"]) -> Float[Tensor, "N X K"]:
        """Tokens in their own order; those that were added are left out."""
        return x.transpose(0, 1) if self.place is None else x.transpose(0, 1).index_select(0, self.place)

    def blocks(self, *parts: Float[Tensor, "G M ..."]) -> Iterator[tuple[list[Float[Tensor, "G n L ..."]], slice]]:
        """Views of each group's part, and each block of its queries."""
        start = 0
        for shape in self.groups:
            end = start + math.prod(shape)
            views = [part[:, start:end].unflatten(1, shape) for part in parts]
            yield from ((views, slice(at, min(at + _BLOCK, shape[1]))) for at in range(0, shape[1], _BLOCK))
            start = end


def _size(length: int) -> int:
    """The next larger size: 1, 8, 16, a multiple of 32 tokens, or above 256 one of 64."""
    step = 32 if length <= 256 else 64
    return next((size for size in (1, 8, 16) if length <= size), -(-length // step) * step)


def _batches(documents: int) -> Iterator[int]:
    """Powers of two, the largest first, whose sum is a number of documents."""
    while documents:
        yield (largest := 1 << documents.bit_length() - 1)
        documents -= largest


class _Attention(torch.autograd.Function):
    """`attend_short`. H query heads lie with their G key heads as (G, M, H/G, K)."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, layout: _Layout, scale: float) -> Tensor:
        shared = q.shape[1] // k.shape[1]
        q = layout.arrange((q * scale).unflatten(1, (-1, shared)).flatten(2)).unflatten(2, (shared, -1))
        k, v = layout.arrange(k), layout.arrange(v)
        out, weights = q.new_empty(*q.shape[:3], v.shape[-1]), []
        later = q.new_full((_BLOCK, _BLOCK), -math.inf).triu(1)
        with exact(q):
            for (queries, keys, values, outs), block in layout.blocks(q, k, v, out):
                seen = slice(block.stop)
                weights.append(torch.softmax(_scores(queries[:, :, block], keys[:, :, seen], later), -1))
                outs[:, :, block] = (weights[-1] @ values[:, :, seen]).unflatten(2, (-1, shared))
        ctx.save_for_backward(q, k, v, *weights)
        ctx.layout, ctx.scale = layout, scale
        return layout.restore(out.flatten(2)).unflatten(2, (shared, -1)).flatten(1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, *weights = ctx.saved_tensors
        layout, (groups, tokens, shared, width) = ctx.layout, q.shape
        grad = grad.unflatten(1, (groups, shared)).flatten(2)
        if layout.place is not None:
            grad = grad.new_zeros(tokens, *grad.shape[1:]).index_copy_(0, layout.place, grad)
        grad = grad.transpose(0, 1).contiguous().unflatten(2, (shared, -1))
        of_q, of_k, of_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        with exact(q):
            parts = layout.blocks(q, k, v, grad, of_q, of_k, of_v)
            for ((queries, keys, values, grads, dq, dk, dv), block), weight in zip(parts, weights, strict=True):
                seen = slice(block.stop)
                part = grads[:, :, block].flatten(2, 3)
                dv[:, :, seen] += weight.mT @ part
                # P ∘ (dP - Σ dP ∘ P), the gradient of softmax
                scores = torch._softmax_backward_data(part @ values[:, :, seen].mT, weight, -1, weight.dtype)
                dq[:, :, block] = (scores @ keys[:, :, seen]).unflatten(2, (-1, shared))
                dk[:, :, seen] += scores.mT @ queries[:, :, block].flatten(2, 3)
        of_q = layout.restore(of_q.mul_(ctx.scale).flatten(2)).unflatten(2, (shared, width)).flatten(1, 2)
        return of_q, layout.restore(of_k), layout.restore(of_v), None, None


def _scores(
    q: Float[Tensor, "G n b R K"], k: Float[Tensor, "G n S K"], later: Float[Tensor, "B B"]
) -> Float[Tensor, "G n bR S"]:
    """Scores of the last b of S tokens on all S; those of later tokens are -inf."""
    scores, queries = q.flatten(2, 3) @ k.mT, q.shape[2]
    own = scores.unflatten(2, (queries, -1))[..., k.shape[2] - queries :]
    own += later[:queries, None, :queries]
    return scores
