"""Loads and releases the parts of a streamed model: weights of its modules, and hidden states between layers.

Files are read and written, not memory-mapped: pages of a mapped file count as this process's memory until the system reclaims
them.
"""

from __future__ import annotations

import ctypes
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from limbeck.disk import writing
from limbeck.errors import BadModel
from limbeck.models.source import Stored

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
ALIGNED = 64  # tensors in a buffer begin at multiples of this many bytes
_CONVERTED = 2**20  # numbers of a tensor read at once where their format changes


@dataclass(frozen=True)
class Part:
    """A module whose weights are loaded and released. By name in the module: the name in the model, and the stored tensor."""

    module: nn.Module
    names: Mapping[str, str]
    stored: Mapping[str, Stored]

    @classmethod
    def of(cls, module: nn.Module, prefix: str, tensors: Mapping[str, Stored]) -> Part:
        """The part of a ``module``, whose tensors have this ``prefix`` in the model."""
        names = {name.removeprefix(f"{prefix}."): name for name in tensors if name.startswith(f"{prefix}.")}
        return cls(module, names, {local: tensors[name] for local, name in names.items()})

    def bytes(self, dtype: torch.dtype) -> int:
        """Bytes of a buffer for all its tensors."""
        sizes = (math.prod(stored.shape) * dtype.itemsize for stored in self.stored.values())
        return sum(-(-size // ALIGNED) * ALIGNED for size in sizes)

    @contextmanager
    def holding(self, values: Mapping[str, Tensor], device: torch.device) -> Iterator[None]:
        """Loads the weights, tensors by their names in the module, and releases them at the end."""
        empty = [(module, dict(module._parameters), dict(module._buffers)) for module in self.module.modules()]
        self.module.load_state_dict({n: t.to(device) for n, t in values.items()}, strict=False, assign=True)
        try:
            yield
        finally:
            for module, parameters, buffers in empty:  # the same objects as before, so that tied ones are tied again
                module._parameters.update(parameters)
                module._buffers.update(buffers)


def give_back() -> None:
    """Returns freed memory to the system, where the allocator is glibc's, which otherwise holds up to 64 MiB."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def read_into(target: Tensor, stored: Stored) -> None:
    """Fills a flat tensor (elements,) from a file, converted to its number format. Raises BadModel if the file is too short."""
    dtype = DTYPES[stored.dtype]
    with stored.file.open("rb", buffering=0) as file:
        file.seek(stored.start)
        if dtype == target.dtype:
            _fill(file, target, stored)
            return
        for part in target.split(_CONVERTED):
            raw = torch.empty(part.numel(), dtype=dtype)
            _fill(file, raw, stored)
            part.copy_(raw)


def _fill(file: Any, target: Tensor, stored: Stored) -> None:
    view = _bytes(target)
    while view:
        count = file.readinto(view)
        if not count:
            raise BadModel(
                f"{stored.file}: the file ended in the middle of a tensor of {stored.bytes:,} bytes; copy it again"
            )
        view = view[count:]


def _bytes(tensor: Tensor) -> memoryview:
    """The memory of a tensor on the host."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data


class States:
    """Hidden states of a block between two layers, in host memory or in a temporary file in the folder ``spill``."""

    def __init__(self, shapes: Sequence[tuple[int, int, int]], dtype: torch.dtype, spill: Path | None) -> None:
        self._shapes, self._dtype, self._spill = shapes, dtype, spill
        sizes = [math.prod(shape) * dtype.itemsize for shape in shapes]
        self._starts = [sum(sizes[:i]) for i in range(len(sizes))]
        self._kept: list[Tensor] = []
        self._file: Any = None
        if spill is None:
            self._kept = [torch.empty(shape, dtype=dtype) for shape in shapes]
        else:
            with writing(spill):
                self._file = tempfile.TemporaryFile(dir=spill, buffering=0)  # noqa: SIM115 (closed by close)

    def get(self, number: int, rows: slice) -> Float[Tensor, "B T D"]:
        """Some rows of a batch, on the host."""
        if self._file is None:
            return self._kept[number][rows]
        shape = self._shapes[number]
        count = len(range(*rows.indices(shape[0])))
        found = torch.empty((count, *shape[1:]), dtype=self._dtype)
        self._file.seek(self._starts[number] + rows.start * math.prod(shape[1:]) * self._dtype.itemsize)
        view = _bytes(found)
        while view:
            view = view[self._file.readinto(view) :]
        return found

    def put(self, number: int, rows: slice, hidden: Float[Tensor, "B T D"]) -> None:
        """Stores some rows of a batch. Raises BadFolder where the disk is full."""
        if self._file is None:
            self._kept[number][rows] = hidden
            return
        assert self._spill is not None
        self._file.seek(self._starts[number] + rows.start * math.prod(self._shapes[number][1:]) * self._dtype.itemsize)
        view = _bytes(hidden.contiguous().cpu())
        with writing(self._spill):
            while view:
                view = view[self._file.write(view) :]

    def close(self) -> None:
        """Releases memory and file."""
        self._kept = []
        if self._file is not None:
            self._file.close()
