"""The source of each row of a training that reads several sources, as arithmetic on the row's number.

Row j of a source with the share w has the place (j + 1/2) / w, and rows are read in the order of their places (Webster's method
of apportionment). After k rows each source has given w k rows, up to half a row for each source. To continue, nothing but the
number of the row is needed, on any number of processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float64, Int64

_WINDOW = 4096  # rows whose sources are computed together

Shares = Float64[np.ndarray, " sources"]
Counts = Int64[np.ndarray, " sources"]


@dataclass(frozen=True)
class Span:
    """The shares of all sources from a row on."""

    first: int
    shares: Shares


class Interleaved:
    """The source of each row of an endless order, and which of its source's rows it is.

    ``spans`` begin at 0, each later than the one before.
    """

    def __init__(self, spans: Sequence[Span]) -> None:
        self.spans = list(spans)
        self._before = [np.zeros(len(spans[0].shares), np.int64)]  # rows of each source before each span
        for span, following in pairwise(spans):
            self._before.append(self._before[-1] + counts(span.shares, following.first - span.first))
        self._window: tuple[int, int, np.ndarray, np.ndarray] = (0, 0, np.zeros(0), np.zeros(0))

    def at(self, row: int) -> tuple[int, int]:
        """(source, number among the rows of that source) of a row."""
        low, high, *_ = self._window
        if not low <= row < high:
            self._window = self._windowed(row)
        low, _, source, number = self._window
        return int(source[row - low]), int(number[row - low])

    def counts(self, rows: int) -> Counts:
        """How many of the first ``rows`` rows are of each source."""
        stage = self._stage(max(0, rows - 1))
        return self._before[stage] + counts(self.spans[stage].shares, rows - self.spans[stage].first)

    def _stage(self, row: int) -> int:
        return int(np.searchsorted([span.first for span in self.spans], row, side="right")) - 1

    def _windowed(self, row: int) -> tuple[int, int, np.ndarray, np.ndarray]:
        stage = self._stage(row)
        span = self.spans[stage]
        end = self.spans[stage + 1].first if stage + 1 < len(self.spans) else None
        low = span.first + (row - span.first) // _WINDOW * _WINDOW
        high = low + _WINDOW if end is None else min(low + _WINDOW, end)
        source = _sources(span.shares, low - span.first, high - span.first)
        number = np.zeros(len(source), np.int64)
        already = self._before[stage] + counts(span.shares, low - span.first)
        for one in range(len(span.shares)):
            mine = source == one
            number[mine] = already[one] + np.arange(mine.sum())
        return low, high, source, number


def counts(shares: Shares, rows: int) -> Counts:
    """How many of the first ``rows`` rows are of each source."""
    sure = _sure(shares, rows)
    merged = _merged(shares, sure, rows - int(sure.sum()))
    return sure + np.bincount(merged, minlength=len(shares)).astype(np.int64)


def _sources(shares: Shares, low: int, high: int) -> Int64[np.ndarray, " rows"]:
    """The sources of the rows from ``low`` to ``high``."""
    return _merged(shares, counts(shares, low), high - low)


def _sure(shares: Shares, rows: int) -> Counts:
    """Rows of each source that are among the first ``rows`` for certain: each is w k up to (1 + sources) / 2."""
    return np.where(shares > 0, np.maximum(0, np.floor(shares * rows).astype(np.int64) - len(shares) - 2), 0)


def _merged(shares: Shares, given: Counts, rows: int) -> Int64[np.ndarray, " rows"]:
    """The sources of the next ``rows`` rows, where each has ``given`` some."""
    there = [one for one in range(len(shares)) if shares[one] > 0]
    most = [min(rows, int(np.ceil(rows * shares[one])) + 2 * len(shares) + 6) for one in there]
    place = np.concatenate(
        [(given[one] + np.arange(n) + 0.5) / shares[one] for one, n in zip(there, most, strict=True)]
    )
    source = np.repeat(there, most)
    return source[np.lexsort((source, place))][:rows].astype(np.int64)
