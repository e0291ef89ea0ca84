"""Whether a model's head is its embedding: read from the weights, which a config.json may contradict.

Some checkpoints keep ``tie_word_embeddings`` from what they were trained out of and hold another head all the same. What
the file holds is what the model computes with, so every reader of a configuration asks here. Headers and as many bytes as
differ first are read, and no torch.
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
    """Whether the weights in a folder hold an output head whose bytes are not the embedding's.

    False where there are no weights, or none that can be read: whoever loads them says what is wrong.
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
