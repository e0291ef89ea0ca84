"""Which number format each tensor of a GGUF file has. What is written and what is trained for a format are of this one table.

Vectors and norms stay in float32. A row that is no multiple of a block's 32 numbers is float16. Beside Q4_0 the map from hidden
states to logits is Q8_0, and so is an embedding that serves as that map: four bits ruin it (ggml-org/llama.cpp#5650).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

BLOCK = 32  # numbers that share a scale
KINDS = ("f32", "f16", "bf16", "q8_0", "q4_0")
BLOCKED = ("q8_0", "q4_0")  # those whose numbers share scales
EMBEDDING, HEAD, POSITIONS = "token_embd.weight", "output.weight", "position_embd"
_FILE_TYPES = {
    "f32": "ALL_F32",
    "f16": "MOSTLY_F16",
    "bf16": "MOSTLY_BF16",
    "q8_0": "MOSTLY_Q8_0",
    "q4_0": "MOSTLY_Q4_0",
}


@dataclass(frozen=True)
class Numbers:
    """The number formats of a file: its ``kind``, and whether one tensor is both the embedding and the head."""

    kind: str
    tied: bool

    @property
    def file_type(self) -> int:
        """general.file_type: what most numbers are."""
        from gguf import LlamaFileType

        return int(LlamaFileType[_FILE_TYPES[self.kind]].value)

    def of(self, name: str, shape: tuple[int, ...]) -> str:
        """The format of a tensor, by its name in the file and its shape in PyTorch's order: one of `KINDS`."""
        whole, odd = self.kinds(name, len(shape))
        return odd if shape and shape[-1] % BLOCK else whole

    def kinds(self, name: str, rank: int) -> tuple[str, str]:
        """The format of a tensor of so many dimensions where its rows are whole blocks, and where they are not."""
        if rank < 2 or name.startswith((POSITIONS, "rope_")):
            return "f32", "f32"
        if self.kind not in BLOCKED:
            return self.kind, self.kind
        logits = name == HEAD or (self.tied and name == EMBEDDING)
        return "q8_0" if logits else self.kind, "f16"


def type_of(kind: str) -> Any:
    """The type of `gguf` for a kind."""
    from gguf import GGMLQuantizationType

    return GGMLQuantizationType[kind.upper()]


def size_of(kind: str, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor in the file."""
    from gguf.constants import GGML_QUANT_SIZES

    block, stored = GGML_QUANT_SIZES[type_of(kind)]
    return int(np.prod(shape, dtype=np.int64)) // block * stored
