"""Gated linear attention: every channel of a key decays at a rate that depends on the token.

S_t = diag(α_t) S_{t-1} + k_t v_tᵀ, o_t = S_tᵀ q_t, α = σ(W2 W1 x + b)^(1/16) through 16 channels, and keys are half as wide as
values. The output of each head is normalised, gated by swish(x W_g) and projected (Yang et al., arXiv 2312.06635, sec. 4).
Within a chunk, the decay exp(c_i - c_j) is computed for every pair of tokens and every channel. The product of exp(c_i) and
exp(-c_j) would overflow. Chunks therefore have at most 16 tokens.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.errors import BadModel
from limbeck.models.mixers.decay import carried, sums_flops
from limbeck.models.mixers.documents import Documents, cut
from limbeck.models.mixers.kernels import channelwise_sums_on_gpu, have_kernels
from limbeck.models.mixers.mixer import Dims, Mixer, State, heads, joined, linear, mixer
from limbeck.models.mixers.norm import RMSNorm
from limbeck.models.mixers.precision import exact, wide

_CHUNK, _TEMPERATURE, _RANK = 16, 16, 16


@mixer("gla")
class GatedLinearAttention(Mixer):
    """Gated linear attention with H heads. Keys have half as many channels as values.

    Raises BadModel for a head_dim of 1.
    """

    def __init__(self, dims: Dims) -> None:
        super().__init__(dims)
        self.chunk = min(dims.chunk, _CHUNK)
        self.key, self.value = dims.head_dim // 2, dims.head_dim
        if self.key == 0:
            raise BadModel("gla: its keys are half a head wide, so a head needs 2 channels at least; got head_dim 1")
        keys, values = dims.heads * self.key, dims.heads * self.value
        self.q_proj, self.k_proj = linear(dims.width, keys), linear(dims.width, keys)
        self.v_proj, self.g_proj = linear(dims.width, values), linear(dims.width, values)
        self.decay_in, self.decay_out = linear(dims.width, _RANK), nn.Linear(_RANK, keys)
        self.norm = RMSNorm(self.value, dims.eps)
        self.o_proj = linear(values, dims.width)

    def mix(
        self, x: Float[Tensor, "B T D"], documents: Documents, state: State | None, size: int
    ) -> tuple[Float[Tensor, "B T D"], State | None]:
        q, k, v = (heads(project(x), self.dims.heads) for project in (self.q_proj, self.k_proj, self.v_proj))
        log_decay = F.logsigmoid(wide(self.decay_out(self.decay_in(x)))) / _TEMPERATURE
        before = None if state is None else state["sums"]
        y, after = channelwise_sums(
            q * self.key**-0.5,
            k,
            v,
            heads(log_decay, self.dims.heads),
            documents=documents,
            before=before,
            size=size,
        )
        y = joined(self.norm(y)).to(x.dtype)
        return self.o_proj(y * F.silu(self.g_proj(x))), None if state is None else {"sums": after}

    def fresh(self, x: Float[Tensor, "B T D"]) -> State:
        return {"sums": wide(x).new_zeros(x.shape[0], self.dims.heads, self.key, self.value)}

    def mixing_flops(self, length: int) -> float:
        """FLOPs a token of sums with one decay a head, plus one product for the decay of each channel of a score."""
        size, count = min(self.chunk, length), self.dims.heads
        sums = sums_flops(size, keys=self.key, values=self.value, heads=count, asking=count)
        return sums + size * self.key * count

    def pairs(self, length: int) -> int:
        """The number of channels of a key, or ``length`` if that is smaller."""
        return min(length, self.key)


def channelwise_sums(
    q: Float[Tensor, "B H T K"],
    k: Float[Tensor, "B H T K"],
    v: Float[Tensor, "B H T V"],
    log_decay: Float[Tensor, "B H T K"],
    *,
    documents: Documents,
    before: Float[Tensor, "B H K V"] | None,
    size: int,
) -> tuple[Float[Tensor, "B H T V"], Float[Tensor, "B H K V"]]:
    """The outputs o, and the state S after the last token, computed ``size`` tokens at a time."""
    if size > 1 and have_kernels(q):
        return channelwise_sums_on_gpu(q, k, v, log_decay, documents=documents, before=before)
    with exact(v):
        return _in_chunks(wide(q), wide(k), wide(v), log_decay, documents, before, size)


def _in_chunks(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, documents: Documents, before: Tensor | None, size: int
) -> tuple[Tensor, Tensor]:
    length, seen = v.shape[2], documents.chunks(size)
    q, k, v = cut(q, size), cut(k, size), cut(v, size)
    c = cut(log_decay, size).cumsum(-2)  # (B, H, n, c, K)
    between = c[..., :, None, :] - c[..., None, :, :]
    weights = between.masked_fill(~seen.visible[:, None, ..., None], -torch.inf).exp()  # (B, H, n, c, c, K)
    scores = torch.einsum("bhnik,bhnjk,bhnijk->bhnij", q, k, weights)
    enters, leaves = (part[:, None, ..., None].to(v.dtype) for part in (seen.before, seen.last))
    through = (c[..., -1, :].exp() * seen.through[:, None, :, None])[..., None]  # (B, H, n, K, 1)
    added = (k * (c[..., -1:, :] - c).exp() * leaves).mT @ v
    held, after = carried(added, through, before)
    out = scores @ v + (q * c.exp() * enters) @ held
    return out.flatten(2, 3)[:, :, :length], after
