"""Rotary positions whose frequencies depend on the length of the text, chosen separately for each document.

Transformers chooses LongRoPE's factors, and scales dynamic NTK, by the largest position of the whole batch; the latter also by
earlier batches. A short document would then change with the other documents in its row. Here the module runs once for each
length that makes a difference, with the positions of documents of that length. The result is that of Transformers for each
document alone. Formulas: LongRoPE arXiv 2402.13753; dynamic NTK as in transformers/modeling_rope_utils.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

_LONG, _DYNAMIC = "longrope", "dynamic"


def choose_by_document(model: nn.Module) -> None:
    """Changes in place every rotary module that depends on the text's length, so that it uses each document's length."""
    for module in model.modules():
        kinds = _kinds(module)
        if any(kind == _LONG or _DYNAMIC in kind for kind in kinds) and not isinstance(module, _ByDocument):
            module.__class__ = type(type(module).__name__, (_ByDocument, type(module)), {})


def _kinds(module: nn.Module) -> list[str]:
    """The kinds of rotary positions of a module: one, or one for each type of layer."""
    kind = getattr(module, "rope_type", None)
    return [str(k) for k in (kind.values() if isinstance(kind, Mapping) else [kind]) if k]


class _ByDocument(nn.Module):
    """Mixed in before the class of a rotary module: calls its forward once for each length of documents."""

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
        """Resets the frequencies that an earlier, longer text has set."""
        prefix = "" if layer_type is None else f"{layer_type}_"
        original = getattr(self, f"{prefix}original_inv_freq", None)
        if original is not None and hasattr(self, "original_max_seq_len"):
            current = getattr(self, f"{prefix}inv_freq")
            self.register_buffer(f"{prefix}inv_freq", original.to(current.device, copy=True), persistent=False)
            setattr(self, f"{prefix}max_seq_len_cached", self.original_max_seq_len)


def document_lengths(position: Int[Tensor, "B T"]) -> Int[Tensor, "B T"]:
    """For each token (B, T) its document's largest position in the row plus 1. Positions of a document grow by one."""
    opens = torch.ones_like(position, dtype=torch.bool)
    opens[:, 1:] = position[:, 1:] != position[:, :-1] + 1
    number = opens.flatten().cumsum(0) - 1
    largest = torch.zeros(int(number[-1]) + 1, dtype=position.dtype, device=position.device)
    largest.scatter_reduce_(0, number, position.flatten(), "amax")
    return (largest[number] + 1).view_as(position)


def _limit(module: Any, layer_type: str | None) -> int:
    """The longest text for which the frequencies do not change."""
    rope = module.config.rope_parameters
    rope = rope if layer_type is None else rope[layer_type]
    if _LONG in _kinds(module) and rope.get("rope_type") == _LONG:
        found = rope.get("original_max_position_embeddings")
        found = found or getattr(module.config, "original_max_position_embeddings", None)
        return int(found or module.config.max_position_embeddings)
    return int(module.original_max_seq_len)


def lengths_named(config: Any) -> list[int]:
    """The lengths in a configuration beyond which its rotary positions may be computed differently, ascending."""
    written = config.get_text_config().to_dict()
    rope = written.get("rope_parameters") or written.get("rope_scaling") or {}
    inner = [value for value in rope.values() if isinstance(value, dict)] if isinstance(rope, dict) else []
    if not rope:
        return []
    key = "original_max_position_embeddings"
    found = {source.get(key) for source in (written, rope, *inner)}
    return sorted(value for value in found if isinstance(value, int) and value > 1)
