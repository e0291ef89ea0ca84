"""The kept indices of structured pruning along every axis of a decoder, including fused ones (see `models.anatomy`)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from limbeck.models.anatomy import Sizes

# Axes that are never pruned; `Sizes` has an attribute of the same name for their length.
_FIXED = ("vocab", "position", "head_dim")


@dataclass(frozen=True)
class Kept:
    """Kept indices, ascending, int64. Those inside layers have one row per kept layer.

    ``vocab`` are the tokens whose rows are read from files that hold more of them (`models.trim`); None: all.
    """

    layers: Int[Tensor, " l"]
    hidden: Int[Tensor, " d"]
    heads: Int[Tensor, "l h"]
    kv_heads: Int[Tensor, "l kv"]
    ffn: Int[Tensor, "l f"]
    vocab: Int[Tensor, " v"] | None = None

    def along(self, axis: str, layer: int, sizes: Sizes) -> Int[Tensor, " n"]:
        """Kept indices of the teacher's tensor along an axis, in the ``layer``-th kept layer. ``sizes`` are the teacher's."""
        d = sizes.head_dim
        match axis:
            case "hidden":
                return self.hidden
            case "ffn":
                return self.ffn[layer]
            case "heads":
                return _channels(self.heads[layer], d)
            case "kv":
                return _channels(self.kv_heads[layer], d)
            case "q|k|v":
                keys = _channels(self.kv_heads[layer], d) + sizes.heads * d
                return torch.cat([_channels(self.heads[layer], d), keys, keys + sizes.kv_heads * d])
            case "qkv per head":
                return _channels(self.heads[layer], 3 * d)
            case "gate|up":
                return torch.cat([self.ffn[layer], self.ffn[layer] + sizes.ffn])
            case "vocab" if self.vocab is not None:
                return self.vocab
        assert axis in _FIXED, f"no axis {axis!r}"
        return torch.arange(sizes.of(axis), device=self.hidden.device)


def _channels(heads: Int[Tensor, " n"], size: int) -> Int[Tensor, " m"]:
    return (heads[:, None] * size + torch.arange(size, device=heads.device)).reshape(-1)
