"""What the mixers of a decoder cost: the FLOPs of a token and the bytes of a text's state, layer by layer.

Each mixer says this of itself (`models.mixers`), so nothing is counted here twice, and torch must be loaded: a mixer is built
where tensors have shapes and no storage. Layers of one text cost the same and are built once.
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
    """The mixer of each layer by its text, and what all of them may know."""

    layers: tuple[str, ...]
    dims: Dims

    @classmethod
    def of(cls, config: LimbeckConfig) -> Mixture:
        """Of a decoder's configuration."""
        return cls(tuple(config.mixer_of(layer) for layer in range(config.num_hidden_layers)), config.dims(0))

    def mixer(self, layer: int) -> Mixer:
        """The mixer of a layer, without storage."""
        return self._built[self.layers[layer]]

    def mixing_flops(self, length: int) -> float:
        """FLOPs of a forward pass per token that are no products with weights, in rows of this length."""
        return sum(self.mixer(layer).mixing_flops(length) for layer in range(len(self.layers)))

    def state_bytes(self, length: int, itemsize: int) -> int:
        """Bytes of the state of a text of this length, in weights of this size; sums over a text are float32 at least."""
        return sum(self.layer_bytes(layer, length, itemsize) for layer in range(len(self.layers)))

    def layer_bytes(self, layer: int, length: int, itemsize: int) -> int:
        """The same of one layer."""
        return self.mixer(layer).to(_FORMATS[itemsize]).state_bytes(length)

    @cached_property
    def _built(self) -> dict[str, Mixer]:
        with torch.device("meta"):
            return {text: build(text, self.dims) for text in set(self.layers)}
