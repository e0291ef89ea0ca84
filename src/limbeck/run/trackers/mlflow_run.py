"""MLflow. Its own variables hold: MLFLOW_TRACKING_URI is where server or files are, MLFLOW_EXPERIMENT_NAME the experiment."""

from __future__ import annotations

import os
import time

from mlflow.entities import Metric, Param
from mlflow.tracking import MlflowClient

from limbeck.run.trackers.tracker import PROJECT, Tracked, Tracker, Values

_LONGEST = 500  # characters of a parameter, which older servers take
_TAG = "limbeck.training"


class MLflow:
    """A run of MLflow."""

    def __init__(self, client: MlflowClient, run: str) -> None:
        self._client, self._run = client, run

    def log(self, step: int, values: Values) -> None:
        """Sends values of a step."""
        now = round(1000 * time.time())
        metrics = [Metric(name, value, now, step) for name, value in values.items()]
        self._client.log_batch(self._run, metrics=metrics)

    def end(self, *, complete: bool) -> None:
        """Ends the run."""
        self._client.set_terminated(self._run, status="FINISHED" if complete else "KILLED")


def open_run(tracked: Tracked, step: int) -> Tracker:
    """The run of a training, found by its identity where it is continued."""
    client, name = MlflowClient(), os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
    known = client.get_experiment_by_name(name)
    experiment = client.create_experiment(name) if known is None else known.experiment_id
    there = client.search_runs([experiment], f"tags.`{_TAG}` = '{tracked.identity}'", max_results=1)
    if there:
        run = there[0].info.run_id
        client.update_run(run, status="RUNNING")
    else:
        tags = {_TAG: tracked.identity, "limbeck.run": tracked.group}
        run = client.create_run(experiment, run_name=f"{tracked.group}/{tracked.name}", tags=tags).info.run_id
        params = [Param(key, str(value)[:_LONGEST]) for key, value in tracked.settings.items()]
        client.log_batch(run, params=params)
    return MLflow(client, run)
