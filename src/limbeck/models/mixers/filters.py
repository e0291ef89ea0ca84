"""Filters as long as the longest text: free, or given tap by tap by a small network of the tap's place (implicit).

The network reads [t / L, cos 2πft/L, -sin 2πft/L] (Poli et al., arXiv 2302.10866, app. D.3). What reaches further back than L
tokens is not heard, so a longer text has a window of L.
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
    """A filter of L taps for each of D channels, (L, D); the first is for the token itself.

    A network is run in float32 at least, once for all rows: in bfloat16 the places of 2,048 taps are 641 different ones.
    """

    def forward(self) -> Float[Tensor, "L D"]:
        with exact(next(self.parameters())):
            return self.values()

    def values(self) -> Float[Tensor, "L D"]:
        """The taps; numbers are as wide as they are."""
        raise NotImplementedError

    def initialise(self) -> None:
        """Gives parameters that are no maps of `nn.Linear` their values."""


class Explicit(Filter):
    """Free taps, of N(0, 1/L) at first: as large as the input, whatever L is."""

    def __init__(self, channels: int, length: int) -> None:
        super().__init__()
        self.taps = nn.Parameter(torch.empty(length, channels))
        self.initialise()

    def initialise(self) -> None:
        init.normal_(self.taps, std=self.taps.shape[0] ** -0.5)

    def values(self) -> Float[Tensor, "L D"]:
        return self.taps


class Implicit(Filter):
    """A network of one hidden layer of 16 with ReLU on one frequency, divided by sqrt(L) as the free taps are."""

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
    """The filter of this kind: explicit or implicit."""
    return {"explicit": Explicit, "implicit": Implicit}[kind](channels, length)


def spread(*maps: nn.Module) -> None:
    """Weights and biases uniform within 1 / sqrt(inputs): with less, as in the rest of a decoder, a filter would be next to 0."""
    for part in maps:
        assert isinstance(part, nn.Linear)
        for parameter in part.parameters():
            init.uniform_(parameter, -(part.in_features**-0.5), part.in_features**-0.5)


def mapped(map: nn.Linear, x: Float[Tensor, "L F"]) -> Float[Tensor, "L G"]:
    """The map of numbers that may be wider than its weights."""
    return F.linear(x, wide(map.weight), None if map.bias is None else wide(map.bias))


def places(length: int, frequencies: int, *, like: Tensor) -> Float[Tensor, "L F"]:
    """What a filter's network is told of each tap."""
    kind = wide(like).dtype
    t = torch.arange(length, device=like.device, dtype=kind)[:, None]
    f = torch.arange(1, frequencies + 1, device=like.device, dtype=kind)
    angle = 2 * math.pi * f * t / length
    return torch.cat([t / length, angle.cos(), -angle.sin()], -1)
