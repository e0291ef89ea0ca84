"""Mamba: a selective state space (S6). Its step, input and output maps depend on the token.

h_t = exp(Δ_t A) h_{t-1} + Δ_t B_t x_t, y_t = h_t · C_t + D x_t for each of 2 D channels with N states. x passes a short
convolution and SiLU, Δ = softplus(W dt + bias) through a few channels, and SiLU(z) gates the output (Gu & Dao, arXiv
2312.00752, sec. 3). Decays differ between states, so there is no chunked matrix form: it is computed by a scan over time.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init

from limbeck.models.mixers.convolution import ShortConv
from limbeck.models.mixers.documents import Documents
from limbeck.models.mixers.mamba2 import step_bias
from limbeck.models.mixers.mixer import Dims, Mixer, State, linear, mixer
from limbeck.models.mixers.precision import exact, wide
from limbeck.models.mixers.selective import selective_scan


@mixer("mamba")
class Mamba(Mixer):
    """The Mamba mixer (arXiv 2312.00752): ``expand`` times the model's width, ``state`` numbers a channel, ``taps`` taps."""

    OPTIONS: ClassVar = {"state": 16, "expand": 2, "taps": 4}

    def __init__(self, dims: Dims, *, state: int, expand: int, taps: int) -> None:
        super().__init__(dims)
        self.inner, self.state, self.rank = expand * dims.width, state, -(-dims.width // 16)
        self.in_proj = linear(dims.width, 2 * self.inner)
        self.conv = ShortConv(self.inner, taps, bias=True)
        self.x_proj = linear(self.inner, self.rank + 2 * state)
        self.dt_proj = nn.Linear(self.rank, self.inner)
        self.A_log = nn.Parameter(torch.empty(self.inner * state))  # a vector, so that weight decay skips it
        self.D = nn.Parameter(torch.empty(self.inner))
        self.out_proj = linear(self.inner, dims.width)
        self.initialise()

    def initialise(self) -> None:
        """Sets A_n = -(n + 1) and D = 1, and draws Δ log-uniformly from [0.001, 0.1] (arXiv 2312.00752, sec. 3.6)."""
        rising = torch.arange(1, self.state + 1, dtype=torch.float64, device="cpu").log()
        init.copy_(self.A_log, rising.repeat(self.inner).to(self.A_log.dtype))
        init.ones_(self.D)
        init.uniform_(self.dt_proj.weight, -(self.rank**-0.5), self.rank**-0.5)
        init.copy_(self.dt_proj.bias, step_bias(self.dt_proj.bias))

    def mix(
        self, x: Float[Tensor, "B T D"], documents: Documents, state: State | None, size: int
    ) -> tuple[Float[Tensor, "B T D"], State | None]:
        u, z = self.in_proj(x).chunk(2, -1)
        u, recent = self.conv(u, documents, None if state is None else state["recent"])
        u = F.silu(u)
        with exact(x):
            y, after = self._scanned(wide(u), documents, None if state is None else state["space"])
        y = self.out_proj((y * F.silu(wide(z))).to(x.dtype))
        return y, None if state is None else {"recent": recent, "space": after}

    def _scanned(
        self, u: Float[Tensor, "B T E"], documents: Documents, before: Float[Tensor, "B N E"] | None
    ) -> tuple[Float[Tensor, "B T E"], Float[Tensor, "B N E"]]:
        """The outputs of the state space, and its state after the last token."""
        dt, b, c = F.linear(u, wide(self.x_proj.weight)).split([self.rank, self.state, self.state], -1)
        delta = F.softplus(F.linear(dt, wide(self.dt_proj.weight), wide(self.dt_proj.bias)))
        a = -wide(self.A_log).exp().unflatten(0, (-1, self.state)).mT.contiguous()
        y, after = selective_scan(u, delta, a, b, c, start=documents.reach == 0, before=before)
        return y + wide(self.D) * u, after

    def fresh(self, x: Float[Tensor, "B T D"]) -> State:
        return {
            "recent": x.new_zeros(x.shape[0], 0, self.inner),
            "space": wide(x).new_zeros(x.shape[0], self.state, self.inner),
        }

    def state_bytes(self, length: int) -> int:
        """Bytes of the state space and of the last inputs within reach of the taps."""
        taps = self.conv.weight.shape[1]
        return super().state_bytes(length) + min(length, taps - 1) * self.inner * self.D.element_size()

    def mixing_flops(self, length: int) -> float:
        """6 FLOPs for each number of the state: Δ A, decay, B Δ u, their sum, C h and its sum. Exponentials do not count."""
        return 6.0 * self.inner * self.state

    def pairs(self, length: int) -> int:
        """The number of channels of B and C, which act as key and query. It is at most ``length``."""
        return min(length, self.state)
