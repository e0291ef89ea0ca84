"""Files of text, packed or not, as bytes and lines: everything is streamed, and no line is longer than memory is sure to hold.

Text is decoded line by line from bytes, because an error must name the byte in the file, and a decoder that works in blocks only
knows the byte in the block.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow as pa

from limbeck.errors import BadCorpus, BadRecord

BOM = "\ufeff"
PACKED = (".gz", ".zst")
LONGEST = 1 << 30  # bytes of one line, or of a file that is read whole: a packed file may hold any number


def kind_of(path: Path) -> str:
    """The ending that says what a file holds, in small letters and without that of its packing: .jsonl of a.JSONL.gz."""
    return unpacked(path).suffix.lower()


def unpacked(path: Path) -> Path:
    """The name of a file without the ending of its packing."""
    return path.with_suffix("") if path.suffix.lower() in PACKED else path


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """A file's bytes, unpacked. Raises BadCorpus for what the system or an unpacker says, at the place where it is met."""
    try:
        with _stream(path) as file:
            yield file
    except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
        reason = str(getattr(error, "strerror", None) or error).strip().split("\n")[0]
        raise BadCorpus(f"{path}: expected a file that can be read, got: {reason}: copy it again") from None


def _stream(path: Path) -> BinaryIO:
    packing = path.suffix.lower()
    if packing == ".gz":
        return cast(BinaryIO, gzip.open(path, "rb"))
    if packing == ".zst":
        return io.BufferedReader(pa.input_stream(str(path), compression="zstd"), 1 << 16)
    return path.open("rb")


def lines_of(path: Path) -> Iterator[tuple[int, str | BadRecord]]:
    """Line numbers from 1 and the lines of a UTF-8 file, ends and all, without a byte order mark.

    A line that is no UTF-8 is a BadRecord that names the byte. Raises BadCorpus where one is longer than `LONGEST`.
    """
    offset = number = 0
    with opened(path) as file:
        while line := file.readline(LONGEST + 1):
            number += 1
            if len(line) > LONGEST:
                raise BadCorpus(
                    f"{path}:{number}: expected lines of at most {LONGEST:,} bytes, got a longer one: is it text at all?"
                )
            yield number, _decoded(line, offset, f"{path}:{number}", first=number == 1)
            offset += len(line)


def whole_text(path: Path) -> str:
    """All of a UTF-8 file. Raises BadCorpus where it is longer than `LONGEST`, or no UTF-8."""
    with opened(path) as file:
        content = file.read(LONGEST + 1)
    if len(content) > LONGEST:
        raise BadCorpus(
            f"{path}: expected at most {LONGEST:,} bytes in a file that is read whole, got more: write it as JSON lines"
        )
    text = _decoded(content, 0, str(path), first=False)
    if isinstance(text, BadRecord):
        raise BadCorpus(str(text))
    return text


def _decoded(line: bytes, offset: int, where: str, *, first: bool) -> str | BadRecord:
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        return BadRecord(
            f"{where}: expected UTF-8, got byte 0x{line[error.start]:02X} at byte {offset + error.start}: "
            "convert the file, e.g. with iconv -t UTF-8"
        )
    return text.removeprefix(BOM) if first else text
