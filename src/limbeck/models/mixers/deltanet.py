"""DeltaNet and Gated DeltaNet: linear attention in which a value replaces the value stored under its key.

S_t = a_t (I - b_t k_t k_tᵀ) S_{t-1} + b_t k_t v_tᵀ, o_t = S_tᵀ q_t. Queries, keys and values pass a short convolution and SiLU.
Queries and keys are normalised to length 1, and b = σ(W_b x). DeltaNet has a = 1 (Yang et al., arXiv 2406.06484). Gated DeltaNet
has ln a = -exp(A_log) softplus(W_a x + bias), values twice as wide, and an output gate (arXiv 2412.06464, sec. 3).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init

from limbeck.models.mixers.convolution import ShortConv
from limbeck.models.mixers.delta import Gates, delta_flops, delta_rule
from limbeck.models.mixers.documents import Documents
from limbeck.models.mixers.mamba2 import step_bias
from limbeck.models.mixers.mixer import Dims, Mixer, State, heads, joined, linear, mixer
from limbeck.models.mixers.norm import RMSNorm
from limbeck.models.mixers.precision import wide

_LENGTH_EPS = 1e-6  # added to the squared length of a query or key


@mixer("deltanet")
class DeltaNet(Mixer):
    """DeltaNet: the delta rule without decay (Yang et al., arXiv 2406.06484)."""

    OPTIONS: ClassVar = {"taps": 4}
    expand = 1  # channels of a value for each channel of a key

    def __init__(self, dims: Dims, *, taps: int) -> None:
        super().__init__(dims)
        inner = dims.heads * dims.head_dim
        self.sizes = [inner, inner, self.expand * inner]
        self.q_proj, self.k_proj = linear(dims.width, inner), linear(dims.width, inner)
        self.v_proj, self.b_proj = linear(dims.width, self.expand * inner), linear(dims.width, dims.heads)
        self.conv = ShortConv(sum(self.sizes), taps)
        self.norm = RMSNorm(self.expand * dims.head_dim, dims.eps)
        self.o_proj = linear(self.expand * inner, dims.width)

    def mix(
        self, x: Float[Tensor, "B T D"], documents: Documents, state: State | None, size: int
    ) -> tuple[Float[Tensor, "B T D"], State | None]:
        qkv = torch.cat([self.q_proj(x), self.k_proj(x), self.v_proj(x)], -1)
        qkv, recent = self.conv(qkv, documents, None if state is None else state["recent"])
        q, k, v = (heads(part, self.dims.heads) for part in F.silu(qkv).split(self.sizes, -1))
        y, after = delta_rule(
            _unit(q) * self.dims.head_dim**-0.5,
            _unit(k),
            v,
            Gates(wide(self.b_proj(x)).sigmoid().mT, self._log_decay(x)),
            documents=documents,
            before=None if state is None else state["memory"],
            size=size,
        )
        y = self.o_proj(self._gated(joined(self.norm(y)).to(x.dtype), x))
        return y, None if state is None else {"recent": recent, "memory": after}

    def fresh(self, x: Float[Tensor, "B T D"]) -> State:
        width = self.dims.head_dim
        return {
            "recent": x.new_zeros(x.shape[0], 0, sum(self.sizes)),
            "memory": wide(x).new_zeros(x.shape[0], self.dims.heads, width, self.expand * width),
        }

    def state_bytes(self, length: int) -> int:
        """Bytes of the memory S and of the last inputs within reach of the taps."""
        channels, taps = self.conv.weight.shape
        return super().state_bytes(length) + min(length, taps - 1) * channels * self.conv.weight.element_size()

    def mixing_flops(self, length: int) -> float:
        """FLOPs a token of the delta rule. The taps of the short convolution are counted as weights."""
        width = self.dims.head_dim
        return delta_flops(min(self.chunk, length), keys=width, values=self.expand * width, heads=self.dims.heads)

    def pairs(self, length: int) -> int:
        """The number of channels of a key, or ``length`` if that is smaller."""
        return min(length, self.dims.head_dim)

    def _log_decay(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B H T"] | None:
        return None

    def _gated(self, y: Float[Tensor, "B T E"], x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T E"]:
        return y


@mixer("gdn")
class GatedDeltaNet(DeltaNet):
    """Gated DeltaNet: the delta rule with a decay that depends on the token (Yang et al., arXiv 2412.06464)."""

    expand = 2

    def __init__(self, dims: Dims, *, taps: int) -> None:
        super().__init__(dims, taps=taps)
        self.a_proj = linear(dims.width, dims.heads)
        self.g_proj = linear(dims.width, self.expand * dims.heads * dims.head_dim)
        self.A_log = nn.Parameter(torch.empty(dims.heads))
        self.dt_bias = nn.Parameter(torch.empty(dims.heads))
        self.initialise()

    def initialise(self) -> None:
        """Draws exp(A_log) uniformly from [0, 16] and the step bias as in Mamba."""
        init.copy_(self.A_log, torch.empty_like(self.A_log).uniform_(1e-3, 16).log())
        init.copy_(self.dt_bias, step_bias(self.dt_bias))

    def _log_decay(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B H T"] | None:
        return (-wide(self.A_log).exp() * F.softplus(wide(self.a_proj(x)) + wide(self.dt_bias))).mT

    def _gated(self, y: Float[Tensor, "B T E"], x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T E"]:
        return y * F.silu(self.g_proj(x))


def _unit(x: Float[Tensor, "*shape K"]) -> Float[Tensor, "*shape K"]:
    y = wide(x)
    return (y * torch.rsqrt(y.square().sum(-1, keepdim=True) + _LENGTH_EPS)).to(x.dtype)
