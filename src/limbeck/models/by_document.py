"""Attention inside documents by a GPU's kernels: no pair of tokens of two documents is computed, and no dense mask is kept.

Three ways, the first that fits:
- PyTorch's flash attention of sequences of many lengths (`torch.nn.attention.varlen`), in half precision, without sinks;
- flex attention under a mask of blocks (Dong et al., arXiv 2412.05496), compiled, in any format and with sinks;
- plain attention under a dense mask, where weights are dropped at random or nothing compiles.

A window of W lets a token attend to the last W tokens, itself among them. A sink is one more score of each head in the softmax,
whose share is dropped (gpt-oss; Xiao et al., arXiv 2309.17453): flex attention gets it as one more key with a value of 0.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from torch.utils._triton import has_triton

from limbeck.host import queues, sent

_LEAST_FLEX = 16  # channels of a head
# Programs that PyTorch keeps of compiled attention: shapes until they are taken as variable, windows, sinks, heads, gradients,
# TF32. Beyond its own limit of 8 it falls back, without an error, to attention that keeps all scores.
_PROGRAMS = 64


@dataclass(frozen=True, eq=False)
class Layout:
    """Documents of these ``lengths`` in rows of T tokens, row after row, as kernels take them, on their device.

    ``ends``: where each ends in all rows, after a 0. ``number``: the document of each token. ``longest``: tokens.
    """

    lengths: tuple[int, ...]
    ends: Int[Tensor, " n+1"]
    number: Int[Tensor, "B T"]
    longest: int

    @staticmethod
    @lru_cache(maxsize=8)  # all layers, forward and backward, of a few micro-batches
    def of(lengths: tuple[int, ...], rows: int, device: torch.device) -> Layout:
        """The layout of documents that fill so many rows."""
        with torch.inference_mode(False):  # kept for trainings too
            return Layout._of(lengths, rows, device)

    @staticmethod
    def _of(lengths: tuple[int, ...], rows: int, device: torch.device) -> Layout:
        ends = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
        number = torch.arange(len(lengths), dtype=torch.int32).repeat_interleave(torch.tensor(lengths)).view(rows, -1)
        return Layout(lengths, sent(ends, device), sent(number, device), max(lengths))

    def mask(self, window: int | None = None) -> Bool[Tensor, "B 1 T T"]:
        """Which tokens (last axis) each token attends to."""
        place = torch.arange(self.number.shape[1], device=self.number.device)
        back = place[:, None] - place
        seen = back >= 0 if window is None else (back >= 0) & (back < window)
        return (seen & (self.number[:, :, None] == self.number[:, None, :]))[:, None]


def attend_by_document(
    q: Float[Tensor, "B H T K"],
    k: Float[Tensor, "B G T K"],
    v: Float[Tensor, "B G T V"],
    layout: Layout,
    *,
    scale: float,
    dropout: float = 0.0,
    window: int | None = None,
    sinks: Float[Tensor, " H"] | None = None,
) -> Float[Tensor, "B T H V"]:
    """Causal attention of H query heads on G key heads, where G divides H, inside documents.

    ``scale`` multiplies the scores; ``dropout`` is the probability that a weight is dropped.
    """
    window = None if window is None or window >= layout.longest else window
    if not dropout and sinks is None and (flash := _flash()) and _flashes(q, v):
        return attend_flash(flash, q, k, v, layout, scale=scale, window=window)
    if not dropout and q.is_cuda and has_triton() and min(q.shape[-1], v.shape[-1]) >= _LEAST_FLEX:
        return attend_compiled(_compiled(), q, k, v, layout, scale=scale, window=window, sinks=sinks)
    return attend_masked(q, k, v, layout.mask(window), scale=scale, dropout=dropout, sinks=sinks)


@cache
def _flash() -> Callable[..., Tensor] | None:
    """PyTorch's flash attention of sequences of many lengths, None in versions whose own has no window."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    there = inspect.signature(varlen_attn).parameters
    return varlen_attn if {"scale", "window_size"} <= there.keys() else None  # type: ignore[return-value]


def _flashes(q: Tensor, v: Tensor) -> bool:
    """Whether flash attention takes these heads, on this device."""
    width = q.shape[-1]
    fits = q.dtype in (torch.bfloat16, torch.float16) and width == v.shape[-1] and width % 8 == 0 and width <= 256
    return fits and q.is_cuda and torch.cuda.get_device_capability(q.device) >= (8, 0)


def attend_flash(
    flash: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, layout: Layout, *, scale: float, window: int | None
) -> Tensor:
    """`attend_by_document` by a function with the signature of `torch.nn.attention.varlen.varlen_attn`."""
    options: dict[str, Any] = {"scale": scale, "window_size": (-1 if window is None else window - 1, 0)}
    if "enable_gqa" in inspect.signature(flash).parameters:
        options["enable_gqa"] = q.shape[1] > k.shape[1]
    else:
        k, v = _repeated(q, k, v)
    tokens = [part.transpose(1, 2).flatten(0, 1) for part in (q, k, v)]
    out = flash(*tokens, layout.ends, layout.ends, layout.longest, layout.longest, **options)
    return out.unflatten(0, (len(q), -1))


@cache
def _compiled() -> Callable[..., Tensor]:
    return torch.compile(flex_attention, fullgraph=True)  # where the limit of its programs is an error


def attend_compiled(
    flex: Callable[..., Tensor],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: Layout,
    *,
    scale: float,
    window: int | None,
    sinks: Tensor | None,
) -> Tensor:
    """`attend_flex`, or attention under a dense mask where there would be more than `_PROGRAMS` programs of a whole graph."""
    from torch._dynamo import config  # takes seconds to load
    from torch._dynamo.exc import FailOnRecompileLimitHit

    try:
        with config.patch(recompile_limit=_PROGRAMS):
            return attend_flex(flex, q, k, v, layout, scale=scale, window=window, sinks=sinks)
    except FailOnRecompileLimitHit:
        return attend_masked(q, k, v, layout.mask(window), scale=scale, sinks=sinks)


def attend_flex(
    flex: Callable[..., Tensor],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: Layout,
    *,
    scale: float,
    window: int | None,
    sinks: Tensor | None,
) -> Tensor:
    """`attend_by_document` by flex attention, compiled or not."""
    length, score = q.shape[2], None
    if sinks is not None:
        k, v = (F.pad(part, (0, 0, 0, 1)) for part in (k, v))

        def score(score: Tensor, row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return torch.where(key == length, sinks[head].to(score.dtype), score)

    blocks = _blocks(layout, window, sinks is not None)
    gqa = q.shape[1] > k.shape[1]
    return flex(q, k, v, score_mod=score, block_mask=blocks, scale=scale, enable_gqa=gqa).transpose(1, 2)


@lru_cache(maxsize=16)
def _blocks(layout: Layout, window: int | None, sink: bool) -> BlockMask:
    """The blocks of queries and keys that meet, and inside them the tokens; ``sink``: all meet one more key at the end."""
    rows, length = layout.number.shape
    number = F.pad(layout.number, (0, 1), value=-1)

    def meets(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        seen = (key <= query) & (number[row, key] == number[row, query])
        if window is not None:
            seen = seen & (query - key < window)
        return seen | (key == length) if sink else seen

    device = layout.number.device
    with torch.inference_mode(False):  # kept for trainings too
        return create_block_mask(meets, rows, None, length, length + sink, device=device, _compile=queues(device))


def attend_masked(
    q: Float[Tensor, "B H T K"],
    k: Float[Tensor, "B G S K"],
    v: Float[Tensor, "B G S V"],
    mask: Bool[Tensor, "*B 1 T S"],
    *,
    scale: float,
    dropout: float = 0.0,
    sinks: Float[Tensor, " H"] | None = None,
) -> Float[Tensor, "B T H V"]:
    """Attention under a dense mask, with sinks if there are any; every query attends to a key."""
    k, v = _repeated(q, k, v)
    if sinks is None:
        found = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, scale=scale)
        return found.transpose(1, 2)
    scores = ((q * scale) @ k.mT).float().masked_fill(~mask, -torch.inf)
    sink = sinks.to(scores)[:, None, None].expand(*scores.shape[:-1], 1)
    weights = torch.cat([scores, sink], -1).softmax(-1)[..., :-1]
    return (F.dropout(weights, dropout).to(v.dtype) @ v).transpose(1, 2)


def _repeated(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values once for each query head."""
    times = q.shape[1] // k.shape[1]
    return (k, v) if times == 1 else (k.repeat_interleave(times, 1), v.repeat_interleave(times, 1))
