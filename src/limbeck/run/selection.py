"""Which weights of a training are the best by held-out loss, and when a training ends because it gets no better."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NotRequired, TypedDict

from limbeck.disk import Count


@dataclass(frozen=True)
class Rule:
    """What follows from held-out losses that are measured after every ``every`` steps, before the first and after the last.

    ``patience``: after how many measurements in a row without a lower loss a training ends, None for never.

    ``best``: whether the weights of the lowest loss become the trained model, instead of those after the last step.
    """

    every: int
    patience: int | None = None
    best: bool = False

    def at(self, step: int, steps: int) -> bool:
        """Whether the loss is measured after a step of a training of ``steps``."""
        return step % self.every == 0 or step == steps


class SelectionState(TypedDict):
    """The part of a checkpoint about selection: the step of the lowest loss, and measurements since."""

    step: Count | None
    stale: Count
    loss_nats: NotRequired[float]


@dataclass
class Selection:
    """The lowest held-out loss so far, the step at which it was measured, and how many measurements are not lower since."""

    rule: Rule | None
    step: int | None = None
    loss: float = field(default=math.inf)
    stale: int = 0

    def see(self, step: int, loss: float) -> bool:
        """Takes in a measurement; gives whether it is the lowest so far. NaN never is."""
        if loss < self.loss:
            self.step, self.loss, self.stale = step, loss, 0
            return True
        self.stale += 1
        return False

    @property
    def over(self) -> bool:
        """Whether patience has run out."""
        return self.rule is not None and self.rule.patience is not None and self.stale >= self.rule.patience

    def follow(self, step: int, *, better: bool, over: bool) -> None:
        """Takes in what another rank saw."""
        self.step = step if better else self.step
        self.stale = self.rule.patience if over and self.rule and self.rule.patience else 0

    def state(self) -> dict[str, Any]:
        """The JSON form, which `restore` takes."""
        known = {"loss_nats": self.loss} if math.isfinite(self.loss) else {}
        return {"step": self.step, "stale": self.stale, **known}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restores what `state` gave."""
        self.step, self.stale = state["step"], int(state["stale"])
        self.loss = float(state.get("loss_nats", math.inf))
