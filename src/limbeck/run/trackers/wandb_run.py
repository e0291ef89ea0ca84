"""Weights & Biases. Its own variables hold: WANDB_PROJECT, WANDB_MODE=offline, WANDB_API_KEY and others."""

from __future__ import annotations

import os
from typing import Any

import wandb

from limbeck.run.trackers.tracker import PROJECT, Tracked, Tracker, Values


class Wandb:
    """A run of Weights & Biases."""

    def __init__(self, run: Any) -> None:
        self._run = run

    def log(self, step: int, values: Values) -> None:
        """Sends values of a step."""
        self._run.log(dict(values), step=step)

    def end(self, *, complete: bool) -> None:
        """Ends the run; one that is continued later keeps its identity."""
        self._run.finish(exit_code=0 if complete else 1)


def open_run(tracked: Tracked, step: int) -> Tracker:
    """The run of a training, which is the same one when it is continued.

    Several trainings may be open at once, as those of a sweep are. Neither code nor command line nor the machine's name are sent.
    """
    quiet = wandb.Settings(
        console="off", silent=True, disable_git=True, disable_code=True, save_code=False, x_disable_meta=True
    )
    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        group=tracked.group,
        name=f"{tracked.group}/{tracked.name}",
        id=tracked.identity,
        resume="allow",
        reinit="create_new",
        config=dict(tracked.settings),
        dir=str(tracked.folder),
        settings=quiet,
    )
    return Wandb(run)
