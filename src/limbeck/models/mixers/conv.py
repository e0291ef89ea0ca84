"""BaseConv: a convolution over time, gated by a map of the token itself; short, or as long as the text.

y = (x W + b1) ⊙ (h * x + b2) (Arora et al., arXiv 2312.04927, def. 4.1), with a filter h of a few taps for each channel, of
as many free taps as the longest text has tokens, or of as many that a small network gives of their place (`filters.py`).
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
    """BaseConv with a few taps."""

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
        """The inputs that the taps still reach."""
        taps = self.conv.weight.shape[1]
        return min(length, taps - 1) * self.dims.width * self.conv.weight.element_size()

    def mixing_flops(self, length: int) -> float:
        """None: its taps are weights."""
        return 0.0


@mixer("longconv")
class LongConv(Mixer):
    """h * x + d ⊙ x with a filter as long as the longest text, gated as BaseConv if wanted."""

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
        """Every input that the filter reaches: a convolution has no smaller state."""
        return min(length, self.dims.length - 1) * self.dims.width * self.skip.element_size()

    def mixing_flops(self, length: int) -> float:
        """A convolution a channel."""
        return convolution_flops(length) * self.dims.width
