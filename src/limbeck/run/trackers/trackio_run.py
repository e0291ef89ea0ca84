"""Trackio: a local database, or a Space of the hub that TRACKIO_SPACE_ID names. ``trackio show --project limbeck``."""

from __future__ import annotations

import os
from typing import Any

import trackio

from limbeck.run.trackers.tracker import PROJECT, Tracked, Tracker, Values


class Trackio:
    """A run of Trackio."""

    def __init__(self, run: Any) -> None:
        self._run = run

    def log(self, step: int, values: Values) -> None:
        """Writes values of a step."""
        self._run.log(dict(values), step=step)

    def end(self, *, complete: bool) -> None:
        """Ends the run; whether a training is complete is not recorded in it."""
        self._run.finish()


def open_run(tracked: Tracked, step: int) -> Tracker:
    """The run of a training, which is the same one when it is continued."""
    run = trackio.init(
        project=os.environ.get("TRACKIO_PROJECT", PROJECT),
        name=f"{tracked.group}-{tracked.name}-{tracked.identity[:6]}",
        group=tracked.group,
        config=dict(tracked.settings),
        resume="allow",
        embed=False,
    )
    return Trackio(run)
