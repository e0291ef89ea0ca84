"""Streams text files, compressed or not, as bytes and lines with a limit on their length.

Text is decoded line by line, because errors name the byte in the file. A decoder that works in blocks knows only the byte in
the block.
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
LONGEST = 1 << 30  # bytes of one line, or of a file read at once; a compressed file may contain any number


def kind_of(path: Path) -> str:
    """The lower-case extension of a file without that of its compression: .jsonl for a.JSONL.gz."""
    return unpacked(path).suffix.lower()


def unpacked(path: Path) -> Path:
    """The name of a file without the extension of its compression."""
    return path.with_suffix("") if path.suffix.lower() in PACKED else path


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """A file's decompressed bytes. Raises BadCorpus where the system or the decompressor fails, also while reading."""
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
    """Line numbers from 1 and the lines of a UTF-8 file with their line feeds, without a byte order mark.

    A line that is not UTF-8 is given as a BadRecord that names the byte. Raises BadCorpus where the file cannot be read or a
    line is longer than `LONGEST`.
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
    """The content of a UTF-8 file. Raises BadCorpus where it is longer than `LONGEST`, or not UTF-8."""
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
