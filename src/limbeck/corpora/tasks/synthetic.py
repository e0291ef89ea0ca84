"""An endless `Corpus` of sampled rows instead of text.

Row r is row r modulo 1,024 of block r // 1,024. Each block has its own random numbers, from the seed, its number and the use of
the rows. A row depends on these only, not on batches, ranks or the start of a run. Of N ranks, each takes every N-th row. A task
with few distinct rows repeats some of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from limbeck.config import nearest
from limbeck.errors import BadTask
from limbeck.types import Batch

BLOCK = 1024
USES = ("train", "stop", "test")
_WORD = 2**32


@dataclass(frozen=True)
class Drawing:
    """Rows with their questions. ``answers`` has the target token where ``asked`` is true, and is meaningless elsewhere."""

    tokens: Int64[np.ndarray, "rows length"]
    answers: Int64[np.ndarray, "rows length"]
    asked: Bool[np.ndarray, "rows length"]


class Task(Protocol):
    """The protocol of tasks that sample rows of ``length`` tokens below ``vocab``. Equal generators give equal rows."""

    @property
    def length(self) -> int: ...
    @property
    def vocab(self) -> int: ...
    def draw(self, generator: np.random.Generator, rows: int) -> Drawing: ...


def stream(seed: int, number: int = 0, *, use: str = "train") -> np.random.Generator:
    """A random generator that is distinct for each seed (below 2^64), number (below 2^32) and use.

    The seed consists of four words of fixed width, since numpy's `SeedSequence` equates 2^32 with [0, 1] and [1] with [1, 0].
    """
    words = np.array([seed % _WORD, number, seed // _WORD, USES.index(use)], dtype=np.uint32)
    return np.random.Generator(np.random.PCG64(words))


class SyntheticCorpus:
    """The rows of a task as a corpus. Each row is one document, numbered as the row. Different uses have independent rows.

    Raises BadTask for a text task, which needs a tokenizer (`spelled.Spelled`), and for an unknown use.
    """

    def __init__(self, task: Task, *, seed: int = 0, use: str = "train", rank: int = 0, ranks: int = 1) -> None:
        if not hasattr(task, "draw"):
            raise BadTask(
                f"expected a task that draws rows of tokens, got {task!r}, which draws text: give "
                "Spelled(task, tokenizer, length=...) of limbeck.corpora.tasks.spelled"
            )
        if use not in USES:
            raise BadTask(f"unknown use {use!r}{nearest(use, USES)} There are: {', '.join(USES)}.")
        self.task = task
        self.length = task.length
        self.seed = seed
        self.use = use
        self.rank = rank
        self.ranks = ranks
        self._next = 0
        self._block: tuple[int, Batch] | None = None  # its number, and its rows

    def take(self, rows: int) -> Batch:
        """This rank's part of the next ``rows`` rows of all ranks together."""
        first, self._next = self._next, self._next + rows
        parts = []
        for number in range(first // BLOCK, (self._next - 1) // BLOCK + 1):
            start = number * BLOCK
            parts.append(self._rows(number).rows(slice(max(0, first - start), min(BLOCK, self._next - start))))
        found = parts[0] if len(parts) == 1 else _joined(parts)
        return found if self.ranks == 1 else found.rows(slice(self.rank, None, self.ranks))

    def state_dict(self) -> dict[str, Any]:
        """The position: the number of rows that all ranks together have taken."""
        return {"row": self._next}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues at a saved position."""
        self._next = int(state["row"])

    def documents(self, rows: int) -> list[str]:
        """The names of the last ``rows`` rows taken, of all ranks together."""
        return [f"row {number:,} of {self.task!r}" for number in range(self._next - rows, self._next)]

    def _rows(self, number: int) -> Batch:
        if self._block is None or self._block[0] != number:
            generator = stream(self.seed, number, use=self.use)
            self._block = (number, as_batch(self.task.draw(generator, BLOCK), first=number * BLOCK))
        return self._block[1]


def as_batch(drawing: Drawing, *, first: int = 0) -> Batch:
    """Rows as a batch, numbered from ``first``. The answers are the targets, and only asked positions have weight."""
    rows, length = drawing.tokens.shape
    row = torch.arange(first, first + rows)
    return Batch(
        tokens=torch.from_numpy(drawing.tokens),
        targets=torch.from_numpy(drawing.answers),
        weight=torch.from_numpy(drawing.asked.astype(np.float32)),
        position=torch.arange(length).expand(rows, length),
        document=row[:, None].expand(rows, length),
        row=row,
    )


def _joined(parts: list[Batch]) -> Batch:
    """Concatenates batches. Rows of a task have no separate student inputs."""

    def all_of(name: str) -> Tensor:
        return torch.cat([getattr(part, name) for part in parts])

    return Batch(
        tokens=all_of("tokens"),
        targets=all_of("targets"),
        weight=all_of("weight"),
        position=all_of("position"),
        document=all_of("document"),
        row=all_of("row"),
    )
