"""What a tracker is, and how a training writes to one without depending on it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Literal, Protocol, cast

from limbeck.errors import BadSetting, first_line
from limbeck.packages import require_packages
from limbeck.run.log import console
from limbeck.scrub import scrubbed

TrackerName = Literal["trackio", "wandb", "tensorboard", "mlflow"]
Values = Mapping[str, float]
PROJECT = "limbeck"
_PACKAGE = {"mlflow": "mlflow"}  # what is imported, where it is not the name


class Tracker(Protocol):
    """A training in a tracker, open for its values."""

    def log(self, step: int, values: Values) -> None:
        """Takes in values of a step by name."""

    def end(self, *, complete: bool) -> None:
        """Closes it; ``complete`` is False for a training that was stopped and may be continued."""


@dataclass(frozen=True)
class Tracked:
    """A training as a tracker shows it. ``settings`` are shown beside its curves, and have no secrets in them.

    ``folder`` is that of the whole run, whose name groups its trainings; ``begun`` is when that run was begun, so that a run
    that continues is the same and one in a folder that was emptied is another.
    """

    tracker: TrackerName
    folder: Path
    name: str
    begun: str
    settings: Mapping[str, str | int | float | bool]

    @property
    def group(self) -> str:
        """The name of the whole run."""
        return self.folder.absolute().name

    @property
    def identity(self) -> str:
        """A name that only this training has, the same each time it is continued."""
        text = "\n".join((str(self.folder.absolute()), self.begun, self.name))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def open(self, step: int) -> Tracker:
        """The training in its tracker, begun or continued after ``step``."""
        module = import_module(f"limbeck.run.trackers.{self.tracker}_run")
        return cast("Tracker", module.open_run(self, step))


def require_tracker(name: TrackerName) -> None:
    """Raises BadSetting where the package of a tracker is not installed."""
    package = _PACKAGE.get(name, name)
    require_packages(f"--track {name}: curves are sent to it with", package, extra=name, error=BadSetting)


@contextmanager
def tracking(
    tracked: Tracked | None, step: int, complete: Callable[[], bool]
) -> Iterator[Callable[[int, Values], None]]:
    """The function that takes in values of a step, for a training that continues after ``step``; nothing without a tracker.

    What fails in a tracker is printed once, without secrets, and the training goes on without it.
    """
    if tracked is None:
        yield lambda step, values: None
        return
    guarded = _Guarded(tracked, step)
    try:
        yield guarded.log
    finally:
        guarded.end(complete=complete())


class _Guarded:
    """A tracker whose failures do not reach the training."""

    def __init__(self, tracked: Tracked, step: int) -> None:
        self._name: str = tracked.tracker
        self._tracker: Tracker | None = None
        with self._failures():
            self._tracker = tracked.open(step)

    def log(self, step: int, values: Values) -> None:
        """Takes in what is a finite number."""
        if self._tracker is not None:
            with self._failures():
                self._tracker.log(step, {name: float(v) for name, v in values.items() if math.isfinite(v)})

    def end(self, *, complete: bool) -> None:
        """Closes the tracker."""
        if self._tracker is not None:
            with self._failures():
                self._tracker.end(complete=complete)

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._tracker = None
            console.print(
                f"note: --track {self._name} failed, and the training goes on without it; its curves are in metrics.jsonl "
                f"({type(error).__name__}: {scrubbed(first_line(error))})"
            )


def of_row(row: Mapping[str, float], kind: str) -> dict[str, float]:
    """A row of a file of a training with names as trackers group them: train/lr, held_out/loss_nats."""
    return {f"{kind}/{name}": value for name, value in row.items() if name != "step"}
