"""Rows of a CSV file, as a source of text: ``csv:texts.csv``. Columns are fields, as of a line of .jsonl."""

import csv
from collections.abc import Iterator
from pathlib import Path

from limbeck.corpora.records import Columns
from limbeck.corpora.source import Part, part_of_records
from limbeck.errors import BadCorpus


def csv_rows(rest: str, columns: Columns) -> Part:
    """The part that ``csv:REST`` stands for. Raises BadCorpus where there is no such file."""
    path = Path(rest).expanduser()
    if not path.is_file():
        raise BadCorpus(f"csv:{rest}: expected a CSV file, got a path that does not exist: check the spelling")

    def records() -> Iterator[dict[str, str]]:
        with path.open(encoding="utf-8", newline="") as file:
            yield from csv.DictReader(file)

    stat = path.stat()
    stamp = [str(path.resolve()), stat.st_size, stat.st_mtime_ns]  # the text is read again when one of these differs
    return part_of_records(records, name=f"csv:{path.name}", stamp=stamp, columns=columns)
