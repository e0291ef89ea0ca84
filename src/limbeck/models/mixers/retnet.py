"""Retention: linear attention in which each head has its own fixed decay.

S_t = γ S_{t-1} + k_t v_tᵀ, o_t = S_tᵀ q_t, with rotary queries and keys and γ_h = 1 - 2^(-5-h). The output of each head is
normalised, gated by swish(x W_g) and projected (Sun et al., arXiv 2307.08621, eq. 5-8). Values are twice as wide as keys.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.models.mixers.decay import decaying_sums, sums_flops
from limbeck.models.mixers.documents import Documents
from limbeck.models.mixers.mixer import Dims, Mixer, State, heads, joined, linear, mixer
from limbeck.models.mixers.precision import wide
from limbeck.models.mixers.rotary import rotate


@mixer("retnet")
class Retention(Mixer):
    """Retention with H heads (arXiv 2307.08621). Each head has its own decay; values are ``expand`` times as wide as keys."""

    OPTIONS: ClassVar = {"expand": 2}

    def __init__(self, dims: Dims, *, expand: int) -> None:
        super().__init__(dims)
        self.expand = expand
        inner = dims.heads * dims.head_dim
        self.q_proj, self.k_proj = linear(dims.width, inner), linear(dims.width, inner)
        self.v_proj, self.g_proj = linear(dims.width, expand * inner), linear(dims.width, expand * inner)
        self.norm = nn.LayerNorm(expand * inner, eps=dims.eps)  # weight and bias; each head has its own mean
        self.o_proj = linear(expand * inner, dims.width)

    def mix(
        self, x: Float[Tensor, "B T D"], documents: Documents, state: State | None, size: int
    ) -> tuple[Float[Tensor, "B T D"], State | None]:
        q, k, v = (heads(project(x), self.dims.heads) for project in (self.q_proj, self.k_proj, self.v_proj))
        q, k = (rotate(part, documents.position, self.dims.rope_theta) for part in (q, k))
        head = torch.arange(self.dims.heads, device=x.device, dtype=wide(v).dtype)
        log_decay = torch.log1p(-(2.0 ** (-5 - head)))[:, None].expand(v.shape[:3])
        before = None if state is None else state["sums"]
        y, after = decaying_sums(
            q, k * self.dims.head_dim**-0.5, v, log_decay, documents=documents, before=before, size=size
        )
        y = F.layer_norm(wide(y), y.shape[-1:], eps=self.dims.eps)
        y = (joined(y) * self.norm.weight + self.norm.bias).to(x.dtype)
        return self.o_proj(F.silu(self.g_proj(x)) * y), None if state is None else {"sums": after}

    def fresh(self, x: Float[Tensor, "B T D"]) -> State:
        width = self.dims.head_dim
        return {"sums": wide(x).new_zeros(x.shape[0], self.dims.heads, width, self.expand * width)}

    def mixing_flops(self, length: int) -> float:
        """FLOPs a token of sums with one decay a head."""
        width, count = self.dims.head_dim, self.dims.heads
        return sums_flops(min(self.chunk, length), keys=width, values=self.expand * width, heads=count, asking=count)

    def pairs(self, length: int) -> int:
        """The number of channels of a key, or ``length`` if that is smaller."""
        return min(length, self.dims.head_dim)
