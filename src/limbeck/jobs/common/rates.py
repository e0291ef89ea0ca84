"""The peak learning rate and schedule of a student, and the finding that names where they come from."""

from __future__ import annotations

from transformers.configuration_utils import PreTrainedConfig

from limbeck.config import DistilSettings
from limbeck.planning.checks.pair import Finding
from limbeck.planning.cost.size import Size
from limbeck.report.words import count
from limbeck.run.optim import PUBLISHED, TUNED, Schedule, Start, suggested_learning_rate, suggested_schedule


def start_of(settings: DistilSettings) -> Start:
    """The kind of start of the run's student."""
    return "made" if settings.mixers is None else "converted"


def rate_of(settings: DistilSettings, parameters: int) -> float:
    """The peak rate of the settings, else the one suggested for a student of this size."""
    return settings.lr or suggested_learning_rate(parameters, start=start_of(settings))


def fresh_rate_of(settings: DistilSettings, parameters: int) -> float:
    """The same of a baseline that starts from random weights."""
    return settings.lr or suggested_learning_rate(parameters)


def schedule_of(settings: DistilSettings, student: PreTrainedConfig) -> Schedule:
    """The schedule of the settings, else the one suggested for a student of this configuration."""
    if "schedule" in settings.model_fields_set:
        return settings.schedule
    return suggested_schedule(Size.of(student).parameters, start=start_of(settings))


def rate_finding(settings: DistilSettings, parameters: int) -> Finding:
    """The finding whether the rate was tested for this size."""
    rate = rate_of(settings, parameters)
    if settings.lr is not None:
        return Finding("learning rate", "ok", f"{rate:.2g}, as asked")
    message = f"{rate:.2g} for {count(parameters)} parameters"
    if parameters <= TUNED:
        return Finding(
            "learning rate", "ok", f"{message}, from students of 0.1M to {count(TUNED)}, on which rates were tried out"
        )
    reason = (
        f"was never tried out here above {count(TUNED)}; it is what published recoveries of pruned models take from "
        f"{count(PUBLISHED)} on"
        if parameters >= PUBLISHED
        else f"lies between what was tried out here (to {count(TUNED)}) and what published recoveries of pruned models take "
        f"(from {count(PUBLISHED)} on)"
    )
    return Finding(
        "learning rate",
        "warning",
        f"{message} {reason}",
        "try a third and three times as much on a few steps, with --lr",
    )
