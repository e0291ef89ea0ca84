"""Checksums of appended rows: a file beside the rows with their size and the CRC-32 of each row.

They show that rows written before a kill are undamaged when the work continues. A file of rows without checksums is from an
earlier version; its rows are accepted.
"""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import UInt32

from limbeck.disk.records import warn_unchecked
from limbeck.disk.whole import open_in_place, writing
from limbeck.errors import BadFolder


class CheckedRows:
    """Appends rows of ``size`` bytes to a file, and the checksum of each to a file beside it. ``done`` counts the rows."""

    done: int

    def __init__(self, path: Path, size: int) -> None:
        """Checks the existing rows. Raises BadFolder where a row is damaged or the size differs."""
        self.path, self._size = path, size
        self._rows: BinaryIO = open_in_place(path)
        self._sums: BinaryIO = open_in_place(sums_of(path))
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
        """Removes all rows after the first ``rows``."""
        self.done = rows
        for file, end in ((self._rows, rows * self._size), (self._sums, 4 * (rows + 1))):
            file.truncate(end)
            file.seek(end)

    def add(self, rows: bytes) -> None:
        """Appends whole rows, which survive a kill of the process afterwards. Raises BadFolder where the disk is full."""
        with writing(self.path):
            self._rows.write(rows)
            self._rows.flush()
            self._sums.write(_sums(rows, self._size).tobytes())
            self._sums.flush()
        self.done += len(rows) // self._size

    def _whole(self) -> int:
        """Counts the complete rows with a checksum. Rows of an earlier version get their checksums now."""
        there = os.fstat(self._rows.fileno()).st_size // self._size
        known = os.fstat(self._sums.fileno()).st_size // 4 - 1
        if known < 0:
            self._sums.truncate(0)
            self._sums.write(np.uint32(self._size).astype("<u4").tobytes())
            if there:
                warn_unchecked(self.path)
            for _ in range(there):
                self._sums.write(_sums(self._rows.read(self._size), self._size).tobytes())
            self._sums.flush()
            return there
        self._sums.seek(0)
        size = int(np.frombuffer(self._sums.read(4), "<u4")[0])
        if size != self._size or (bad := damaged_row(self.path, min(there, known))) is not None:
            what = (
                f"expected {self._size} bytes a row, the file beside it declares {size}"
                if size != self._size
                else f"the CRC-32 of row {bad:,} differs"
            )
            raise BadFolder(
                f"{self.path}: the file is damaged ({what}): remove it, and run the command again to compute its rows."
            )
        return min(there, known)


def sums_of(path: Path) -> Path:
    """The file with the checksums of a file of rows."""
    return path.with_name(f"{path.name}.crc")


def damaged_row(path: Path, most: int | None = None) -> int | None:
    """The number of the first damaged row among the first ``most``, None if none is. Rows without a checksum are skipped."""
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
