"""Finished steps whose loss is read later: one step behind, where a device computes in the background.

The host queues the next step before it reads the loss of the last one, so the device never waits for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from limbeck.host import queues
from limbeck.run.moment import Moment
from limbeck.run.step import Step


@dataclass(frozen=True)
class Done:
    """A step that was issued: ``step`` steps and ``tokens`` so far, its learning rate, and the rows' position.

    ``begun`` and ``ended`` are the ends of the device's work before the step and with it. ``facts``: more columns of its row.
    ``own``: the tokens of the step alone.
    """

    step: int
    tokens: int
    report: Step
    lr: float
    begun: Moment
    ended: Moment
    position: dict[str, Any]
    facts: Mapping[str, float]
    own: int


@dataclass
class Behind:
    """The steps that are not read yet, at most one. ``read`` gets each with its tokens per second, in their order.

    ``explained`` is a context for reading the loss, which may raise NonFiniteLoss; it gets the number of steps issued by then.
    """

    read: Callable[[Done, float], None]
    explained: Callable[[Done, int], AbstractContextManager[None]]
    _waiting: deque[Done] = field(default_factory=deque, init=False)
    _issued: int = field(default=0, init=False)

    def add(self, done: Done) -> None:
        """Takes in a step; reads those before it, and the step itself where the host needs not wait for it."""
        self._issued = done.step
        self.finish()
        self._waiting.append(done)
        if not queues(done.report.numbers.device):
            self.finish()

    def finish(self) -> None:
        """Reads all steps. Raises NonFiniteLoss as reading one does.

        Call it before weights are measured or saved: those after a step whose loss is not finite are not what they seem.
        """
        while self._waiting:
            done = self._waiting.popleft()
            with self.explained(done, self._issued):
                _ = done.report.loss  # waits
            self.read(done, done.own / done.ended.since(done.begun))
