"""A step in which each row is distilled from its own teacher."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import torch

from limbeck.run.micro import MicroBatch
from limbeck.run.step import LossTerm, Step, train_step
from limbeck.teachers.routed import RoutedTeacher
from limbeck.types import CausalLM, joined


@dataclass(frozen=True)
class RoutedStep:
    """One optimiser step, ``update``, of terms that are cut into rows of one teacher each.

    Every token counts as it would with one teacher: weight x loss is summed over the rows of all teachers and divided once. Rows
    of the whole step are put together by teacher first, so that there are hardly more micro-batches than with one.
    """

    teacher: RoutedTeacher
    update: Callable[..., Step] = train_step

    def __call__(
        self, student: CausalLM, terms: Sequence[LossTerm], optimizer: torch.optim.Optimizer, **how: Any
    ) -> Step:
        """Raises as `train_step`."""
        rows = reduce(joined, (term.batch for term in terms))
        parts = [replace(terms[0], batch=part) for part in self.teacher.split(rows)]
        how["micro"] = how.get("micro") or MicroBatch(max(len(term.batch.tokens) for term in terms))
        return self.update(student, parts, optimizer, **how)
