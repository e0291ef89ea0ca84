"""Streams text files, here or elsewhere, compressed or not, as bytes and lines with a limit on their length.

Text is decoded line by line, because errors name the byte in the file. A decoder that works in blocks knows only the byte in
the block.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePath
from typing import BinaryIO, TypeVar, cast

import pyarrow as pa

from limbeck.corpora.remote import RemoteFile
from limbeck.errors import BadCorpus, BadRecord, LimbeckError, first_line

File = Path | RemoteFile
Anywhere = TypeVar("Anywhere", bound=PurePath)

BOM = "\ufeff"
PACKED = (".gz", ".zst")
_FAULTS = (OSError, EOFError, zlib.error, pa.ArrowException)  # of a system, a decompressor, or a table's reader
LONGEST = 1 << 30  # bytes of one line, or of a file read at once; a compressed file may contain any number


def kind_of(path: File) -> str:
    """The lower-case extension of a file without that of its compression: .jsonl for a.JSONL.gz."""
    return unpacked(PurePath(path.name)).suffix.lower()


def unpacked(path: Anywhere) -> Anywhere:
    """The name of a file without the extension of its compression."""
    return path.with_suffix("") if path.suffix.lower() in PACKED else path


@contextmanager
def opened(path: File) -> Iterator[BinaryIO]:
    """A file's decompressed bytes. Raises BadCorpus where the system or the decompressor fails, also while reading."""
    with readable(path, "a file that can be read, got: {}"), ExitStack() as files:
        yield _stream(path, files)


@contextmanager
def readable(path: File, fault: str) -> Iterator[None]:
    """Raises BadCorpus for what the system, a decompressor or Arrow raises while a file is read, for all of one elsewhere.

    ``fault`` is the message, with a place for the reason.
    """
    try:
        yield
    except LimbeckError:
        raise
    except Exception as error:
        local = isinstance(path, PurePath)
        if local and not isinstance(error, _FAULTS):
            raise
        remedy = "copy it again" if local else "run the same command again, which goes on from what was tokenised"
        reason = getattr(error, "strerror", None) or first_line(error)
        raise BadCorpus(f"{path}: expected {fault.format(reason)}: {remedy}") from None


def _stream(path: File, files: ExitStack) -> BinaryIO:
    packing = path.suffix.lower()
    if packing == ".zst" and isinstance(path, Path):
        return files.enter_context(io.BufferedReader(pa.input_stream(str(path), compression="zstd"), 1 << 16))
    raw = files.enter_context(path.open("rb"))
    if packing == ".gz":
        return cast(BinaryIO, files.enter_context(gzip.GzipFile(fileobj=raw)))
    if packing == ".zst":
        return files.enter_context(io.BufferedReader(pa.input_stream(raw, compression="zstd"), 1 << 16))
    if isinstance(path, RemoteFile):  # most remote files read lines without a limit
        return files.enter_context(io.BufferedReader(cast(io.RawIOBase, raw), 1 << 20))
    return raw


def lines_of(path: File) -> Iterator[tuple[int, str | BadRecord]]:
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


def whole_text(path: File) -> str:
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
