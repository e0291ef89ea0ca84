"""GPU kernels of flash-linear-attention (https://github.com/fla-org/flash-linear-attention), used where it is installed.

Each recurrence has one function, with the arguments and results of the PyTorch form that calls it. All rows are passed to the
kernel as one row with the offsets of its documents, so the kernel itself keeps packed documents apart.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.util import find_spec

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.models.mixers.documents import Documents


@cache
def installed() -> bool:
    """Whether flash-linear-attention (the package fla) is installed."""
    return find_spec("fla") is not None


def have_kernels(x: Float[Tensor, "*shape"]) -> bool:
    """Whether the kernels apply to queries ``x``: on CUDA, in bfloat16 or float16. The kernels would round wider numbers."""
    return x.is_cuda and x.dtype in (torch.bfloat16, torch.float16) and installed()


def decaying_sums_on_gpu(
    q: Float[Tensor, "B h T K"],
    k: Float[Tensor, "B h T K"],
    v: Float[Tensor, "B H T V"],
    log_decay: Float[Tensor, "B H T"] | None,
    *,
    documents: Documents,
    before: Float[Tensor, "B H K V"] | None,
) -> tuple[Float[Tensor, "B H T V"], Float[Tensor, "B H K V"]]:
    """`decay.decaying_sums` on the GPU: linear attention with at most one decay a head, by the kernel simple_gla."""
    q, k = (part.expand(-1, v.shape[1], -1, -1) for part in (q, k))
    gate = v.new_zeros(v.shape[:3], dtype=torch.float32) if log_decay is None else log_decay
    return _in_one_row("simple_gla", {"q": q, "k": k, "v": v, "g": gate}, documents, before)


def channelwise_sums_on_gpu(
    q: Float[Tensor, "B H T K"],
    k: Float[Tensor, "B H T K"],
    v: Float[Tensor, "B H T V"],
    log_decay: Float[Tensor, "B H T K"],
    *,
    documents: Documents,
    before: Float[Tensor, "B H K V"] | None,
) -> tuple[Float[Tensor, "B H T V"], Float[Tensor, "B H K V"]]:
    """`gla.channelwise_sums` on the GPU: linear attention with one decay a channel of a key, by the kernel gla."""
    return _in_one_row("gla", {"q": q, "k": k, "v": v, "g": log_decay}, documents, before)


def delta_rule_on_gpu(
    q: Float[Tensor, "B H T K"],
    k: Float[Tensor, "B H T K"],
    v: Float[Tensor, "B H T V"],
    strength: Float[Tensor, "B H T"],
    log_decay: Float[Tensor, "B H T"] | None,
    *,
    documents: Documents,
    before: Float[Tensor, "B H K V"] | None,
) -> tuple[Float[Tensor, "B H T V"], Float[Tensor, "B H K V"]]:
    """`delta.delta_rule` on the GPU: the delta rule with at most one decay a head, by the kernel gated_delta_rule."""
    gate = v.new_zeros(v.shape[:3], dtype=torch.float32) if log_decay is None else log_decay
    return _in_one_row("gated_delta_rule", {"q": q, "k": k, "v": v, "g": gate, "beta": strength}, documents, before)


def _in_one_row(
    kernel: str, inputs: dict[str, Tensor], documents: Documents, before: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Calls a kernel on (1, B T, H, ...) and the offsets of documents. The first document of a row continues its state."""
    rows, _, length, channels = inputs["v"].shape
    start = documents.reach == 0
    start[:, 0] = True
    places = start.flatten().nonzero().flatten()
    offsets = torch.cat([places, places.new_tensor([rows * length])])
    first = start.flatten().cumsum(0).view_as(start)[:, 0] - 1  # the number of each row's first document
    last = torch.cat([first[1:], first.new_tensor([len(places)])]) - 1
    states = inputs["v"].new_zeros(
        len(places), inputs["v"].shape[1], inputs["k"].shape[-1], channels, dtype=torch.float32
    )
    if before is not None:
        going_on = (documents.reach[:, 0] > 0)[:, None, None, None]
        states = states.index_put((first,), before.float() * going_on)
    kind = inputs["q"].dtype
    flat = {
        name: (part if name == "g" else part.to(kind)).transpose(1, 2).flatten(0, 1)[None].contiguous()
        for name, part in inputs.items()
    }
    call = getattr(import_module(f"fla.ops.{kernel}"), f"chunk_{kernel}")
    out, after = call(**flat, scale=1.0, initial_state=states, output_final_state=True, cu_seqlens=offsets)
    return out[0].unflatten(0, (rows, length)).transpose(1, 2), after[last]
