"""Linear attention: softmax's exp(q · k) replaced by φ(q) · φ(k), so that the past is one sum.

S_t = S_{t-1} + φ(k_t) v_tᵀ, z_t = z_{t-1} + φ(k_t), y_t = S_tᵀ φ(q_t) / (φ(q_t) · z_t) (Katharopoulos et al., arXiv
2006.16236, eq. 9-12). Feature maps φ: 1 + elu (the same paper), the second-order Taylor expansion of exp (Arora et al., arXiv
2402.18668, sec. 4.1), and the identity, which is not divided by z, since that may be 0 or less. z is one more value, always 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from limbeck.models.mixers.decay import decaying_sums, sums_flops
from limbeck.models.mixers.documents import Documents
from limbeck.models.mixers.mixer import Dims, Mixer, State, heads, joined, linear, mixer
from limbeck.models.mixers.precision import wide

_LEAST = 1e-12  # of the divisor; for both maps that are divided it is 1/2 or far above


def taylor(x: Float[Tensor, "*shape K"]) -> Float[Tensor, "*shape F"]:
    """[1, x / K^(1/4), vec(x xᵀ) / sqrt(2 K)]: φ(q) · φ(k) = 1 + s + s² / 2 with s = q · k / sqrt(K), which is 1/2 at least."""
    width = x.shape[-1]
    squares = (x[..., :, None] * x[..., None, :]).flatten(-2) * (2 * width) ** -0.5
    return torch.cat([torch.ones_like(x[..., :1]), x * width**-0.25, squares], -1)


def elu(x: Float[Tensor, "*shape K"]) -> Float[Tensor, "*shape K"]:
    """1 + elu(x) > 0."""
    return 1 + F.elu(x)


def identity(x: Float[Tensor, "*shape K"]) -> Float[Tensor, "*shape K"]:
    """x / K^(1/4), so that the product is that of attention."""
    return x * x.shape[-1] ** -0.25


MAPS: Mapping[str, Callable[[Tensor], Tensor]] = {"taylor": taylor, "elu": elu, "identity": identity}


@mixer("linear")
class LinearAttention(Mixer):
    """H heads, with queries and keys of ``features`` channels before the map."""

    OPTIONS: ClassVar = {"map": ("elu", "taylor", "identity"), "features": 16}

    def __init__(self, dims: Dims, *, map: str, features: int) -> None:
        super().__init__(dims)
        self.map, self.features = map, features
        inner = dims.heads * dims.head_dim
        self.q_proj = linear(dims.width, dims.heads * features)
        self.k_proj = linear(dims.width, dims.heads * features)
        self.v_proj, self.o_proj = linear(dims.width, inner), linear(inner, dims.width)

    def mix(
        self, x: Float[Tensor, "B T D"], documents: Documents, state: State | None, size: int
    ) -> tuple[Float[Tensor, "B T D"], State | None]:
        q, k = (MAPS[self.map](wide(heads(project(x), self.dims.heads))) for project in (self.q_proj, self.k_proj))
        v = wide(heads(self.v_proj(x), self.dims.heads))
        if self._divided:
            v = torch.cat([v, torch.ones_like(v[..., :1])], -1)
        before = None if state is None else state["sums"]
        y, after = decaying_sums(q, k, v, None, documents=documents, before=before, size=size)
        if self._divided:
            y = y[..., :-1] / y[..., -1:].clamp_min(_LEAST)
        return self.o_proj(joined(y).to(x.dtype)), None if state is None else {"sums": after}

    def fresh(self, x: Float[Tensor, "B T D"]) -> State:
        return {
            "sums": wide(x).new_zeros(x.shape[0], self.dims.heads, self._mapped, self.dims.head_dim + self._divided)
        }

    def mixing_flops(self, length: int) -> float:
        """Those of sums over mapped keys."""
        values, count = self.dims.head_dim + self._divided, self.dims.heads
        return sums_flops(min(self.chunk, length), keys=self._mapped, values=values, heads=count, asking=count)

    def pairs(self, length: int) -> int:
        """Channels of a mapped key, of the Taylor map those that differ: x_i x_j is there twice."""
        found = self._mapped - (self.features * (self.features - 1) // 2 if self.map == "taylor" else 0)
        return min(length, found)

    @property
    def _mapped(self) -> int:
        return {"taylor": 1 + self.features + self.features**2}.get(self.map, self.features)

    @property
    def _divided(self) -> bool:
        return self.map != "identity"


@mixer("based")
class Based(LinearAttention):
    """Linear attention with the Taylor map, which Based puts beside short convolutions and windows (arXiv 2402.18668, sec. 4)."""

    OPTIONS: ClassVar = {"features": 16, "map": ("taylor",)}
