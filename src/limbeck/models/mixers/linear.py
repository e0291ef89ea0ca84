"""Linear attention: φ(q) · φ(k) replaces exp(q · k) of softmax attention, so that the past is one sum.

S_t = S_{t-1} + φ(k_t) v_tᵀ, z_t = z_{t-1} + φ(k_t), y_t = S_tᵀ φ(q_t) / (φ(q_t) · z_t) (Katharopoulos et al., arXiv
2006.16236, eq. 9-12). The feature map φ is 1 + elu (same paper), the second-order Taylor expansion of exp (Arora et al., arXiv
2402.18668, sec. 4.1), or the identity. Outputs of the identity are not divided by φ(q) · z, which may be 0 or negative.
z is computed as one more channel of the values that is always 1.
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

_LEAST = 1e-12  # smallest divisor


def taylor(x: Float[Tensor, "*shape K"]) -> Float[Tensor, "*shape F"]:
    """The Taylor feature map [1, x / K^(1/4), vec(x xᵀ) / sqrt(2 K)], with F = 1 + K + K² features.

    φ(q) · φ(k) = 1 + s + s² / 2 with s = q · k / sqrt(K), which is at least 1/2 (Arora et al., arXiv 2402.18668, sec. 4.1).
    """
    width = x.shape[-1]
    squares = (x[..., :, None] * x[..., None, :]).flatten(-2) * (2 * width) ** -0.5
    return torch.cat([torch.ones_like(x[..., :1]), x * width**-0.25, squares], -1)


def elu(x: Float[Tensor, "*shape K"]) -> Float[Tensor, "*shape K"]:
    """The feature map 1 + elu(x), which is positive (Katharopoulos et al., arXiv 2006.16236, eq. 7)."""
    return 1 + F.elu(x)


def identity(x: Float[Tensor, "*shape K"]) -> Float[Tensor, "*shape K"]:
    """The feature map x / K^(1/4), whose products q · k / sqrt(K) are the scores of attention."""
    return x * x.shape[-1] ** -0.25


MAPS: Mapping[str, Callable[[Tensor], Tensor]] = {"taylor": taylor, "elu": elu, "identity": identity}


@mixer("linear")
class LinearAttention(Mixer):
    """Linear attention with H heads. Queries and keys have ``features`` channels before the feature map ``map``."""

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
        """FLOPs a token of sums over mapped keys."""
        values, count = self.dims.head_dim + self._divided, self.dims.heads
        return sums_flops(min(self.chunk, length), keys=self._mapped, values=values, heads=count, asking=count)

    def pairs(self, length: int) -> int:
        """The number of distinct channels of a mapped key. The Taylor map has each x_i x_j with i != j twice."""
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
    """Linear attention with the Taylor map. Based combines it with short convolutions and windows (arXiv 2402.18668, sec. 4)."""

    OPTIONS: ClassVar = {"features": 16, "map": ("taylor",)}
