"""Reading documents out of files: plain text, JSON lines, Parquet.

Everything is streamed. Text is decoded line by line from bytes, because an error must name the byte in the file, and a
decoder that works in blocks only knows the byte in the block.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from limbeck.corpora.document import Document, from_record, from_text
from limbeck.errors import BadCorpus

SEPARATOR = "<|endoftext|>"
BOM = "\ufeff"


def read_text(path: Path, name: str) -> Iterator[Document]:
    """One document a file, or several where lines that are exactly ``<|endoftext|>`` separate them.

    A lone document keeps its name and every character; a separated one is called by its first line and loses the line
    breaks around it.
    """
    lines: list[str] = []
    start, separated = 1, False
    for number, line in _lines(path):
        if line.rstrip("\r\n") != SEPARATOR:
            lines.append(line)
            continue
        yield from _separated(lines, f"{name}:{start}", path)
        lines, start, separated = [], number + 1, True
    if separated:
        yield from _separated(lines, f"{name}:{start}", path)
    else:
        document = from_text("".join(lines), name=name, where=str(path))
        if document is not None:
            yield document


def read_jsonl(path: Path, name: str) -> Iterator[Document]:
    """One JSON object a line, with ``text`` or ``messages``; blank lines and blank texts are passed over."""
    for number, line in _lines(path):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            raise BadCorpus(
                f"{where}: expected one JSON object a line, got {line.strip()[:60]!r} ({reason}): repair or remove it"
            ) from None
        if not isinstance(record, dict):
            raise BadCorpus(
                f"{where}: expected an object with 'text' or 'messages', got {line.strip()[:60]!r}: repair or remove it"
            )
        document = from_record(record, name=f"{name}:{number}", where=where)
        if document is not None:
            yield document


def read_parquet(path: Path, name: str) -> Iterator[Document]:
    """One document a row, from the column ``messages`` or ``text``, a row group at a time."""
    try:
        with pq.ParquetFile(path) as file:
            column = text_column(file.schema_arrow.names, str(path))
            row = 0
            for batch in file.iter_batches(batch_size=1024, columns=[column]):
                for value in batch.column(0).to_pylist():
                    row += 1
                    document = from_record({column: value}, name=f"{name}:{row}", where=f"{path}, row {row}")
                    if document is not None:
                        yield document
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise BadCorpus(
            f"{path}: expected a Parquet file, got one that cannot be read ({_first_line(error)})"
        ) from None


def text_column(names: list[str], where: str) -> str:
    """The column that holds the documents."""
    for column in ("messages", "text"):
        if column in names:
            return column
    columns = ", ".join(map(repr, names)) or "none"
    raise BadCorpus(
        f"{where}: expected a column 'text' or 'messages', got {columns}: rename the one that holds the text"
    )


READERS: dict[str, Callable[[Path, str], Iterator[Document]]] = {
    ".txt": read_text,
    ".jsonl": read_jsonl,
    ".parquet": read_parquet,
}


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Line numbers from 1 and the lines of a UTF-8 file, ends and all, without a byte order mark."""
    offset = 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                yield number, _decoded(line, offset, path).removeprefix(BOM if number == 1 else "")
                offset += len(line)
    except OSError as error:
        raise BadCorpus(f"{path}: expected a file that can be read, got: {error.strerror}") from None


def _decoded(line: bytes, offset: int, path: Path) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise BadCorpus(
            f"{path}: expected UTF-8, got byte 0x{line[error.start]:02X} at byte {offset + error.start}: "
            "convert the file, e.g. with iconv -t UTF-8"
        ) from None


def _separated(lines: list[str], name: str, path: Path) -> Iterator[Document]:
    document = from_text("".join(lines).strip("\r\n"), name=name, where=str(path))
    if document is not None:
        yield document


def _first_line(error: Any) -> str:
    return str(error).strip().split("\n")[0]
