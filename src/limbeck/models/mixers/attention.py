"""Softmax attention, over the whole document or over a window of it.

softmax(Q Kᵀ / sqrt(K) + mask) V (Vaswani et al., arXiv 1706.03762, eq. 1), with rotary positions and groups of queries that
share a key (Ainslie et al., arXiv 2305.13245). A window of w tokens sees i - j < w (Beltagy et al., arXiv 2004.05150, sec. 3.1).
The state holds the keys and values that later tokens may attend to. It grows with the text, or up to the window.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from limbeck.models.inside import attend_inside
from limbeck.models.mixers.documents import Documents
from limbeck.models.mixers.mixer import Dims, Mixer, State, heads, joined, linear, mixer
from limbeck.models.mixers.rotary import rotate


@mixer("attention")
class Attention(Mixer):
    """Causal softmax attention over all earlier tokens of the same document. ``rope`` turns rotary positions on."""

    OPTIONS: ClassVar = {"rope": True}
    window: int | None = None

    def __init__(self, dims: Dims, *, rope: bool) -> None:
        super().__init__(dims)
        self.rope = rope
        inner, shared = dims.heads * dims.head_dim, dims.kv_heads * dims.head_dim
        self.q_proj, self.o_proj = linear(dims.width, inner), linear(inner, dims.width)
        self.k_proj, self.v_proj = linear(dims.width, shared), linear(dims.width, shared)

    def mix(
        self, x: Float[Tensor, "B T D"], documents: Documents, state: State | None, size: int
    ) -> tuple[Float[Tensor, "B T D"], State | None]:
        q, k, v = self._project(x, documents)
        if state is None:
            return self.o_proj(joined(self._attend(q, k, v, documents))), None
        k, v = torch.cat([state["keys"], k], 2), torch.cat([state["values"], v], 2)
        y = self.o_proj(joined(self._attend(q, k, v, documents)))
        return y, {"keys": self._remembered(k), "values": self._remembered(v)}

    def fresh(self, x: Float[Tensor, "B T D"]) -> State:
        nothing = x.new_zeros(x.shape[0], self.dims.kv_heads, 0, self.dims.head_dim)
        return {"keys": nothing, "values": nothing}

    def state_bytes(self, length: int) -> int:
        """Bytes of keys and values: 2 x kv_heads x head_dim numbers for each token in the state."""
        return 2 * self.pairs(length) * self.dims.kv_heads * self.dims.head_dim * self.k_proj.weight.element_size()

    def mixing_flops(self, length: int) -> float:
        """FLOPs a token for scores and the weighted sum of values: 4 K for each attended token and each head."""
        reach = length if self.window is None else min(length, self.window)
        seen = reach - reach * (reach - 1) / (2 * length)
        return 4.0 * seen * self.dims.heads * self.dims.head_dim

    def pairs(self, length: int) -> int:
        """The number of earlier tokens that a later token may attend to."""
        return length if self.window is None else min(length, self.window - 1)

    def _project(self, x: Tensor, documents: Documents) -> tuple[Tensor, Tensor, Tensor]:
        q = heads(self.q_proj(x), self.dims.heads)
        k, v = (heads(project(x), self.dims.kv_heads) for project in (self.k_proj, self.v_proj))
        if self.rope:
            q, k = (rotate(part, documents.position, self.dims.rope_theta) for part in (q, k))
        return q, k, v

    def _attend(
        self,
        q: Float[Tensor, "B H T K"],
        k: Float[Tensor, "B G S K"],
        v: Float[Tensor, "B G S K"],
        documents: Documents,
    ) -> Float[Tensor, "B H T K"]:
        """Attention outputs of the last T of S tokens."""
        if q.shape[2] == k.shape[2] and (self.window is None or self.window >= q.shape[2]):
            if documents.whole:
                return attend(q, k, v, None)
            return attend_inside(q, k, v, documents.lengths).transpose(1, 2)
        return attend(q, k, v, seen(documents, k.shape[2], self.window)[:, None])

    def _remembered(self, x: Float[Tensor, "B G S K"]) -> Float[Tensor, "B G S K"]:
        return x if self.window is None else x[:, :, max(0, x.shape[2] - self.window + 1) :]


@mixer("swa")
class SlidingWindow(Attention):
    """Causal softmax attention over the last ``window`` tokens, including the token itself.

    Each block of ``window`` tokens attends to itself and to the block before it, so time is linear in the length T.
    """

    OPTIONS: ClassVar = {"window": 64, "rope": True}

    def __init__(self, dims: Dims, *, window: int, rope: bool) -> None:
        super().__init__(dims, rope=rope)
        self.window: int = window

    def _attend(
        self,
        q: Float[Tensor, "B H T K"],
        k: Float[Tensor, "B G S K"],
        v: Float[Tensor, "B G S K"],
        documents: Documents,
    ) -> Float[Tensor, "B H T K"]:
        if q.shape[2] <= 2 * self.window or q.shape[2] < k.shape[2]:  # short, or a continuation: one mask is enough
            return super()._attend(q, k, v, documents)
        return self._blocks(q, k, v, documents)

    def _blocks(self, q: Tensor, k: Tensor, v: Tensor, documents: Documents) -> Tensor:
        rows, length, window = q.shape[0], q.shape[2], self.window
        missing = -length % window
        reach = F.pad(documents.reach, (0, missing)).unflatten(1, (-1, window))  # (B, n, w)
        q = F.pad(q, (0, 0, 0, missing)).unflatten(2, (-1, window)).transpose(1, 2).flatten(0, 1)  # (B n, H, w, K)
        k, v = (_with_previous(F.pad(part, (0, 0, 0, missing)), window) for part in (k, v))  # (B n, G, 2 w, K)
        place = torch.arange(window, device=q.device)
        back = place[:, None] - torch.arange(-window, window, device=q.device)
        mask = (back >= 0) & (back < window) & (back <= reach[..., None])  # (B, n, w, 2 w)
        mask[:, 0, :, :window] = False  # the first block has no block before it
        out = attend(q, k, v, mask.flatten(0, 1)[:, None])
        return out.unflatten(0, (rows, -1)).transpose(1, 2).flatten(2, 3)[:, :, :length]


def attend(
    q: Float[Tensor, "B H T K"],
    k: Float[Tensor, "B G S K"],
    v: Float[Tensor, "B G S V"],
    mask: Bool[Tensor, "B 1 T S"] | None,
) -> Float[Tensor, "B H T V"]:
    """PyTorch's fused attention of H query heads on G key heads, where G divides H. Without a mask it is causal."""
    if q.shape[1] > k.shape[1]:  # repeating once would copy as well
        k, v = (part.repeat_interleave(q.shape[1] // part.shape[1], 1) for part in (k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)


def seen(documents: Documents, keys: int, window: int | None) -> Bool[Tensor, "B T S"]:
    """The attention mask of T tokens over the last ``keys`` (S) tokens: causal, within the document and the window."""
    length = documents.reach.shape[1]
    device = documents.reach.device
    back = torch.arange(keys - length, keys, device=device)[:, None] - torch.arange(keys, device=device)
    near = (back >= 0) if window is None else (back >= 0) & (back < window)
    return near & (back <= documents.reach[..., None])


def _with_previous(x: Float[Tensor, "B G T K"], window: int) -> Float[Tensor, "Bn G S K"]:
    """Blocks of ``window`` tokens, each preceded by the block before it (zeros before the first)."""
    blocks = x.unflatten(2, (-1, window))
    before = torch.cat([torch.zeros_like(blocks[:, :, :1]), blocks[:, :, :-1]], 2)
    return torch.cat([before, blocks], 3).transpose(1, 2).flatten(0, 1)
