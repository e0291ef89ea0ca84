"""Which number format each tensor of a GGUF file has. What is trained for a format and what is written are of one table.

Vectors, norms and positions stay in float32. A row that is no multiple of a block's 32 numbers is float16. Beside Q4_0 the map
from hidden states to logits is Q8_0, and so is an embedding that serves as that map: four bits ruin it
(ggml-org/llama.cpp#5650).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from limbeck.models.gguf.blocks import BLOCK

KINDS = ("f32", "f16", "bf16", "q8_0", "q4_0")
EMBEDDING, HEAD = "token_embd.weight", "output.weight"
_BYTES = {"f32": 4.0, "f16": 2.0, "bf16": 2.0, "q8_0": 34 / BLOCK, "q4_0": 18 / BLOCK}  # a number


@dataclass(frozen=True)
class Numbers:
    """The number formats of a file: its ``kind``, and whether one tensor is both the embedding and the head."""

    kind: str
    tied: bool

    def of(self, name: str, shape: tuple[int, ...]) -> str:
        """The format of a tensor, by its name in the file and its shape in PyTorch's order: one of `KINDS`."""
        if len(shape) < 2 or name.startswith(("position_embd", "rope_")):
            return "f32"
        if self.kind not in ("q8_0", "q4_0"):
            return self.kind
        if shape[-1] % BLOCK:
            return "f16"
        logits = name == HEAD or (self.tied and name == EMBEDDING)
        return "q8_0" if logits else self.kind


def bytes_of(kind: str, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor of a kind in the file, without padding."""
    return round(math.prod(shape) * _BYTES[kind])
