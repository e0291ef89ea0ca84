"""Filters as long as the longest text: free parameters (explicit), or a small network of the tap's place (implicit).

The network's input is [t / L, cos 2πft/L, -sin 2πft/L] (Poli et al., arXiv 2302.10866, app. D.3). A filter has L taps, so a
text longer than L is convolved within a window of L tokens.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init

from limbeck.models.mixers.precision import exact, wide


class Filter(nn.Module):
    """A filter of L taps for each of D channels, (L, D). The first tap is for the token itself.

    A network runs in float32 or wider, once for all rows. In bfloat16, the places of 2,048 taps round to 641 distinct values.
    """

    def forward(self) -> Float[Tensor, "L D"]:
        with exact(next(self.parameters())):
            return self.values()

    def values(self) -> Float[Tensor, "L D"]:
        """The taps, in the width in which they are computed. Subclasses define this."""
        raise NotImplementedError

    def initialise(self) -> None:
        """Sets the filter's initial values. The decoder calls this after its own default initialisation."""


class Explicit(Filter):
    """Free taps, initialised from N(0, 1/L), so that outputs are as large as inputs for every L."""

    def __init__(self, channels: int, length: int) -> None:
        super().__init__()
        self.taps = nn.Parameter(torch.empty(length, channels))
        self.initialise()

    def initialise(self) -> None:
        init.normal_(self.taps, std=self.taps.shape[0] ** -0.5)

    def values(self) -> Float[Tensor, "L D"]:
        return self.taps


class Implicit(Filter):
    """Taps from a network with one hidden layer of 16 ReLU units and one frequency, divided by sqrt(L) as free taps are."""

    def __init__(self, channels: int, length: int) -> None:
        super().__init__()
        self.length = length
        self.hidden, self.out = nn.Linear(3, 16), nn.Linear(16, channels)

    def initialise(self) -> None:
        spread(self.hidden, self.out)

    def values(self) -> Float[Tensor, "L D"]:
        features = places(self.length, 1, like=self.hidden.weight)
        return mapped(self.out, mapped(self.hidden, features).relu()) / math.sqrt(self.length)


def filter_of(kind: str, channels: int, length: int) -> Filter:
    """A filter of L = ``length`` taps for each channel. ``kind`` is "explicit" (`Explicit`) or "implicit" (`Implicit`)."""
    return {"explicit": Explicit, "implicit": Implicit}[kind](channels, length)


def spread(*maps: nn.Module) -> None:
    """Draws weights and biases uniformly within 1 / sqrt(inputs). The decoder's smaller usual scale makes filters near 0."""
    for part in maps:
        assert isinstance(part, nn.Linear)
        for parameter in part.parameters():
            init.uniform_(parameter, -(part.in_features**-0.5), part.in_features**-0.5)


def mapped(map: nn.Linear, x: Float[Tensor, "L F"]) -> Float[Tensor, "L G"]:
    """Applies a linear map to inputs that may be wider than its weights, in the width of the inputs."""
    return F.linear(x, wide(map.weight), None if map.bias is None else wide(map.bias))


def places(length: int, frequencies: int, *, like: Tensor) -> Float[Tensor, "L F"]:
    """The input features of a filter's network, one row a tap: [t / L, cos 2πft/L, -sin 2πft/L], F = 1 + 2 ``frequencies``."""
    kind = wide(like).dtype
    t = torch.arange(length, device=like.device, dtype=kind)[:, None]
    f = torch.arange(1, frequencies + 1, device=like.device, dtype=kind)
    angle = 2 * math.pi * f * t / length
    return torch.cat([t / length, angle.cos(), -angle.sin()], -1)
