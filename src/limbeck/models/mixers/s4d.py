"""S4D: a diagonal state space for each channel, followed by a linear map over the channels.

SSM → GELU → linear to 2 D → GLU (Gu et al., arXiv 2206.11893, sec. 4 and app. B).
"""

from __future__ import annotations

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.models.mixers.convolution import convolution_flops
from limbeck.models.mixers.documents import Documents
from limbeck.models.mixers.mixer import Dims, Mixer, State, mixer
from limbeck.models.mixers.ssm import SPECTRA, DiagonalSSM


@mixer("s4d")
class S4D(Mixer):
    """The S4D mixer (arXiv 2206.11893) with ``state`` real dimensions a channel.

    ``init`` is the initial spectrum of A. ``method`` is the discretisation: zero-order hold (zoh) or bilinear.
    """

    OPTIONS: ClassVar = {"init": tuple(SPECTRA), "state": 64, "method": ("zoh", "bilinear")}

    def __init__(self, dims: Dims, *, init: str, state: int, method: str) -> None:
        super().__init__(dims)
        self.ssm = DiagonalSSM(dims.width, state, spectrum=init, method=method)
        self.o_proj = nn.Linear(dims.width, 2 * dims.width)

    def mix(
        self, x: Float[Tensor, "B T D"], documents: Documents, state: State | None, size: int
    ) -> tuple[Float[Tensor, "B T D"], State | None]:
        y, after = self.ssm(x, documents, None if state is None else state["space"])
        y = F.glu(self.o_proj(F.gelu(y).to(x.dtype)), -1)
        return y, None if after is None else {"space": after}

    def fresh(self, x: Float[Tensor, "B T D"]) -> State:
        return {"space": self.ssm.fresh(x)}

    def mixing_flops(self, length: int) -> float:
        """FLOPs a token: one long convolution for each channel."""
        return convolution_flops(length) * self.dims.width
