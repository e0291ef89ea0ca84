"""Mamba-2: a state space with one decay a head that depends on the token (SSD).

h_t = a_t h_{t-1} + Δ_t B_t x_tᵀ, y_t = h_tᵀ C_t + D x_t with a_t = exp(-exp(A_log) Δ_t), Δ = softplus(dt + bias). x, B and C
pass a short convolution and SiLU. The output is gated and normalised (Dao & Gu, arXiv 2405.21060, sec. 5-7). All heads share
B and C. The chunked form is linear attention with a decay: queries C, keys B, values Δ x.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init

from limbeck.errors import BadModel
from limbeck.models.mixers.convolution import ShortConv
from limbeck.models.mixers.decay import decaying_sums, sums_flops
from limbeck.models.mixers.documents import Documents
from limbeck.models.mixers.mixer import Dims, Mixer, State, heads, joined, linear, mixer
from limbeck.models.mixers.norm import RMSNorm
from limbeck.models.mixers.precision import wide


@mixer("mamba2")
class Mamba2(Mixer):
    """The Mamba-2 mixer (arXiv 2405.21060): ``expand`` times the model's width, in heads of ``head`` channels.

    Each channel has a state of ``state`` numbers. Raises BadModel if the channels do not make whole heads.
    """

    OPTIONS: ClassVar = {"state": 64, "expand": 2, "head": 64, "taps": 4}

    def __init__(self, dims: Dims, *, state: int, expand: int, head: int, taps: int) -> None:
        super().__init__(dims)
        self.inner, self.state = expand * dims.width, state
        self.head = min(head, self.inner)
        if self.inner % self.head:
            raise BadModel(
                f"mamba2: {expand} x {dims.width} channels do not make whole heads of {self.head}; give head=, a divisor of "
                f"{self.inner}"
            )
        self.heads = self.inner // self.head
        self.in_proj = linear(dims.width, 2 * self.inner + 2 * state + self.heads)
        self.conv = ShortConv(self.inner + 2 * state, taps, bias=True)
        self.A_log = nn.Parameter(torch.empty(self.heads))
        self.D = nn.Parameter(torch.empty(self.heads))
        self.dt_bias = nn.Parameter(torch.empty(self.heads))
        self.norm = RMSNorm(self.inner, dims.eps)
        self.out_proj = linear(self.inner, dims.width)
        self.initialise()

    def initialise(self) -> None:
        """Draws -A uniformly from [1, 16] and Δ log-uniformly from [0.001, 0.1], and sets D = 1."""
        init.copy_(self.A_log, torch.empty_like(self.A_log).uniform_(1, 16).log())
        init.ones_(self.D)
        init.copy_(self.dt_bias, step_bias(self.dt_bias))

    def mix(
        self, x: Float[Tensor, "B T D"], documents: Documents, state: State | None, size: int
    ) -> tuple[Float[Tensor, "B T D"], State | None]:
        z, xbc, dt = self.in_proj(x).split([self.inner, self.inner + 2 * self.state, self.heads], -1)
        xbc, recent = self.conv(xbc, documents, None if state is None else state["recent"])
        u, b, c = F.silu(xbc).split([self.inner, self.state, self.state], -1)
        delta = F.softplus(wide(dt) + wide(self.dt_bias)).mT  # (B, H, T)
        u = wide(heads(u, self.heads))
        y, after = decaying_sums(
            c[:, None],
            b[:, None],
            u * delta[..., None],
            -wide(self.A_log).exp()[:, None] * delta,
            documents=documents,
            before=None if state is None else state["space"],
            size=size,
        )
        y = joined(wide(y) + wide(self.D)[:, None, None] * u)
        y = self.out_proj(self.norm((y * F.silu(wide(z))).to(x.dtype)))
        return y, None if state is None else {"recent": recent, "space": after}

    def fresh(self, x: Float[Tensor, "B T D"]) -> State:
        return {
            "recent": x.new_zeros(x.shape[0], 0, self.inner + 2 * self.state),
            "space": wide(x).new_zeros(x.shape[0], self.heads, self.state, self.head),
        }

    def state_bytes(self, length: int) -> int:
        """Bytes of the state space and of the last inputs within reach of the taps."""
        channels, taps = self.conv.weight.shape
        return super().state_bytes(length) + min(length, taps - 1) * channels * self.D.element_size()

    def mixing_flops(self, length: int) -> float:
        """FLOPs a token of sums with one decay a head. All heads share the scores."""
        return sums_flops(min(self.chunk, length), keys=self.state, values=self.head, heads=self.heads, asking=1)

    def pairs(self, length: int) -> int:
        """The number of channels of B and C, which act as key and query. It is at most ``length``."""
        return min(length, self.state)


def step_bias(like: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Biases whose softplus is log-uniform in [0.001, 0.1] (Gu & Dao, arXiv 2312.00752, sec. 3.6), of the shape of ``like``."""
    steps = torch.empty_like(like).uniform_(math.log(1e-3), math.log(1e-1)).exp()
    return steps + torch.log(-torch.expm1(-steps))
