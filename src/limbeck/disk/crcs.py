"""Checksums of rows that are appended: a file beside the rows with their size and the CRC-32 of each.

So what was written before a kill is known to be as it was written when the work goes on. A file of rows without one is of an
earlier version, and is believed.
"""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import UInt32

from limbeck.disk.records import say_unchecked
from limbeck.disk.whole import own_file, writing
from limbeck.errors import BadFolder


class CheckedRows:
    """Rows of ``size`` bytes that are appended to a file, each with its checksum in a file beside it; ``done`` are there."""

    done: int

    def __init__(self, path: Path, size: int) -> None:
        """Looks at what is there. Raises BadFolder where a row is not as it was written."""
        self.path, self._size = path, size
        self._rows: BinaryIO = own_file(path)
        self._sums: BinaryIO = own_file(sums_of(path))
        try:
            self.keep(self._whole())
        except BaseException:
            self._rows.close()
            self._sums.close()
            raise

    def __enter__(self) -> CheckedRows:
        return self

    def __exit__(self, *_: object) -> None:
        with writing(self.path):
            self._rows.close()
            self._sums.close()

    @property
    def sums(self) -> UInt32[np.ndarray, " rows"]:
        """CRC-32 of each row."""
        self._sums.seek(0)
        found: np.ndarray = np.frombuffer(self._sums.read(), "<u4")[1:]
        return found

    def keep(self, rows: int) -> None:
        """Forgets all but the first rows."""
        self.done = rows
        for file, end in ((self._rows, rows * self._size), (self._sums, 4 * (rows + 1))):
            file.truncate(end)
            file.seek(end)

    def add(self, rows: bytes) -> None:
        """Appends whole rows; when this returns, they survive a kill."""
        with writing(self.path):
            self._rows.write(rows)
            self._rows.flush()
            self._sums.write(_sums(rows, self._size).tobytes())
            self._sums.flush()
        self.done += len(rows) // self._size

    def _whole(self) -> int:
        """How many rows are there whole and with their checksums; those of an earlier version get theirs now."""
        there = os.fstat(self._rows.fileno()).st_size // self._size
        known = os.fstat(self._sums.fileno()).st_size // 4 - 1
        if known < 0:
            self._sums.truncate(0)
            self._sums.write(np.uint32(self._size).astype("<u4").tobytes())
            if there:
                say_unchecked(self.path)
            for _ in range(there):
                self._sums.write(_sums(self._rows.read(self._size), self._size).tobytes())
            self._sums.flush()
            return there
        self._sums.seek(0)
        size = int(np.frombuffer(self._sums.read(4), "<u4")[0])
        if size != self._size or (bad := damaged_row(self.path, min(there, known))) is not None:
            what = (
                f"{size} bytes a row are named beside it"
                if size != self._size
                else f"the CRC-32 of row {bad:,} differs"
            )
            raise BadFolder(
                f"{self.path}: it is not as it was written ({what}): remove this file, and its rows are asked again."
            )
        return min(there, known)


def sums_of(path: Path) -> Path:
    """The file with the checksums of a file of rows."""
    return path.with_name(f"{path.name}.crc")


def damaged_row(path: Path, most: int | None = None) -> int | None:
    """The first row that is not as its checksum says, None if all are; what has no checksum yet is left out."""
    sums = np.fromfile(sums_of(path), "<u4")
    size = int(sums[0]) if len(sums) else 0
    with path.open("rb") as file:
        for number, expected in enumerate(sums[1 : None if most is None else most + 1]):
            row = file.read(size)
            if len(row) < size:
                return None if most is None else number
            if zlib.crc32(row) != expected:
                return number
    return None


def _sums(rows: bytes, size: int) -> np.ndarray:
    view = memoryview(rows)
    return np.array([zlib.crc32(view[start : start + size]) for start in range(0, len(rows), size)], "<u4")
