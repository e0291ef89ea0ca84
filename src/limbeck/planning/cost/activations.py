"""Bytes that a model's forward pass keeps for its backward pass, counted on the architecture itself.

The decoder runs at its real width on fake tensors, which have shapes and formats but no numbers, once with one layer and once
with two. So nothing is allocated or computed, and every family and mixer is counted as it is: gates, norms of queries and keys,
what attention keeps. An architecture that asks for numbers in its forward pass cannot be counted (None).
"""

from __future__ import annotations

import copy
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers.configuration_utils import PreTrainedConfig

from limbeck.models.auto import LimbeckConfig
from limbeck.models.build import build, unfilled
from limbeck.models.inside import documents_of, fits

_ROWS = 3  # with lengths as they are, so that no activation has the shape of a weight


@dataclass(frozen=True)
class Kept:
    """Bytes per token that are kept: by a ``layer``, the input of a layer (``between``), and outside of the layers (``ends``)."""

    layer: float
    between: float
    ends: float

    def per_token(self, layers: int, *, checkpointed: bool) -> float:
        """Bytes per token of all layers; checkpointed ones keep their input, and one is computed again at a time."""
        inside = layers * self.between + self.layer if checkpointed else layers * self.layer
        return inside + self.ends


def kept_of(config: PreTrainedConfig, *, length: int, document: int | None, itemsize: int, device: str) -> Kept | None:
    """What models of a configuration keep, for rows of ``length`` tokens of equal documents; None where it cannot be counted.

    ``document``: tokens of a document, None for those of a row. ``itemsize``: 2 for mixed precision in bfloat16. ``device``:
    "cpu" or "cuda"; on the latter a row of the mask of packed documents is kept.
    """
    key = repr(sorted(config.to_dict().items(), key=lambda item: item[0]))
    return _counted(_Config(config, key), length, min(document or length, length), itemsize, device)


class _Config:
    """A configuration that is equal to others of the same content."""

    def __init__(self, config: PreTrainedConfig, key: str) -> None:
        self.config, self._key = config, key

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Config) and other._key == self._key


@lru_cache(maxsize=32)
def _counted(which: _Config, length: int, document: int, itemsize: int, device: str) -> Kept | None:
    config = which.config
    period = len(config.mixers) if isinstance(config, LimbeckConfig) else 1
    try:
        once, twice = (
            _kept_bytes(_with_layers(config, period * n), length, document, itemsize, device) for n in (1, 2)
        )
    except Exception:  # each architecture that needs numbers fails in a way of its own
        return None
    return Kept((twice - once) / period, 4.0 * config.get_text_config().hidden_size, 2 * once - twice)


def _with_layers(config: PreTrainedConfig, layers: int) -> PreTrainedConfig:
    changed = copy.deepcopy(config)
    text = changed.get_text_config()
    text.num_hidden_layers = layers
    if getattr(text, "layer_types", None):
        text.layer_types = [text.layer_types[0]] * layers
    return changed


def _kept_bytes(config: PreTrainedConfig, length: int, document: int, itemsize: int, device: str) -> float:
    """Bytes per token of all storages that autograd keeps of a forward pass of the decoder, without weights."""
    inside = torch.tensor(_documents(length, document) * _ROWS) if device == "cpu" and fits(config) else None
    kept: dict[int, int] = {}
    with ExitStack() as stack:
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        with unfilled():
            model = build(config).train()
        weights = {p.untyped_storage()._cdata for p in model.parameters()}
        shapes = {tuple(p.shape) for p in model.parameters()} | {tuple(p.shape)[::-1] for p in model.parameters()}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if (
                storage._cdata not in weights and tuple(tensor.shape) not in shapes
            ):  # nor half-precision copies of weights
                kept[storage._cdata] = storage.nbytes()
            return tensor

        arguments: dict[str, Any] = {"input_ids": torch.ones(_ROWS, length, dtype=torch.long), "use_cache": False}
        stack.enter_context(torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor))
        stack.enter_context(torch.autocast("cpu", torch.bfloat16, enabled=itemsize < 4))
        stack.enter_context(documents_of(inside))
        model.base_model(**arguments)
    return sum(kept.values()) / (_ROWS * length)


def _documents(length: int, document: int) -> list[int]:
    """The lengths of the documents of a row: whole ones of ``document`` tokens, so many as fill it best."""
    count = max(1, round(length / document))
    return [length // count] * count if length % count == 0 else [length]
