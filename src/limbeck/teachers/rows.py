"""The rows of a text that a teacher is measured on, found by their number and read batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from limbeck.types import Batch


@dataclass(frozen=True)
class NumberedRows:
    """``rows`` rows of ``length`` tokens, from row ``first`` on, ``batch_rows`` of them in a forward pass of the teacher.

    ``read`` gives the rows with some numbers as a batch (B, T).
    """

    read: Callable[[Int64[np.ndarray, " B"]], Batch]
    length: int
    rows: int
    batch_rows: int
    first: int = 0

    @property
    def end(self) -> int:
        """The number of the row after the last."""
        return self.first + self.rows

    def batches(self, start: int, end: int) -> Iterator[Batch]:
        """Rows ``start`` to ``end`` - 1 in order, in batches of which the last may be smaller."""
        for row in range(start, end, self.batch_rows):
            yield self.read(np.arange(row, min(row + self.batch_rows, end)))
