"""Reads documents from files: plain text, JSON lines, JSON, Parquet; text and JSON also compressed with gzip or zstd.

Everything is streamed, except a JSON list. A reader yields the documents of a file, and a BadRecord for each record that cannot
be read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from limbeck.corpora.document import Document
from limbeck.corpora.jsonl import Record, records_of, records_of_json
from limbeck.corpora.records import Columns, from_record, from_text
from limbeck.corpora.streams import LONGEST, File, kind_of, lines_of, readable
from limbeck.errors import BadCorpus, BadRecord

SEPARATOR = "<|endoftext|>"
_PASSAGES = 256  # of a long text, if they are not to be shorter or longer than
_SHORTEST, _LONGEST = 4 << 10, 64 << 10  # characters

Documents = Iterator[Document | BadRecord]


def read_text(path: File, name: str, columns: Columns) -> Documents:
    """The document of a text file, or several where lines that are exactly ``<|endoftext|>`` separate them.

    A single document keeps its name and every character. A separated one is named by its first line, and loses the line breaks
    around it. Raises BadCorpus where the file is not UTF-8, or a document is too long.
    """
    lines: list[str] = []
    start, held, separated = 1, 0, False
    for number, line in lines_of(path):
        if isinstance(line, BadRecord):
            raise BadCorpus(str(line))
        if line.rstrip("\r\n") == SEPARATOR:
            yield from _separated(lines, f"{name}:{start}", path)
            lines, start, held, separated = [], number + 1, 0, True
            continue
        lines.append(line)
        held += len(line)
        if held > LONGEST:
            raise BadCorpus(
                f"{path}:{start}: expected documents of at most {LONGEST:,} characters, got a longer one: separate them by lines "
                f"{SEPARATOR}"
            )
    if separated:
        yield from _separated(lines, f"{name}:{start}", path)
    else:
        yield from _text("".join(lines), name, path)


def read_passages(path: Path, name: str, columns: Columns) -> Documents:
    """As `read_text`, but a text without separators is split into passages at empty lines, so that some can be held out.

    No character is lost. Without empty lines, longer passages end at line breaks. Raises BadCorpus as `read_text` does.
    """
    if any(isinstance(line, str) and line.rstrip("\r\n") == SEPARATOR for _, line in lines_of(path)):
        yield from read_text(path, name, columns)
        return
    least = min(max(path.stat().st_size // _PASSAGES, _SHORTEST), _LONGEST)
    lines: list[str] = []
    held, start = 0, 1
    for number, line in lines_of(path):
        if isinstance(line, BadRecord):
            raise BadCorpus(str(line))
        lines.append(line)
        held += len(line)
        if held >= least and (not line.strip() or held >= 4 * least):
            yield from _passage(lines, f"{name}:{start}", path, goes_on=True)
            lines, held, start = [], 0, number + 1
    yield from _passage(lines, f"{name}:{start}", path, goes_on=False)


def _passage(lines: list[str], name: str, path: File, *, goes_on: bool) -> Documents:
    document = from_text("".join(lines), name=name, where=str(path))
    if document is not None:
        yield replace(document, goes_on=goes_on, form="passages of one text")


def read_jsonl(path: File, name: str, columns: Columns) -> Documents:
    """The documents of a JSON-lines file. Blank lines and blank texts are ignored."""
    for number, record in records_of(path):
        yield from document_of(record, name=f"{name}:{number}", where=f"{path}:{number}", columns=columns)


def read_json_file(path: File, name: str, columns: Columns) -> Documents:
    """The documents of a JSON file: a list of objects, one object, or JSON lines."""
    for number, record in records_of_json(path):
        yield from document_of(record, name=f"{name}:{number}", where=f"{path}, record {number}", columns=columns)


def read_parquet(path: File, name: str, columns: Columns) -> Documents:
    """The documents of a Parquet file, one a row. Only the needed columns are loaded. Raises BadCorpus for a damaged file."""
    with (
        readable(path, "a Parquet file, got one that cannot be read ({})"),
        ExitStack() as files,
    ):
        file = files.enter_context(
            pq.ParquetFile(path if isinstance(path, Path) else files.enter_context(path.open("rb")))
        )
        wanted = wanted_columns(file.schema_arrow.names, columns, str(path))
        unread = tuple(f.name for f in file.schema_arrow if f.name not in wanted and may_hold_text(f.type))
        row = 0
        for batch in file.iter_batches(batch_size=1024, columns=wanted):
            for record in batch.to_pylist():
                row += 1
                place = {"name": f"{name}:{row}", "where": f"{path}, row {row}"}
                yield from document_of(record, **place, columns=columns, table=True, unread=unread)


def wanted_columns(names: list[str], columns: Columns, where: str) -> list[str]:
    """The needed columns of a table. Raises BadCorpus where a named one is missing, or none contains documents."""
    wanted = columns.wanted(names)
    there = ", ".join(map(repr, names)) or "none"
    for given, some in (
        ("--columns", [theirs for _, theirs in columns.names]),
        ("where:", [name for name, _ in columns.only]),
    ):
        if missing := [name for name in some if name not in names]:
            raise BadCorpus(f"{where}: expected a column {missing[0]!r} ({given}), got {there}: name another")
    if not wanted:
        raise BadCorpus(
            f"{where}: expected a column 'text' or 'messages', got {there}: name the one that holds the text, such as --columns "
            "text=body, or question and answer, such as --columns prompt=question,completion=answer"
        )
    return wanted


def document_of(record: Record | BadRecord, **how: Any) -> Documents:
    """The document of a record (see `from_record`), or its BadRecord; nothing where its text is blank or it is not taken."""
    if isinstance(record, BadRecord):
        yield record
        return
    try:
        document = from_record(record, **how)
    except BadRecord as error:
        yield error
    else:
        if document is not None:
            yield document


def may_hold_text(kind: pa.DataType) -> bool:
    """Whether a column of this type can contain strings."""
    if pa.types.is_nested(kind):
        return any(may_hold_text(kind.field(i).type) for i in range(kind.num_fields))
    if pa.types.is_dictionary(kind):
        return may_hold_text(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


READERS: dict[str, Callable[[File, str, Columns], Documents]] = {
    ".txt": read_text,
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".json": read_json_file,
    ".parquet": read_parquet,
}

# Files of a dataset's or model's folder that are not data.
_DESCRIPTIONS = frozenset(
    [
        *("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "run.json", "package.json"),
        *(
            "config.json",
            "generation_config.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "special_tokens_map.json",
        ),
    ]
)


def is_text(path: File) -> bool:
    """Whether a file found in a folder is read as data."""
    packed_table = kind_of(path) == ".parquet" and path.suffix.lower() != ".parquet"
    return kind_of(path) in READERS and not packed_table and path.name.lower() not in _DESCRIPTIONS


def _separated(lines: list[str], name: str, path: File) -> Documents:
    yield from _text("".join(lines).strip("\r\n"), name, path)


def _text(text: str, name: str, path: File) -> Documents:
    document = from_text(text, name=name, where=str(path))
    if document is not None:
        yield document
