"""Held-out loss during a training: a few measurements on a few sequences, the same for every arm of a comparison.

The trained weights have the same bits as without it: its random numbers are its own, and it changes no state of the training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import numpy as np
import torch

from limbeck.models.language_model import LanguageModel
from limbeck.models.observing import evaluating
from limbeck.probes.interval import bootstrap
from limbeck.probes.measurements import measure
from limbeck.run.moment import Moment
from limbeck.types import Batch, Gathering

_POINTS = (0.0, 1 / 8, 1 / 4, 1 / 2, 3 / 4, 1.0)  # of the steps
_SHARE = 150  # training sequences for each held-out sequence that is measured at a point
# One forward pass costs a third of a training step on the same sequence, or less where a teacher is queried too: six points on
# a 150th of the sequences cost at most 6 / (3 * 150), 1.3 % of the training.


def watched_sequences(trained: int) -> int:
    """Held-out sequences for each point of a training on ``trained`` sequences; 0 if even one would cost too much."""
    return trained // _SHARE


def watched_steps(steps: int) -> frozenset[int]:
    """The steps after which the held-out loss is measured; 0 is before the first."""
    return frozenset(round(point * steps) for point in _POINTS)


@dataclass(frozen=True)
class Watch:
    """Held-out ``batches`` on the models' device, from ``documents`` documents, that are measured during a training.

    They are measured after each of the ``steps``, and at the end of the training; with ``every``, of a training of any length,
    after so many steps each time. ``weights`` may put others in place of the student's meanwhile. ``ranks``: the processes that
    measure together, each with its own batches; None for one alone. ``own`` gives more columns of a row, of what the student
    generates itself.
    """

    batches: Callable[[], Iterable[Batch]]
    documents: int
    steps: frozenset[int]
    weights: Callable[[], AbstractContextManager[object]] = nullcontext
    ranks: Gathering | None = None
    every: int | None = None
    own: Callable[[LanguageModel], Mapping[str, float]] | None = None

    def until(self, last: int) -> Watch:
        """The same for a training with another last step."""
        steps = range(0, last, self.every) if self.every else (step for step in self.steps if step < last)
        return replace(self, steps=frozenset(steps) | {last})

    def row(self, student: LanguageModel, step: int, tokens: int, *, bf16: bool) -> dict[str, float | int]:
        """A row of held_out.jsonl: cross-entropy in nats per token with its interval over ``n`` documents, and its cost."""
        begun = Moment.of(student.device)
        autocast = torch.autocast(student.device.type, dtype=torch.bfloat16, enabled=bf16)
        with evaluating(student.model), torch.no_grad(), autocast, self.weights():
            found = measure(student, None, self.batches(), documents=self.documents, ranks=self.ranks)
            own = self.own(student) if self.own else {}
        seconds = Moment.of(student.device).since(begun)
        (loss,) = bootstrap(_mean, np.stack([found.nats, found.tokens], -1)[None], positive=True)
        known = {key: value for key, value in (("low", loss.low), ("high", loss.high)) if np.isfinite(value)}
        row: dict[str, float | int] = {"step": step, "tokens": tokens, "loss_nats": loss.value, **known, "n": loss.n}
        return row | {"predictions": round(found.tokens.sum()), "seconds": round(seconds, 4), **own}


def _mean(total: np.ndarray) -> np.ndarray:
    return total[..., :1] / total[..., 1:]
