"""Several students of one teacher, trained in step: it is asked once about each batch, and all of them listen.

Each student is a run of its own, with its folder, checkpoints and metrics, and ends with the bits it would have had alone. What
they share must be the same for all: the rows of each step. After a kill one may stand behind the others; it catches up first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from limbeck.run.run import Run, signals
from limbeck.types import Batch, Outputs, Sparse, Teacher


class CachedTeacher:
    """A teacher that remembers what it said in the step that is going on."""

    def __init__(self, teacher: Teacher) -> None:
        self.name, self.vocab = teacher.name, teacher.vocab
        self._teacher = teacher
        self._said: dict[bytes, Outputs | Sparse] = {}

    def __call__(self, batch: Batch) -> Outputs | Sparse:
        """What it says about these rows, asked or remembered."""
        key = batch.row.cpu().numpy().tobytes()
        if key not in self._said:
            self._said[key] = self._teacher(batch)
        return self._said[key]

    def forget(self) -> None:
        """Told when another step begins."""
        self._said.clear()


def train_lockstep(runs: Sequence[Run], *, label: str) -> None:
    """Trains all, one step of each in turn. Raises as `Run.train`; whoever is stopped has all of them saved.

    The students are in memory together, and with them what the teacher said about one step's rows.
    """
    assert runs[0].teacher is not None, "what they share is a teacher"
    once = CachedTeacher(cast("Teacher", runs[0].teacher))  # which knows its tokens
    with signals() as caught:
        going = []
        for number, run in enumerate(runs):
            run.teacher = once
            going.append(run.steps(caught, label="" if number else label))
        done = [next(turns) for turns in going]
        left, at = set(range(len(runs))), min(done)
        while left:
            behind = min(left, key=lambda number: (done[number], number))
            if done[behind] != at:
                once.forget()
                at = done[behind]
            step = next(going[behind], None)
            if step is None:
                left.remove(behind)
            else:
                done[behind] = step
    for run, step in zip(runs, done, strict=True):
        if step < run.plan.steps:
            raise run.interrupted(step, caught)
