"""The bytes of a tensor of a GGUF file: those of `gguf.quants`, the reference.

Quantised are the numbers in float32, by the rules of `gguf.quants`; a training that imitates them (`models.gguf.quantiser`) meets
exactly what is stored.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from limbeck.errors import BadModel
from limbeck.models.gguf.numbers import type_of


def stored(name: str, values: Float[np.ndarray, "..."], kind: str) -> np.ndarray:
    """The bytes of a tensor. Raises BadModel for numbers that are none, or beyond the range of the format."""
    from gguf.quants import quantize

    values = np.ascontiguousarray(values, dtype=np.float32)
    largest = float(np.abs(values).max(initial=0.0))
    most = float(np.finfo(np.float16).max)
    scaled = {"q8_0": most * 127, "q4_0": most * 8, "f16": most}.get(kind, float(np.finfo(np.float32).max))
    if not largest <= scaled:
        raise BadModel(
            f"{name}: holds {largest:.4g}, expected finite numbers up to {scaled:.4g}, the range of {kind}; export gguf:bf16 or "
            "gguf:f32"
        )
    found: np.ndarray = quantize(values, type_of(kind))
    return found
