"""Bytes of a decoder's weights in the number format of a file, counted from its axes, without torch.

A folder holds every number in one format. A GGUF file follows `models.gguf.numbers`: vectors stay in float32, rows that are no
multiple of 32 numbers in float16, and beside q4_0 the output map is q8_0. Headers, configuration and tokenizer are not counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from limbeck.models.anatomy import HEAD, Anatomy, Axes, Sizes
from limbeck.models.gguf.numbers import BLOCK, BLOCKED, EMBEDDING, KINDS, POSITIONS, Numbers
from limbeck.models.gguf.numbers import HEAD as OUTPUT

FOLDER = {"float32": 4, "bfloat16": 2, "float16": 2}  # bytes a number of a folder's formats
FORMATS = (*FOLDER, *KINDS)
# Bytes of 32 numbers; a block of q8_0 or q4_0 begins with its scale in float16.
_OF_BLOCK = {"f32": 128, "f16": 64, "bf16": 64, "q8_0": 34, "q4_0": 18}


def weight_bytes(anatomy: Anatomy, sizes: Sizes, kind: str, *, even: bool = False) -> Any:
    """Bytes of the weights of a decoder of these sizes, which may be arrays that broadcast, in one of `FORMATS`.

    ``even`` counts as if all rows were multiples of 32 numbers, and then rises with every size, which need not be whole.
    """
    numbers = None if kind in FOLDER else Numbers(kind, anatomy.tied)

    def counted(tensors: Mapping[str, Axes], *, transposed: bool = False) -> Any:
        total: Any = 0
        for name, axes in tensors.items():
            lengths = [sizes.of(axis) for axis in axes]
            if numbers is None:
                total = total + _product(lengths) * FOLDER[kind]
                continue
            row = lengths[0] if transposed and len(axes) == 2 else lengths[-1]
            whole, odd = numbers.kinds(_place(name, axes), len(axes))
            total = total + _stored(_product(lengths), row, whole, odd, even=even)
        return total

    inside = counted(anatomy.inside, transposed=anatomy.kind.transposed)
    return counted(anatomy.outside) + sizes.layers * inside


def bytes_of(anatomy: Anatomy, kind: str) -> int:
    """Bytes of the weights of a decoder."""
    return int(weight_bytes(anatomy, anatomy.sizes, kind))


def in_blocks(kind: str) -> bool:
    """Whether numbers of a format share scales, so that rows of whole blocks are worth more."""
    return kind in BLOCKED


def _product(lengths: list[Any]) -> Any:
    product: Any = 1
    for length in lengths:
        product = product * length
    return product


def _stored(elements: Any, row: Any, whole: str, odd: str, *, even: bool) -> Any:
    if even or whole == odd:
        return elements * (_OF_BLOCK[whole] / BLOCK) if even else elements * (_OF_BLOCK[whole] // BLOCK)
    in_odd = elements * (_OF_BLOCK[odd] // BLOCK)
    return np.where(np.asarray(row) % BLOCK, in_odd, elements // BLOCK * _OF_BLOCK[whole])


def _place(name: str, axes: Axes) -> str:
    """The name in a GGUF file of what has a format of its own; inside a layer nothing has."""
    if name == HEAD:
        return OUTPUT
    return {"vocab": EMBEDDING, "position": POSITIONS}.get(axes[0], name)
