"""Which weights of a training are the best by held-out loss, and when a training ends because it gets no better, or worse."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NotRequired, TypedDict

from limbeck.disk import Count


@dataclass(frozen=True)
class Limit:
    """A value that a column of held_out.jsonl is not to pass: the ``least``, or the most.

    ``words`` says what the column has, with a place for its value.
    """

    column: str
    words: str
    value: float
    least: bool

    def passed_by(self, row: Mapping[str, float]) -> str:
        """How a row passes the limit, in words; "" where it does not, or lacks the column."""
        found = row.get(self.column, self.value)
        if found >= self.value if self.least else found <= self.value:
            return ""
        return f"{self.words.format(format(found, '.3g'))}, {'below' if self.least else 'above'} {self.value:g}"


@dataclass(frozen=True)
class Rule:
    """What follows from held-out losses that are measured after every ``every`` steps, before the first and after the last.

    ``patience``: after how many measurements in a row without a lower loss a training ends, None for never.

    ``best``: whether the weights of the lowest loss become the trained model, instead of those after the last step.

    ``limits``: within what the model's own texts stay, else a training ends; none for a model that generates none.
    """

    every: int
    patience: int | None = None
    best: bool = False
    limits: tuple[Limit, ...] = ()

    def at(self, step: int, steps: int) -> bool:
        """Whether the loss is measured after a step of a training of ``steps``."""
        return step % self.every == 0 or step == steps


class SelectionState(TypedDict):
    """The part of a checkpoint about selection: the step of the lowest loss, measurements since, and why it ended."""

    step: Count | None
    stale: Count
    loss_nats: NotRequired[float]
    stopped_by: NotRequired[str]


@dataclass
class Selection:
    """The lowest held-out loss so far, the step at which it was measured, and how many measurements are not lower since.

    ``stopped_by``: how a limit was passed, in words, "" where none was.
    """

    rule: Rule | None
    step: int | None = None
    loss: float = field(default=math.inf)
    stale: int = 0
    stopped_by: str = ""

    def see(self, step: int, row: Mapping[str, float]) -> bool:
        """Takes in a row of held_out.jsonl; gives whether its loss is the lowest so far. NaN never is."""
        loss, limits = row["loss_nats"], self.rule.limits if self.rule else ()
        self.stopped_by = " and ".join(filter(None, (limit.passed_by(row) for limit in limits)))
        if loss < self.loss:
            self.step, self.loss, self.stale = step, loss, 0
            return True
        self.stale += 1
        return False

    @property
    def impatient(self) -> bool:
        """Whether patience has run out."""
        return self.rule is not None and self.rule.patience is not None and self.stale >= self.rule.patience

    @property
    def over(self) -> bool:
        """Whether patience has run out, or a limit was passed."""
        return self.impatient or bool(self.stopped_by)

    def follow(self, step: int, *, better: bool, impatient: bool, stopped: bool) -> None:
        """Takes in what another rank saw."""
        self.step = step if better else self.step
        self.stale = self.rule.patience if impatient and self.rule and self.rule.patience else 0
        self.stopped_by = "the first process measured that a limit was passed" if stopped else ""

    def state(self) -> dict[str, Any]:
        """The JSON form, which `restore` takes."""
        known = {"loss_nats": self.loss} if math.isfinite(self.loss) else {}
        return {"step": self.step, "stale": self.stale, **known} | (
            {"stopped_by": self.stopped_by} if self.stopped_by else {}
        )

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restores what `state` gave."""
        self.step, self.stale = state["step"], int(state["stale"])
        self.loss, self.stopped_by = float(state.get("loss_nats", math.inf)), str(state.get("stopped_by", ""))
