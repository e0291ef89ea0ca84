"""The cost of a decoder's mixers, layer by layer: FLOPs per token and bytes of the state.

The formulas are methods of each mixer (`models.mixers`), so they exist only once. This module loads torch and builds mixers on
the meta device, without storage. Layers with the same mixer text are built once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from limbeck.models.decoder import LimbeckConfig
from limbeck.models.mixers.mixer import Dims, Mixer
from limbeck.models.mixers.pattern import build

_FORMATS = {2: torch.bfloat16, 4: torch.float32, 8: torch.float64}


@dataclass(frozen=True)
class Mixture:
    """The mixer of each layer as its text, and the sizes that all mixers share."""

    layers: tuple[str, ...]
    dims: Dims

    @classmethod
    def of(cls, config: LimbeckConfig) -> Mixture:
        """The mixers of a decoder's configuration."""
        return cls(tuple(config.mixer_of(layer) for layer in range(config.num_hidden_layers)), config.dims(0))

    def mixer(self, layer: int) -> Mixer:
        """The mixer of a layer, on the meta device."""
        return self._built[self.layers[layer]]

    def mixing_flops(self, length: int) -> float:
        """FLOPs per token of a forward pass, without products with weights, in rows of ``length`` tokens."""
        return sum(self.mixer(layer).mixing_flops(length) for layer in range(len(self.layers)))

    def state_bytes(self, length: int, itemsize: int) -> int:
        """Bytes of the state of one text of ``length`` tokens, with ``itemsize`` bytes a weight. Sums are float32 or wider."""
        return sum(self.layer_bytes(layer, length, itemsize) for layer in range(len(self.layers)))

    def layer_bytes(self, layer: int, length: int, itemsize: int) -> int:
        """Bytes of the state of one layer, for a text of ``length`` tokens and ``itemsize`` bytes a weight."""
        return self.mixer(layer).to(_FORMATS[itemsize]).state_bytes(length)

    @cached_property
    def _built(self) -> dict[str, Mixer]:
        with torch.device("meta"):
            return {text: build(text, self.dims) for text in set(self.layers)}
