"""Micro-batches: how many rows are computed at once, and fewer of them where memory runs out.

Gradients are summed over the micro-batches of a step (`run/step.py`), so their size changes results by rounding only. A step that
runs out of memory begins again with half as many rows at once, before any weight has changed; nothing is sent to other ranks
meanwhile, so each rank finds its own size. Where weights are sharded ranks cannot: a forward pass is one of all of them.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

import torch

from limbeck.errors import OutOfMemory, first_line, is_allocation
from limbeck.models.micro_batch import MICRO_TOKENS
from limbeck.objectives import fused
from limbeck.types import Batch

Result = TypeVar("Result")


class HasBatch(Protocol):
    """Anything frozen with a batch, such as a `run.step.LossTerm`."""

    @property
    def batch(self) -> Batch: ...


Term = TypeVar("Term", bound=HasBatch)


def _no_remedy() -> str:
    return "give shorter sequences with --seq-len, or a smaller student"


@dataclass
class MicroBatch:
    """The largest number of ``rows`` that are computed at once; it falls where memory runs out.

    ``together``: all ranks compute each micro-batch together, so that none can begin again alone; memory that runs out is then an
    error. ``spare`` makes more room once a single row is too much, such as by gradient checkpointing, and gives whether it did.
    ``remedy`` is what a user can do if that is not enough, for the error.
    """

    rows: int
    together: bool = False
    spare: Callable[[], bool] = lambda: False
    remedy: Callable[[], str] = _no_remedy
    asked: int = field(init=False)

    def __post_init__(self) -> None:
        self.asked = self.rows

    def cut(self, terms: Sequence[Term]) -> list[Term]:
        """The terms, those with too many rows as several."""
        return [piece for term in terms for piece in self._pieces(term)]

    def _pieces(self, term: Term) -> Iterator[Term]:
        count = len(term.batch.tokens)
        if count <= self.rows:
            yield term
            return
        for start in range(0, count, self.rows):
            yield replace(term, batch=term.batch.rows(slice(start, start + self.rows)))  # type: ignore[type-var]

    def fitted(
        self, terms: Sequence[Term], compute: Callable[[list[Term]], Result], undo: Callable[[], object]
    ) -> Result:
        """``compute`` of the terms, cut as memory allows.

        When it runs out of memory, ``undo`` removes what it left, and it begins again with half as many rows at once and the
        random numbers of the last `torch.manual_seed`. Raises OutOfMemory if a single row is too much, or any if all ranks
        compute ``together``.
        """
        while True:
            try:
                return compute(self.cut(terms))
            except (RuntimeError, MemoryError) as error:
                if not is_allocation(error):
                    raise
                cause = first_line(error)
            # here, where the failed pass and all that it holds are gone
            undo()
            self._shrink(terms, cause)
            torch.manual_seed(torch.initial_seed())

    def _shrink(self, terms: Sequence[Term], cause: str) -> None:
        """Half as many rows at once; raises OutOfMemory if there is but one and nothing else to spare."""
        fused.release()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        largest = min(self.rows, max(len(term.batch.tokens) for term in terms))
        if self.together:
            raise OutOfMemory(
                f"a training step needs more memory than there is ({cause}), and where weights are sharded no process can begin "
                f"it again alone. What was saved is kept. Give a smaller --micro-batch ({self.rows} here), or --checkpointing "
                "layers"
            )
        if largest > 1:
            self.rows = -(-largest // 2)
        elif self.spare():
            self.rows = self.asked
        else:
            length = terms[0].batch.tokens.shape[1]
            raise OutOfMemory(
                f"a training step needs more memory than there is, even with one sequence of {length} tokens at a time "
                f"({cause}). What was saved is kept. What would fit: {self.remedy()}"
            )


def micro_batches(rows: Batch, device: torch.device, size: int | None = None) -> Iterator[Batch]:
    """Splits rows into micro-batches of ``size`` rows on ``device``; None for as many as are usual there."""
    count, length = rows.tokens.shape
    size = size or micro_rows(length, device)
    for start in range(0, count, size):
        yield rows.rows(slice(start, start + size)).to(device)


def micro_rows(length: int, device: torch.device) -> int:
    """How many rows of ``length`` tokens a micro-batch usually has on a device: enough for fast matrix products."""
    return max(1, MICRO_TOKENS["cuda" if device.type == "cuda" else "cpu"] // length)
