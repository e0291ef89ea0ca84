"""A model in training that computes with the weights a GGUF file would hold.

The trained weights stay in float32. While a gradient is computed, each matrix holds the values of its blocks; the gradient at
those is applied to the trained weights (the straight-through estimator: w + (blocks(w) - w), the bracket without a gradient). So
nothing of the model changes: embeddings, tied heads, GPT-2's transposed matrices and a head outside of the model's own forward
pass all compute with quantised weights.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.configuration_utils import PreTrainedConfig

from limbeck.errors import BadModel
from limbeck.models.build import build
from limbeck.models.gguf.blocks import in_blocks
from limbeck.models.gguf.container import require_gguf
from limbeck.models.gguf.families import Family, family_of
from limbeck.models.gguf.numbers import BLOCK, BLOCKED, HEAD, Numbers, size_of
from limbeck.models.language_model import LanguageModel

KIND_OF = {"int8": "q8_0", "int4": "q4_0"}
LINEAGE = "quantised"  # in a model's lineage: for which file its weights were rounded


@dataclass(frozen=True)
class Place:
    """How a file holds a tensor: the kind of its numbers, and whether rows and columns change places."""

    kind: str
    transposed: bool

    def values(self, tensor: Tensor) -> Tensor:
        """A tensor's values in the file, in the tensor's own layout."""
        return in_blocks(tensor.T, self.kind).T.contiguous() if self.transposed else in_blocks(tensor, self.kind)


@dataclass(frozen=True)
class Quantiser:
    """The tensors of a model that a GGUF file of a ``kind``, q8_0 or q4_0, holds in blocks, by name."""

    kind: str
    places: Mapping[str, Place]
    facts: Mapping[str, Any]

    @classmethod
    def of(cls, config: PreTrainedConfig, kind: str) -> Quantiser:
        """That of models of a configuration. Raises BadModel where no GGUF file holds such a model, or a matrix not in blocks."""
        require_gguf()
        family = family_of(config)
        with torch.device("meta"):
            model = build(config)
        shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
        names = family.names(shapes, layers=config.num_hidden_layers)
        numbers = Numbers(kind, tied=HEAD not in names.values())
        places, faults, tensors, size = {}, [], Counter[str](), 0
        for name, shape in shapes.items():
            transposed = _transposed(family, name, shape, config)
            there = shape[::-1] if transposed else shape
            found = numbers.of(names[name], there)
            tensors[found] += 1
            size += size_of(found, there)
            if found in BLOCKED:
                places[name] = Place(found, transposed)
            elif len(shape) > 1 and there[-1] % BLOCK and found != "f32":
                faults.append(f"{name} with {there[-1]}")
        if faults:
            more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
            raise BadModel(
                f"{kind} holds numbers in blocks of {BLOCK}, so expected rows of a multiple of {BLOCK} numbers, got "
                f"{', '.join(faults[:3])}{more}: give a student whose hidden, heads x channels a head, and ffn are multiples of "
                f"{BLOCK} (--shape)"
            )
        return cls(kind, places, {"kind": kind, "tensors": dict(sorted(tensors.items())), "bytes": size})

    @contextmanager
    def values(self, model: PreTrainedModel) -> Iterator[None]:
        """Puts the values of a file in place of a model's weights, and its own weights back at the end, bit for bit.

        A gradient that is computed meanwhile is kept for the own weights.
        """
        own = []
        try:
            for name, parameter in model.named_parameters():
                if name in self.places:
                    own.append((parameter, parameter.data))
                    parameter.data = self.places[name].values(parameter.data).to(parameter.dtype)
            yield
        finally:
            for parameter, weights in own:
                parameter.data = weights

    @torch.no_grad()
    def quantise(self, model: LanguageModel) -> None:
        """Rounds a model's weights in place to the values of a file; its lineage says so. They have to stay in float32."""
        for name, parameter in model.model.named_parameters():
            if name in self.places:
                parameter.copy_(self.places[name].values(parameter))
        model.lineage = {**(model.lineage or {}), LINEAGE: {"kind": self.kind, "values": "de-quantised, in float32"}}


def unquantised(model: LanguageModel) -> LanguageModel:
    """The model, about to be trained: its lineage no longer says that its weights are those of a file."""
    lineage = {key: value for key, value in (model.lineage or {}).items() if key != LINEAGE}
    model.lineage = lineage or None
    return model


def _transposed(family: Family, name: str, shape: tuple[int, ...], config: PreTrainedConfig) -> bool:
    """Whether the file holds a matrix with rows and columns changed; else its rows are whole, if in another order."""
    if len(shape) != 2:
        return False
    columns = np.arange(shape[1], dtype=np.float32)
    there = family.write(name, np.broadcast_to(columns, shape), config)
    return there.shape[1] != shape[1] or not np.array_equal(there[0], columns)
