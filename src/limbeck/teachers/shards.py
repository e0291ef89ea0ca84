"""Files of answers: Arrow files of rows of packed outcomes, each row with its CRC-32, and what a manifest says of each file."""

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

_UNANSWERED = b"unanswered"  # positions, in a file's metadata


class Shard(TypedDict):
    """What a manifest says of a file: its name, its first row, and how many rows it has; of earlier versions no more."""

    file: Bare
    first: Count
    rows: Annotated[int, Meta(gt=0, lt=2**53)]
    unanswered: NotRequired[Count]
    sha256: NotRequired[str]


def name_of(first: int) -> str:
    """The name of the file that begins with this row."""
    return f"answers-{first:012d}.arrow"


def write_shard(
    raw: UInt8[np.ndarray, "rows bytes"], file: Path, codec: Codec, sums: UInt32[np.ndarray, " rows"], first: int
) -> Shard:
    """Makes a file of rows of packed answers, each with the checksum that it had when it was answered."""
    rows, size = raw.shape
    answers = pa.Array.from_buffers(pa.binary(size), rows, [None, pa.py_buffer(raw)])
    batch = pa.record_batch({"answers": answers, "crc32": pa.array(sums, pa.uint32())})
    unanswered = sum(int(codec.unanswered(row.reshape(-1, codec.bytes)).sum()) for row in raw)
    batch = batch.replace_schema_metadata({_UNANSWERED: str(unanswered)})
    with replacing(file) as beside, pa.OSFile(str(beside), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return shard_of(file, first, rows)


def shard_of(file: Path, first: int, rows: int) -> Shard:
    """What a manifest says of a file that is whole."""
    return {
        "file": file.name,
        "first": first,
        "rows": rows,
        "unanswered": missing_in(file),
        "sha256": sha256_of(file),
    }


def missing_in(file: Path) -> int:
    """Positions without an answer in a file. Raises BadModel where it is damaged."""
    try:
        with pa.memory_map(str(file)) as source:
            return int((pa.ipc.open_file(source).schema.metadata or {}).get(_UNANSWERED, 0))
    except (OSError, pa.ArrowException, ValueError) as error:
        raise BadModel(f"{file}: it is damaged ({error}): remove it, and its rows are asked again") from error


class OpenShard:
    """A file of answers, mapped: ``answers`` (rows, bytes) and their checksums."""

    def __init__(self, folder: Path, shard: Mapping[str, Any], *, size: int) -> None:
        """``size``: bytes a row. Raises BadModel where the file is missing, damaged, or has other rows than ``shard`` says."""
        path = folder / shard["file"]
        try:
            table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
            answers, sums = (table.column(name).chunk(0) for name in ("answers", "crc32"))
            if (answers.type, sums.type) != (pa.binary(size), pa.uint32()):
                raise ValueError(f"its columns are {answers.type} and {sums.type}")
        except (OSError, pa.ArrowException, KeyError, IndexError, ValueError) as error:
            raise BadModel(
                f"{path}: a file of this cache is missing or damaged ({error}): copy it again, or capture the rows "
                f"{shard['first']:,} to {shard['first'] + shard['rows'] - 1:,} anew"
            ) from error
        if len(answers) != shard["rows"]:
            raise BadModel(f"{path}: expected {shard['rows']:,} rows, found {len(answers):,}: copy it again")
        self.path, self.first, self._said = path, int(shard["first"]), shard
        self.answers = np.frombuffer(answers.buffers()[1], np.uint8)[: len(answers) * size].reshape(len(answers), size)
        self._sums = sums.to_numpy()

    def good(self, at: int) -> bool:
        """Whether a row, counted from the first of this file, is as it was written."""
        return zlib.crc32(self.answers[at]) == self._sums[at]

    def damaged(self) -> Iterator[int]:
        """The rows, by their number in the corpus, that are not as they were written; all are read."""
        return (self.first + at for at in range(len(self.answers)) if not self.good(at))

    def verify(self, *, remedy: str) -> None:
        """Reads the file and compares it with its checksums. Raises BadModel where it is damaged."""
        if "sha256" in self._said:
            expected = {self.path.name: self._said["sha256"]}
            check_sums(self.path.parent, expected, error=BadModel, remedy=remedy)
        for row in self.damaged():
            raise BadModel(f"{self.path}: the answers to row {row:,} are damaged: {remedy}")
