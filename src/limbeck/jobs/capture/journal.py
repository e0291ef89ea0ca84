"""A journal of completions, or of their scores: one line of JSON per sample, in the order of arrival.

A killed capture continues after the last complete line. Only the positions of lines are in memory.
"""

from __future__ import annotations

from itertools import takewhile
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from limbeck.disk import Count, Lines, json_line, open_in_place, writing
from limbeck.errors import BadFolder

_REMEDY = "remove it, and its prompts are sent again"


class CompletionRow(TypedDict):
    """A sample in the journal."""

    number: Count
    text: str
    finish: str
    prompt_tokens: Count | None
    tokens: Count | None


class Journal:
    """Rows by their ``number``, of which there are ``total``. ``done`` is the number of rows, ``tokens`` of their tokens."""

    def __init__(self, path: Path, total: int, kind: Any = CompletionRow) -> None:
        """``kind`` is the type of its rows. Drops an incomplete last line. Raises BadFolder if another line is damaged."""
        self._path, self._kind, self._starts = path, kind, np.full(total, -1, dtype=np.int64)
        self.done = self.tokens = 0
        self._file = open_in_place(path)
        self._end = 0
        try:
            self._read()
        except BaseException:
            self._file.close()
            raise

    @property
    def total(self) -> int:
        """The number of rows that there will be."""
        return len(self._starts)

    def __contains__(self, number: int) -> bool:
        return bool(self._starts[number] >= 0)

    def missing(self) -> list[int]:
        """The numbers without a row."""
        found: list[int] = np.flatnonzero(self._starts < 0).tolist()
        return found

    def add(self, row: dict[str, Any]) -> None:
        """Appends a row, which survives a kill from then on."""
        line = json_line(row).encode()
        with writing(self._path):
            self._file.seek(self._end)
            self._file.write(line)
            self._file.flush()
        self._note(row, self._end)
        self._end += len(line)

    def row(self, number: int) -> dict[str, Any]:
        """The row of this number."""
        self._file.seek(int(self._starts[number]))
        return Lines(self._path, self._kind, remedy=_REMEDY).row(self._file.readline())

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        with writing(self._path):
            self._file.close()
        if not self.done:  # a capture that came to nothing does not keep its folder from another
            self._path.unlink()

    def _read(self) -> None:
        self._file.seek(0)
        whole = takewhile(lambda line: line.endswith(b"\n"), self._file)
        for line, row in Lines(self._path, self._kind, remedy=_REMEDY).rows(whole):
            if row["number"] >= len(self._starts):
                raise BadFolder(
                    f"{self._path}: expected samples 0 to {len(self._starts) - 1:,}, got {row['number']:,}: {_REMEDY}."
                )
            self._note(row, self._end)
            self._end += len(line)
        self._file.truncate(self._end)

    def _note(self, row: dict[str, Any], start: int) -> None:
        if row["number"] in self:
            return
        self._starts[row["number"]] = start
        self.done += 1
        self.tokens += row["tokens"] or 0
