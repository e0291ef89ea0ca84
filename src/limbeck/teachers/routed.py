"""Several teachers of one student, each of its own rows (multi-teacher on-policy distillation, MOPD: arXiv 2606.30406).

Routing is hard: a row has one teacher, by the source that its documents are from, and no mixture of their distributions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from jaxtyping import Int
from torch import Tensor

from limbeck.types import Batch, Outputs, Sparse, Teacher


class RoutedTeacher:
    """A `Teacher` that queries, for rows of one of its ``teachers``, that one; `split` cuts a batch into such rows.

    ``route`` gives the number of each row's teacher (B,), on the host. All teachers have the same tokens.
    """

    def __init__(self, teachers: Sequence[Teacher], route: Callable[[Batch], Int[Tensor, " B"]]) -> None:
        self.name, self.vocab = " and ".join(teacher.name for teacher in teachers), teachers[0].vocab
        self.teachers, self.route = tuple(teachers), route

    def __call__(self, batch: Batch) -> Outputs | Sparse:
        """The outputs of the rows' teacher. All rows must have the same."""
        (number,) = self.route(batch).unique().tolist()
        return self.teachers[number](batch)

    def split(self, batch: Batch) -> list[Batch]:
        """The rows of each teacher that has some, in the order of the teachers."""
        route = self.route(batch)
        numbers = route.unique().tolist()
        return [batch] if len(numbers) == 1 else [batch.rows((route == n).nonzero().squeeze(-1)) for n in numbers]

    def batches(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Batches cut into rows of one teacher each."""
        return (part for batch in batches for part in self.split(batch))
