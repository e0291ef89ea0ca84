"""H3: a state space that shifts, one that remembers, and two gates between them.

y = W_o (q ⊙ SSM_diag(SSM_shift(k) ⊙ v)), both with a skip (Fu et al., arXiv 2212.14052, sec. 3.1), with one channel a head, so
that k v is a product and no outer product. The shifting one keeps its last N inputs: a filter of N free taps.

Departures from the authors' code: the four projections have no biases, there they have; the shift is its filter itself, there a
state space whose C is learned and a skip beside it, which spans the same filters.
"""

from __future__ import annotations

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from limbeck.models.mixers.convolution import convolution_flops, long_convolution
from limbeck.models.mixers.documents import Documents
from limbeck.models.mixers.filters import Explicit
from limbeck.models.mixers.mixer import Dims, Mixer, State, linear, mixer
from limbeck.models.mixers.ssm import DiagonalSSM


@mixer("h3")
class H3(Mixer):
    """Both state spaces have ``state`` dimensions a channel; the tap of the token itself stands for the shift's skip."""

    OPTIONS: ClassVar = {"state": 64}

    def __init__(self, dims: Dims, *, state: int) -> None:
        super().__init__(dims)
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (linear(dims.width, dims.width) for _ in range(4))
        self.shift = Explicit(dims.width, state)
        self.ssm = DiagonalSSM(dims.width, state, spectrum="lin", method="zoh")

    def mix(
        self, x: Float[Tensor, "B T D"], documents: Documents, state: State | None, size: int
    ) -> tuple[Float[Tensor, "B T D"], State | None]:
        k = self.k_proj(x)
        k, recent = long_convolution(k, self.shift(), documents, None if state is None else state["recent"])
        y, after = self.ssm(k * self.v_proj(x), documents, None if state is None else state["space"])
        y = self.o_proj(self.q_proj(x) * y.to(x.dtype))
        return y, None if after is None else {"recent": recent, "space": after}

    def fresh(self, x: Float[Tensor, "B T D"]) -> State:
        return {"recent": x[:, :0], "space": self.ssm.fresh(x)}

    def state_bytes(self, length: int) -> int:
        """The state space, and the inputs that the shift still reaches."""
        kept = min(length, self.shift.taps.shape[0] - 1)
        return super().state_bytes(length) + kept * self.dims.width * self.shift.taps.element_size()

    def mixing_flops(self, length: int) -> float:
        """Two convolutions a channel."""
        return 2 * convolution_flops(length) * self.dims.width
