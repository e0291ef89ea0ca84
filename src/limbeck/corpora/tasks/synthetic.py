"""Rows that are drawn instead of read: a `Corpus` without text, endless, each row drawn anew.

Row r is row r modulo 1,024 of the block r // 1,024, and a block has random numbers of its own, from the seed, its number and what
the rows are for. So what a row holds depends on these alone, not on batches, ranks or where a run began; of several ranks each
takes every ranks-th row. A task with few different rows draws some of them again.
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
    """Rows with their questions: ``answers`` is the next token where ``asked``, and says nothing elsewhere."""

    tokens: Int64[np.ndarray, "rows length"]
    answers: Int64[np.ndarray, "rows length"]
    asked: Bool[np.ndarray, "rows length"]


class Task(Protocol):
    """What draws rows of ``length`` tokens below ``vocab``. Frozen: the same generator gives the same rows."""

    @property
    def length(self) -> int: ...
    @property
    def vocab(self) -> int: ...
    def draw(self, generator: np.random.Generator, rows: int) -> Drawing: ...


def stream(seed: int, number: int = 0, *, use: str = "train") -> np.random.Generator:
    """Random numbers that no other seed (below 2^64), number (below 2^32) or use has.

    Four words of fixed width: left to itself numpy's `SeedSequence` takes 2^32 for [0, 1], and [1] for [1, 0].
    """
    words = np.array([seed % _WORD, number, seed // _WORD, USES.index(use)], dtype=np.uint32)
    return np.random.Generator(np.random.PCG64(words))


class SyntheticCorpus:
    """The rows of a task, each a document of its own whose number is the row's. No two uses share a draw.

    Raises BadTask for a task of text, whose rows a tokenizer has to spell (`spelled.Spelled`), and for an unknown use.
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
        """The next ``rows`` rows of all ranks together, as far as they are this rank's."""
        first, self._next = self._next, self._next + rows
        parts = []
        for number in range(first // BLOCK, (self._next - 1) // BLOCK + 1):
            start = number * BLOCK
            parts.append(self._rows(number).rows(slice(max(0, first - start), min(BLOCK, self._next - start))))
        found = parts[0] if len(parts) == 1 else _joined(parts)
        return found if self.ranks == 1 else found.rows(slice(self.rank, None, self.ranks))

    def state_dict(self) -> dict[str, Any]:
        """The position: how many rows all ranks together have taken."""
        return {"row": self._next}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues at a saved position."""
        self._next = int(state["row"])

    def documents(self, rows: int) -> list[str]:
        """Names of the last rows that were taken, of all ranks."""
        return [f"row {number:,} of {self.task!r}" for number in range(self._next - rows, self._next)]

    def _rows(self, number: int) -> Batch:
        if self._block is None or self._block[0] != number:
            generator = stream(self.seed, number, use=self.use)
            self._block = (number, as_batch(self.task.draw(generator, BLOCK), first=number * BLOCK))
        return self._block[1]


def as_batch(drawing: Drawing, *, first: int = 0) -> Batch:
    """Rows as a batch, counted from ``first``; the answers are its targets."""
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
    """Batches one after the other; rows of a task have no inputs of the student's own."""

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
