"""H3: a shift state space and a diagonal state space, with two gates between them.

y = W_o (q ⊙ SSM_diag(SSM_shift(k) ⊙ v)), both with a skip (Fu et al., arXiv 2212.14052, sec. 3.1). Each head has one channel,
so that k v is an elementwise product. The shift keeps its last N inputs, which makes it a filter of N free taps.

Differences from the authors' code: the four projections have no biases here. The shift is stored as its filter; the authors
use a state space with a learned C and a separate skip, which spans the same filters.
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
    """The H3 mixer (arXiv 2212.14052). Both state spaces have ``state`` dimensions a channel.

    The first tap of the shift, which is for the token itself, takes the place of the shift's skip.
    """

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
        """Bytes of the state space and of the last inputs within reach of the shift."""
        kept = min(length, self.shift.taps.shape[0] - 1)
        return super().state_bytes(length) + kept * self.dims.width * self.shift.taps.element_size()

    def mixing_flops(self, length: int) -> float:
        """FLOPs a token: two long convolutions for each channel."""
        return 2 * convolution_flops(length) * self.dims.width
