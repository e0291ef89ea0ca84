"""The peak learning rate and schedule of a student, and the finding that names where they come from."""

from __future__ import annotations

from transformers.configuration_utils import PreTrainedConfig

from limbeck.config import DistilSettings, PretrainSettings, TrainingSettings
from limbeck.planning.checks.pair import Finding
from limbeck.planning.cost.size import Size
from limbeck.report.words import count, share
from limbeck.run.optim import (
    PUBLISHED,
    TUNED,
    Schedule,
    Start,
    suggested_learning_rate,
    suggested_schedule,
    tuning_rate,
)

_TRY = "try a third and three times as much on a few steps, with --lr"


def start_of(settings: DistilSettings | PretrainSettings) -> Start:
    """The kind of start of the run's student, or of a model that is trained on text alone."""
    if isinstance(settings, PretrainSettings):
        return "fresh" if settings.start is None else "made"
    return "made" if settings.mixers is None else "converted"


def rate_of(settings: DistilSettings | PretrainSettings, parameters: int, *, kept: float | None = None) -> float:
    """The peak rate of the settings, else the one suggested for a student, or a model, of this size.

    ``kept``: that of a run which was begun, perhaps by an older version that suggested another; it stays.
    """
    if given := settings.lr or kept:
        return given
    if by_adapters(settings):
        return tuning_rate(parameters, adapters=True)
    return suggested_learning_rate(parameters, start=start_of(settings))


def by_adapters(settings: DistilSettings | PretrainSettings) -> bool:
    """Whether adapters alone are trained."""
    return isinstance(settings, DistilSettings) and settings.trained != "full"


def full_rate_of(settings: DistilSettings, parameters: int) -> float:
    """The peak rate of all weights, of a baseline of a student that is trained by adapters; in proportion to theirs."""
    return _beside_adapters(settings, parameters, suggested_learning_rate(parameters, start=start_of(settings)))


def fresh_rate_of(settings: DistilSettings, parameters: int) -> float:
    """The peak rate of a baseline that starts from random weights; beside adapters it is in proportion to theirs, too."""
    usual = suggested_learning_rate(parameters)
    return _beside_adapters(settings, parameters, usual) if by_adapters(settings) else settings.lr or usual


def _beside_adapters(settings: DistilSettings, parameters: int, usual: float) -> float:
    """The ``usual`` rate of all weights, times what was asked of adapters over their usual rate."""
    factor = settings.lr / tuning_rate(parameters, adapters=True) if settings.lr else 1.0
    return min(1.0, factor * usual)


def schedule_of(settings: DistilSettings, student: PreTrainedConfig) -> Schedule:
    """The schedule of the settings, else the one suggested for a student of this configuration."""
    if "schedule" in settings.model_fields_set:
        return settings.schedule
    return suggested_schedule(Size.of(student).parameters, start=start_of(settings))


def rate_finding(settings: DistilSettings | PretrainSettings, parameters: int, *, kept: float | None = None) -> Finding:
    """The finding whether the rate was tested for this size. ``kept``: as of `rate_of`."""
    rate, today = rate_of(settings, parameters, kept=kept), rate_of(settings, parameters)
    if settings.lr is not None:
        return Finding("learning rate", "ok", f"{rate:.2g}, as asked")
    if rate != today:
        began = f"{rate:.2g}, with which the run in {settings.out} began; a new run would take {today:.2g}"
        return Finding("learning rate", "ok", began)
    if isinstance(settings, DistilSettings) and by_adapters(settings):
        times = f"{rate:.2g} for adapters, {rate / full_rate_of(settings, parameters):.1f} times that of all weights"
        return Finding(
            "learning rate", "ok", f"{times}; which is best depends on text and rank. {_TRY[0].upper()}{_TRY[1:]}"
        )
    message, tuned = f"{rate:.2g} for {count(parameters)} parameters", TUNED[start_of(settings)]
    if parameters <= tuned:
        return Finding(
            "learning rate", "ok", f"{message}, from students of 0.1M to {count(tuned)}, on which rates were tried out"
        )
    reason = (
        f"was never tried out here above {count(tuned)}; it is what published recoveries of pruned models take from "
        f"{count(PUBLISHED)} on"
        if parameters >= PUBLISHED
        else f"lies between what was tried out here (to {count(tuned)}) and what published recoveries of pruned models take "
        f"(from {count(PUBLISHED)} on)"
    )
    return Finding(
        "learning rate",
        "warning",
        f"{message} {reason}",
        _TRY,
    )


def fresh_rate_finding(settings: DistilSettings | PretrainSettings, parameters: int) -> list[Finding]:
    """A warning where a model of random weights takes a rate that was never tried out for its size; none elsewhere.

    ``settings`` of a distillation are asked for its baseline of random weights.
    """
    if settings.lr is not None or parameters <= TUNED["fresh"]:
        return []
    rate = suggested_learning_rate(parameters)
    message = (
        f"{rate:.2g} for {count(parameters)} parameters from random weights was never tried out here above "
        f"{count(TUNED['fresh'])}: it "
        "falls with the fourth root of the size, which at 1.7 B gives 0.00031, where SmolLM2 took 0.0005"
    )
    return [Finding("learning rate", "warning", message, _TRY)]


def optimiser_findings(settings: TrainingSettings, parameters: int) -> list[Finding]:
    """A warning where default settings of the optimiser were never tried out for a size; none elsewhere.

    What published recoveries take: Minitron (arXiv 2407.14679), Llama-3.1-Minitron and MN-Minitron (arXiv 2408.11796).
    """
    left = {"weight_decay", "warmup"} - settings.model_fields_set
    fresh = isinstance(settings, PretrainSettings) and start_of(settings) == "fresh"
    tuned = TUNED["fresh" if fresh else "made"]
    if not left or parameters <= tuned:
        return []
    ours = {
        "weight_decay": f"weight decay {settings.weight_decay:g}",
        "warmup": f"warm-up {share(settings.warmup)} of the steps",
    }
    flags = {"weight_decay": "--weight-decay 0.1", "warmup": "--warmup 0.01"}
    message = (
        f"{' and '.join(ours[name] for name in sorted(left))}: tried out on students of up to {count(tuned)}, not of "
        f"{count(parameters)} parameters; published recoveries of pruned models take a weight decay of 0.1 and a warm-up of less "
        "than 1 %"
    )
    return [Finding("optimiser", "warning", message, f"as they do: {' '.join(flags[name] for name in sorted(left))}")]


def early_stop_findings(settings: TrainingSettings, schedule: Schedule) -> list[Finding]:
    """A warning where a training may end before its schedule decays; none elsewhere."""
    limits = getattr(settings, "stop_when", None)
    given = {f"--patience {settings.patience}": settings.patience, f"--stop-when {limits}": limits}
    ends = " and ".join(flag for flag, value in given.items() if value is not None)
    if not ends or schedule == "constant":
        return []
    message = f"{ends} may end a training before its {schedule} schedule has decayed, which lowers the loss"
    remedy = "--schedule constant with --average ema, or limits that reach into the decay"
    return [Finding("early stop", "warning", message, remedy)]
