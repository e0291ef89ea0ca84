"""Finds from the weights whether a model's head is tied to its embedding. A config.json may be wrong about it.

Some checkpoints keep ``tie_word_embeddings`` of the model they were trained from, although they contain another head. The
model computes with the stored head, so every reader of a configuration calls `has_own_head`. It reads headers, and data up to
the first difference; torch is not loaded.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from limbeck.errors import BadModel
from limbeck.models.source import Stored, stored_tensors

_HEADS = ("lm_head.weight", "embed_out.weight")
_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight", "embeddings.weight")
_CHUNK = 2**22  # bytes compared at a time


def has_own_head(folder: Path) -> bool:
    """Whether the weights in a folder contain an output head that differs from the embedding.

    False where weights are missing or cannot be read; loading them reports the fault.
    """
    with suppress(BadModel, OSError):
        tensors = stored_tensors(folder)
        head = next((tensors[name] for name in _HEADS if name in tensors), None)
        embedding = next((tensor for name, tensor in tensors.items() if name.endswith(_EMBEDDINGS)), None)
        return head is not None and embedding is not None and not _same(head, embedding)
    return False


def _same(a: Stored, b: Stored) -> bool:
    """Whether two stored tensors have the same format, shape and bytes."""
    if (a.dtype, a.shape, a.bytes) != (b.dtype, b.shape, b.bytes):
        return False
    with a.file.open("rb") as one, b.file.open("rb") as other:
        one.seek(a.start)
        other.seek(b.start)
        left = a.bytes
        while left:
            size = min(left, _CHUNK)
            if one.read(size) != other.read(size):
                return False
            left -= size
    return True
