"""Shards of a logit cache: Arrow files of rows of packed outcomes, each row with its CRC-32, and their manifest entries."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

import numpy as np
import pyarrow as pa
from jaxtyping import UInt8, UInt32
from msgspec import Meta

from limbeck.disk import Bare, Count, check_sums, replacing, sha256_of
from limbeck.errors import BadModel
from limbeck.teachers.codec import Codec

_MISSING = b"unanswered"  # positions, in a file's metadata


class Shard(TypedDict):
    """The manifest entry of a file: its name, first row and number of rows.

    ``unanswered`` is how many positions have no target. Earlier versions wrote neither that nor a checksum.
    """

    file: Bare
    first: Count
    rows: Annotated[int, Meta(gt=0, lt=2**53)]
    unanswered: NotRequired[Count]
    sha256: NotRequired[str]


def name_of(first: int) -> str:
    """The name of the file whose first row is ``first``."""
    return f"answers-{first:012d}.arrow"


def write_shard(
    raw: UInt8[np.ndarray, "rows bytes"], file: Path, codec: Codec, sums: UInt32[np.ndarray, " rows"], first: int
) -> Shard:
    """Writes packed rows with their CRC-32 (``sums``, computed at the capture) into ``file``; gives its manifest entry.

    Raises BadFolder if it cannot be written.
    """
    rows, size = raw.shape
    packed = pa.Array.from_buffers(pa.binary(size), rows, [None, pa.py_buffer(raw)])
    batch = pa.record_batch({"answers": packed, "crc32": pa.array(sums, pa.uint32())})
    missing = sum(int(codec.missing(row.reshape(-1, codec.bytes)).sum()) for row in raw)
    batch = batch.replace_schema_metadata({_MISSING: str(missing)})
    with replacing(file) as beside, pa.OSFile(str(beside), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return shard_of(file, first, rows)


def shard_of(file: Path, first: int, rows: int) -> Shard:
    """The manifest entry of a complete file. Raises BadModel if it is damaged."""
    return {
        "file": file.name,
        "first": first,
        "rows": rows,
        "unanswered": missing_in(file),
        "sha256": sha256_of(file),
    }


def missing_in(file: Path) -> int:
    """How many positions of a file have no target. Raises BadModel if it is damaged."""
    try:
        with pa.memory_map(str(file)) as source:
            return int((pa.ipc.open_file(source).schema.metadata or {}).get(_MISSING, 0))
    except (OSError, pa.ArrowException, ValueError) as error:
        raise BadModel(f"{file}: it is damaged ({error}): remove it; the next run captures its rows again") from error


class OpenShard:
    """A memory-mapped shard: ``packed`` (rows, bytes) and the checksum of each row."""

    def __init__(self, folder: Path, shard: Mapping[str, Any], *, size: int) -> None:
        """``size`` is bytes a row. Raises BadModel if the file is missing or damaged, or has other rows than ``shard`` lists."""
        path = folder / shard["file"]
        try:
            table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
            packed, sums = (table.column(name).chunk(0) for name in ("answers", "crc32"))
            if (packed.type, sums.type) != (pa.binary(size), pa.uint32()):
                raise ValueError(f"its columns are {packed.type} and {sums.type}")
        except (OSError, pa.ArrowException, KeyError, IndexError, ValueError) as error:
            raise BadModel(
                f"{path}: a file of this cache is missing or damaged ({error}): copy it again, or capture the rows "
                f"{shard['first']:,} to {shard['first'] + shard['rows'] - 1:,} anew"
            ) from error
        if len(packed) != shard["rows"]:
            raise BadModel(f"{path}: expected {shard['rows']:,} rows, found {len(packed):,}: copy it again")
        self.path, self.first, self._facts = path, int(shard["first"]), shard
        self.packed = np.frombuffer(packed.buffers()[1], np.uint8)[: len(packed) * size].reshape(len(packed), size)
        self._sums = sums.to_numpy()

    def good(self, at: int) -> bool:
        """Whether a row, counted from the first of this file, matches its checksum."""
        return zlib.crc32(self.packed[at]) == self._sums[at]

    def damaged(self) -> Iterator[int]:
        """The rows, by their number in the corpus, that do not match their checksum. Reads all rows."""
        return (self.first + at for at in range(len(self.packed)) if not self.good(at))

    def verify(self, *, remedy: str) -> None:
        """Reads the file and compares it with its checksums. Raises BadModel, ending in ``remedy``, if it is damaged."""
        if "sha256" in self._facts:
            expected = {self.path.name: self._facts["sha256"]}
            check_sums(self.path.parent, expected, error=BadModel, remedy=remedy)
        for row in self.damaged():
            raise BadModel(f"{self.path}: the logits of row {row:,} do not match their checksum: {remedy}")
