"""Rotary positions whose frequencies hang on how long a text is: each document chooses them by its own length.

Transformers chooses LongRoPE's factors, and scales dynamic NTK, by the largest position of the whole batch, and the latter
by those of batches before it too: a short document then changes with what else stands in its row. Here the module is run
once for each length that makes a difference, with the positions of the documents of that length, so that what comes out is
what Transformers gives a document that is alone. Formulas: LongRoPE arXiv 2402.13753; dynamic NTK as in
transformers/modeling_rope_utils.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

_LONG, _DYNAMIC = "longrope", "dynamic"


def choose_by_document(model: nn.Module) -> None:
    """Makes every rotary module of a model that looks at lengths look at each document's. Others stay as they are."""
    for module in model.modules():
        kinds = _kinds(module)
        if any(kind == _LONG or _DYNAMIC in kind for kind in kinds) and not isinstance(module, _ByDocument):
            module.__class__ = type(type(module).__name__, (_ByDocument, type(module)), {})


def _kinds(module: nn.Module) -> list[str]:
    """The kinds of rotary positions that a module makes: one, or one for each type of layer."""
    kind = getattr(module, "rope_type", None)
    return [str(k) for k in (kind.values() if isinstance(kind, Mapping) else [kind]) if k]


class _ByDocument(nn.Module):
    """What comes before the class of a rotary module: its own forward, for the documents of one length after another."""

    def forward(self, x: Tensor, position_ids: Int[Tensor, "B T"], layer_type: str | None = None) -> Any:
        """(cos, sin) of each position, (B, T, channels)."""
        kind = self.rope_type if layer_type is None else self.rope_type[layer_type]  # type: ignore[index]
        named = {} if layer_type is None else {"layer_type": layer_type}
        if position_ids.ndim != 2 or not (kind == _LONG or _DYNAMIC in str(kind)):
            return super().forward(x, position_ids, **named)
        limit = _limit(self, layer_type)
        length = document_lengths(position_ids)
        length = torch.where(length > limit, limit + 1 if kind == _LONG else length, limit)
        found: list[Tensor] = []
        for one in length.unique().tolist():
            self._forget(layer_type)
            inside = length == one
            made = super().forward(x, torch.where(inside, position_ids, 0), **named)
            found = [torch.where(inside[..., None], new, old) for new, old in zip(made, found or made, strict=True)]
        return tuple(found)

    def _forget(self, layer_type: str | None) -> None:
        """Lets go of the frequencies of a longer text before."""
        prefix = "" if layer_type is None else f"{layer_type}_"
        original = getattr(self, f"{prefix}original_inv_freq", None)
        if original is not None and hasattr(self, "original_max_seq_len"):
            current = getattr(self, f"{prefix}inv_freq")
            self.register_buffer(f"{prefix}inv_freq", original.to(current.device, copy=True), persistent=False)
            setattr(self, f"{prefix}max_seq_len_cached", self.original_max_seq_len)


def document_lengths(position: Int[Tensor, "B T"]) -> Int[Tensor, "B T"]:
    """Of each token the largest position of its document in its row, and one. A document is positions that grow by one."""
    opens = torch.ones_like(position, dtype=torch.bool)
    opens[:, 1:] = position[:, 1:] != position[:, :-1] + 1
    number = opens.flatten().cumsum(0) - 1
    largest = torch.zeros(int(number[-1]) + 1, dtype=position.dtype, device=position.device)
    largest.scatter_reduce_(0, number, position.flatten(), "amax")
    return (largest[number] + 1).view_as(position)


def _limit(module: Any, layer_type: str | None) -> int:
    """The longest text that nothing is changed for."""
    rope = module.config.rope_parameters
    rope = rope if layer_type is None else rope[layer_type]
    if _LONG in _kinds(module) and rope.get("rope_type") == _LONG:
        found = rope.get("original_max_position_embeddings")
        found = found or getattr(module.config, "original_max_position_embeddings", None)
        return int(found or module.config.max_position_embeddings)
    return int(module.original_max_seq_len)


def lengths_named(config: Any) -> list[int]:
    """The lengths that a configuration names for its rotary positions, beyond which they may be made otherwise."""
    written = config.get_text_config().to_dict()
    rope = written.get("rope_parameters") or written.get("rope_scaling") or {}
    inner = [value for value in rope.values() if isinstance(value, dict)] if isinstance(rope, dict) else []
    if not rope:
        return []
    key = "original_max_position_embeddings"
    found = {source.get(key) for source in (written, rope, *inner)}
    return sorted(value for value in found if isinstance(value, int) and value > 1)
