"""BaseConv: a convolution over time, gated by a linear map of the token itself. The filter is short, or as long as the text.

y = (x W + b1) ⊙ (h * x + b2) (Arora et al., arXiv 2312.04927, def. 4.1). The filter h has a few taps for each channel, or as
many taps as the longest text has tokens. Long filters are free parameters or the output of a small network (`filters.py`).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from limbeck.models.mixers.convolution import ShortConv, convolution_flops, long_convolution
from limbeck.models.mixers.documents import Documents
from limbeck.models.mixers.filters import Filter, filter_of
from limbeck.models.mixers.mixer import Dims, Mixer, State, mixer


@mixer("conv")
class GatedConv(Mixer):
    """BaseConv with a short filter of ``taps`` taps for each channel."""

    OPTIONS: ClassVar = {"taps": 3}

    def __init__(self, dims: Dims, *, taps: int) -> None:
        super().__init__(dims)
        self.gate = nn.Linear(dims.width, dims.width)
        self.conv = ShortConv(dims.width, taps, bias=True)

    def mix(
        self, x: Float[Tensor, "B T D"], documents: Documents, state: State | None, size: int
    ) -> tuple[Float[Tensor, "B T D"], State | None]:
        y, recent = self.conv(x, documents, None if state is None else state["recent"])
        return self.gate(x) * y, None if state is None else {"recent": recent}

    def fresh(self, x: Float[Tensor, "B T D"]) -> State:
        return {"recent": x[:, :0]}

    def state_bytes(self, length: int) -> int:
        """Bytes of the last inputs within reach of the taps."""
        taps = self.conv.weight.shape[1]
        return min(length, taps - 1) * self.dims.width * self.conv.weight.element_size()

    def mixing_flops(self, length: int) -> float:
        """0, since the taps are weights and are counted with them."""
        return 0.0


@mixer("longconv")
class LongConv(Mixer):
    """h * x + d ⊙ x with a filter h as long as the longest text. ``gated`` adds the gate of BaseConv."""

    OPTIONS: ClassVar = {"filter": ("explicit", "implicit"), "gated": False}

    def __init__(self, dims: Dims, *, filter: str, gated: bool) -> None:
        super().__init__(dims)
        self.gate = nn.Linear(dims.width, dims.width) if gated else None
        self.filter: Filter = filter_of(filter, dims.width, dims.length)
        self.skip = nn.Parameter(torch.ones(dims.width))
        self.bias = nn.Parameter(torch.zeros(dims.width)) if gated else None

    def mix(
        self, x: Float[Tensor, "B T D"], documents: Documents, state: State | None, size: int
    ) -> tuple[Float[Tensor, "B T D"], State | None]:
        y, recent = long_convolution(x, self.filter(), documents, None if state is None else state["recent"])
        y = y + self.skip * x
        if self.gate is not None and self.bias is not None:
            y = self.gate(x) * (y + self.bias)
        return y, None if state is None else {"recent": recent}

    def fresh(self, x: Float[Tensor, "B T D"]) -> State:
        return {"recent": x[:, :0]}

    def state_bytes(self, length: int) -> int:
        """Bytes of every input within reach of the filter, since a convolution has no smaller state."""
        return min(length, self.dims.length - 1) * self.dims.width * self.skip.element_size()

    def mixing_flops(self, length: int) -> float:
        """FLOPs a token: one long convolution for each channel."""
        return convolution_flops(length) * self.dims.width
