"""Trains several students of one teacher in lockstep: the teacher's outputs of each batch are computed once for all of them.

Each student is a run with its own folder, checkpoints and metrics, and ends with the same bits as if trained alone. All runs must
have the same rows in each step. After a kill some runs may be behind the others; those run first until all are at the same step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from limbeck.host import on_host
from limbeck.run.run import Run, signals
from limbeck.types import Batch, Outputs, Sparse, Teacher


class CachedTeacher:
    """A teacher that keeps its outputs of the current step, by the rows of the batch."""

    def __init__(self, teacher: Teacher) -> None:
        self.name, self.vocab = teacher.name, teacher.vocab
        self._teacher = teacher
        self._outputs: dict[bytes, Outputs | Sparse] = {}

    def __call__(self, batch: Batch) -> Outputs | Sparse:
        """The teacher's outputs for these rows, computed or from this step's cache."""
        key = on_host(batch.row).numpy().tobytes()
        if key not in self._outputs:
            self._outputs[key] = self._teacher(batch)
        return self._outputs[key]

    def clear(self) -> None:
        """Removes all outputs; called when another step begins."""
        self._outputs.clear()


def train_lockstep(runs: Sequence[Run], *, label: str) -> None:
    """Trains all runs, one step of each in turn. ``label`` is the text of the progress bar.

    All students are in memory at once, with the teacher's outputs for one step's rows. Raises as `Run.train`; after an
    interruption all runs are saved.
    """
    assert runs[0].teacher is not None, "training in lockstep shares a teacher"
    cached = CachedTeacher(cast("Teacher", runs[0].teacher))  # which knows its tokens
    with signals() as caught:
        going = []
        for number, run in enumerate(runs):
            run.teacher = cached
            going.append(run.steps(caught, label="" if number else label))
        done = [next(turns) for turns in going]
        left, at = set(range(len(runs))), min(done)
        while left:
            behind = min(left, key=lambda number: (done[number], number))
            if done[behind] != at:
                cached.clear()
                at = done[behind]
            step = next(going[behind], None)
            if step is None:
                left.remove(behind)
            else:
                done[behind] = step
    for run, step in zip(runs, done, strict=True):
        if not run.complete:
            raise run.interrupted(step, caught)
