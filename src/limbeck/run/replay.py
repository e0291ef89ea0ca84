"""A step in which rows of other text have an objective of their own, such as to stay near the model before tuning."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from limbeck.objectives.base import Objective
from limbeck.run.step import LossTerm, Step, train_step
from limbeck.types import Batch, CausalLM, Teacher


@dataclass(frozen=True)
class ReplayStep:
    """`train_step` of ``own`` with another ``objective`` and ``teacher`` for rows of which ``is_other`` is true.

    Every token counts as it would in one objective: weight x loss is summed over both kinds of rows and divided once.
    """

    own: Objective
    objective: Objective
    teacher: Teacher | None
    is_other: Callable[[Batch], torch.Tensor]

    def __call__(
        self, student: CausalLM, terms: Sequence[LossTerm], optimizer: torch.optim.Optimizer, **how: Any
    ) -> Step:
        """One optimiser step. Raises as `train_step`."""
        parts = [part for term in terms for part in self._parts(term)]
        return train_step(student, parts, optimizer, objectives=(self.own, self.objective), **how)

    def _parts(self, term: LossTerm) -> Iterator[LossTerm]:
        other = self.is_other(term.batch)
        if not other.all():
            yield LossTerm(term.batch.rows((~other).nonzero().squeeze(-1)), term.objective, term.teacher)
        if other.any():
            yield LossTerm(term.batch.rows(other.nonzero().squeeze(-1)), self.objective, self.teacher)
