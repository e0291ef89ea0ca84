"""Hyena of order 2: a convolution as long as the text between two gates. A small network gives its filter.

(x1, x2, v) = ShortConv₃(x W_in), z = x1 ⊙ v, y = W_o (x2 ⊙ (h * z + d ⊙ z)), and h(t) = network(t) (exp(-δ_c t) + 0.05). The
network has sine activations with learned frequencies (Poli et al., arXiv 2302.10866, sec. 3). The decay of a channel falls to
1 % after 0.3 to 1.5 times the longest text.

Differences from the authors' code: the points at which channels fall to 1 % are evenly spaced between 0.3 and 1.5 texts here.
The authors space the rates δ evenly, so more of their channels decay fast. Time is t / L here and t / (L - 1) there.
Projections, short convolution and the network's inner maps have biases, as there. The network's last map has none.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import initialization as init

from limbeck.models.mixers.convolution import ShortConv, convolution_flops, long_convolution
from limbeck.models.mixers.documents import Documents
from limbeck.models.mixers.filters import Filter, mapped, places, spread
from limbeck.models.mixers.mixer import Dims, Mixer, State, mixer
from limbeck.models.mixers.precision import wide

_HIDDEN, _LAYERS, _FLOOR = 64, 2, 0.05
_FASTEST, _SLOWEST, _GONE = 0.3, 1.5, 0.01  # filters fall to _GONE after _FASTEST to _SLOWEST texts


@mixer("hyena")
class Hyena(Mixer):
    """The Hyena mixer of order 2 (arXiv 2302.10866). Gates and values are as wide as the model."""

    def __init__(self, dims: Dims) -> None:
        super().__init__(dims)
        self.in_proj, self.out_proj = nn.Linear(dims.width, 3 * dims.width), nn.Linear(dims.width, dims.width)
        self.conv = ShortConv(3 * dims.width, 3, bias=True)
        self.filter = Sines(dims.width, dims.length)
        self.skip = nn.Parameter(torch.empty(dims.width))
        self.initialise()

    def initialise(self) -> None:
        init.normal_(self.skip)

    def mix(
        self, x: Float[Tensor, "B T D"], documents: Documents, state: State | None, size: int
    ) -> tuple[Float[Tensor, "B T D"], State | None]:
        before = (None, None) if state is None else (state["recent"], state["gated"])
        projected, recent = self.conv(self.in_proj(x), documents, before[0])
        first, second, v = projected.chunk(3, -1)
        z = first * v
        y, gated = long_convolution(z, self.filter(), documents, before[1])
        y = self.out_proj(second * (y + self.skip * z))
        return y, None if state is None else {"recent": recent, "gated": gated}

    def fresh(self, x: Float[Tensor, "B T D"]) -> State:
        return {"recent": x.new_zeros(x.shape[0], 0, 3 * self.dims.width), "gated": x[:, :0]}

    def state_bytes(self, length: int) -> int:
        """Bytes of the gated values within reach of the long filter and of the inputs within reach of the short one."""
        kept = min(length, self.dims.length - 1) + 3 * min(length, self.conv.weight.shape[1] - 1)
        return kept * self.dims.width * self.skip.element_size()

    def mixing_flops(self, length: int) -> float:
        """FLOPs a token: one long convolution for each channel. The taps of the short one are counted as weights."""
        return convolution_flops(length) * self.dims.width


class Sines(Filter):
    """Taps from a network with sin(ω x) between its linear maps, multiplied by an exponential decay plus 0.05."""

    def __init__(self, channels: int, length: int) -> None:
        super().__init__()
        self.length = length
        widths = [3, *[_HIDDEN] * (_LAYERS + 1)]
        self.maps = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.out = nn.Linear(_HIDDEN, channels, bias=False)
        self.frequency = nn.Parameter(torch.ones(_HIDDEN))

    def initialise(self) -> None:
        spread(*self.maps, self.out)
        init.ones_(self.frequency)

    def values(self) -> Float[Tensor, "L D"]:
        y = places(self.length, 1, like=self.frequency)
        for inner in self.maps:
            assert isinstance(inner, nn.Linear)
            y = torch.sin(wide(self.frequency) * mapped(inner, y))
        time = torch.arange(self.length, device=y.device, dtype=y.dtype)[:, None] / self.length
        gone = torch.linspace(_FASTEST, _SLOWEST, self.out.out_features, device=y.device, dtype=y.dtype)
        decay = torch.exp(math.log(_GONE) * time / gone)
        return mapped(self.out, y) * (decay + _FLOOR)
