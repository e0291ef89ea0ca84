"""Loads and releases the parts of a streamed model: weights of its modules, and hidden states between layers.

Files are read and written, not memory-mapped: pages of a mapped file count as this process's memory until the system reclaims
them.
"""

from __future__ import annotations

import ctypes
import json
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from limbeck.disk import writing
from limbeck.errors import BadModel
from limbeck.models.source import Stored

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
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


def read_part(stored: Stored, indices: Sequence[Int[Tensor, " n"]], dtype: torch.dtype) -> Tensor:
    """The given indices along each dimension of a tensor in a file, ascending, in a number format.

    Rows are read in blocks, of which only what is kept stays in memory. Raises BadModel if the file is too short.
    """
    found = torch.empty([len(index) for index in indices], dtype=dtype)
    if not indices:  # a single number
        read_into(found.view(1), stored)
        return found
    width = math.prod(stored.shape[1:])
    step = max(1, _CONVERTED // max(1, width))
    done = 0
    with stored.file.open("rb", buffering=0) as file:
        while done < len(found):
            first = int(indices[0][done])
            rows = indices[0][done : int(torch.searchsorted(indices[0], first + step))] - first
            raw = torch.empty((int(rows[-1]) + 1, *stored.shape[1:]), dtype=DTYPES[stored.dtype])
            file.seek(stored.start + first * width * raw.itemsize)
            _fill(file, raw, stored)
            for dimension, index in enumerate((rows, *indices[1:])):
                raw = raw if len(index) == raw.shape[dimension] else raw.index_select(dimension, index)
            found[done : done + len(rows)] = raw
            done += len(rows)
    return found


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


def write_tensors(
    file: Path, shapes: Mapping[str, Sequence[int]], read: Callable[[str], Tensor], dtype: torch.dtype
) -> bool:
    """Writes a safetensors file tensor by tensor, byte by byte as the library writes it; ``read`` gives each by name.

    False, with an unfinished file, where a finite value is outside the range of ``dtype``.
    """
    names, end = sorted(shapes), 0
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    for name in names:
        start, end = end, end + math.prod(shapes[name]) * dtype.itemsize
        header[name] = {"dtype": NAMES[dtype], "shape": list(shapes[name]), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb", buffering=0) as out:
        _empty_into(out, memoryview(len(text).to_bytes(8, "little") + text))
        for name in names:
            values = read(name).to(dtype).contiguous()
            if not all(torch.isfinite(some).all() for some in values.reshape(-1).split(_CONVERTED)):
                return False
            _empty_into(out, _bytes(values))
    return True


def _empty_into(file: Any, view: memoryview) -> None:
    while view:
        view = view[file.write(view) :]


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
            _empty_into(self._file, view)

    def close(self) -> None:
        """Releases memory and file."""
        self._kept = []
        if self._file is not None:
            self._file.close()
