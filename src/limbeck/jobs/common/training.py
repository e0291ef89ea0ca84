"""The plan of a training, from the settings that `limbeck distil`, `tune` and `pretrain` share."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Any

from limbeck.config import DistilSettings, PretrainSettings, TrainingSettings, TuneSettings
from limbeck.config.defaults import SAVE_MINUTES, SAVE_STEPS
from limbeck.errors import BadSetting
from limbeck.run.eight_bit import require_8bit
from limbeck.run.optim import Schedule
from limbeck.run.run import Plan
from limbeck.run.selection import Rule
from limbeck.run.trackers import Tracked, require_tracker
from limbeck.scrub import IN_VALUES, scrubbed, without_folders


def plan_of(
    settings: TrainingSettings, *, steps: int, rows: int, lr: float, schedule: Schedule, bf16: bool, tf32: bool = False
) -> Plan:
    """The plan of a training of ``steps`` steps of ``rows`` rows. Raises BadSetting for a warm-up that would not end."""
    if settings.warmup >= max(2, steps):
        raise BadSetting(
            f"--warmup {settings.warmup:g}: the training has {steps} steps, so its learning rate would only rise: give fewer "
            "steps, or a share of them such as 0.05"
        )
    _check_formats(settings, bf16=bf16)
    save_every, save_minutes = _saving(settings.save_every)
    return Plan(
        steps=steps,
        rows=rows,
        lr=lr,
        schedule=schedule,
        bf16=bf16,
        tf32=tf32,
        weight_decay=settings.weight_decay,
        max_norm=settings.max_grad_norm or math.inf,
        warmup=settings.warmup,
        betas=settings.betas,
        average=settings.average or "",
        save_every=save_every,
        save_minutes=save_minutes,
        micro=settings.micro_batch,
        checkpointing=settings.checkpointing,
        optimizer=settings.optimizer,
        weights=settings.weights_dtype,
    )


def rule_of(settings: TrainingSettings) -> Rule | None:
    """What follows from held-out losses during a training, None without --eval-every.

    Raises BadSetting for settings that need it, for an average over last steps that are not known before, and for a tracker that
    is not installed.
    """
    if settings.track is not None:
        require_tracker(settings.track)
    if settings.eval_every is None:
        for flag, value in (("patience", settings.patience), ("weights", settings.weights)):
            if value is not None:
                raise BadSetting(
                    f"--{flag} {value}: needs --eval-every, the steps after which the held-out loss is measured: give both, "
                    "or leave it out"
                )
        return None
    if settings.patience is not None and (settings.average or "").startswith("last"):
        raise BadSetting(
            f"--average {settings.average}: with --patience a training may end early, so which steps are its last is not known "
            "before: give --average ema, or leave one of them out"
        )
    best = settings.weights == "best" or (settings.weights is None and settings.patience is not None)
    return Rule(settings.eval_every, settings.patience, best)


def tracked_of(settings: DistilSettings | PretrainSettings | TuneSettings, run: Mapping[str, Any]) -> Tracked | None:
    """How a tracker shows the trainings of a run; None without --track, and on ranks other than 0, where ``run`` is empty.

    Of the run's signature it shows plain values, without secrets and without the folders of files.
    """
    if settings.track is None or not run:
        return None
    plain = {key: value for key, value in run["signature"].items() if isinstance(value, str | int | float | bool)}
    shown = {key: without_folders(scrubbed(v), of=IN_VALUES) if isinstance(v, str) else v for key, v in plain.items()}
    return Tracked(settings.track, settings.out, "model", str(run["started"]), shown)


def _check_formats(settings: TrainingSettings, *, bf16: bool) -> None:
    """Raises BadSetting for an optimiser without its package, and for weights in a format that the training cannot use."""
    if settings.optimizer == "adamw-8bit":
        require_8bit()
    if settings.weights_dtype == "float32":
        return
    if not bf16:
        raise BadSetting(
            "--weights-dtype bfloat16: this run computes in float32, so it would gain nothing: give --dtype bfloat16, or "
            "leave it out"
        )
    if settings.optimizer == "adamw":
        raise BadSetting(
            "--weights-dtype bfloat16: updates that are rounded to nearest would be lost, so it needs an optimiser that rounds "
            "at random: give --optimizer adamw-bf16 or adamw-8bit"
        )
    if getattr(settings, "qat", None) is not None:
        raise BadSetting(
            "--weights-dtype bfloat16 does not go with --qat, which rounds weights in float32: leave one of them out"
        )


def optimiser_facts(plan: Plan) -> dict[str, Any]:
    """The optimiser's settings as run.json stores them; a gradient that is never scaled down has the norm null."""
    norm = plan.max_norm if math.isfinite(plan.max_norm) else None
    facts: dict[str, Any] = {"warmup": plan.warmup, "weight_decay": plan.weight_decay, "max_grad_norm": norm}
    facts |= {"average": plan.average} if plan.average else {}
    return facts | {"betas": list(plan.betas)}


def rule_facts(rule: Rule | None, stop_when: str | None = None) -> dict[str, Any]:
    """What follows from held-out losses as run.json stores it; nothing where nothing does. ``stop_when``: the setting."""
    if rule is None:
        return {}
    facts = {"eval_every": rule.every, "patience": rule.patience, "weights": "best" if rule.best else "last"}
    return facts | ({"stop_when": stop_when} if stop_when else {})


def _saving(interval: int | str | None) -> tuple[int, float]:
    """Steps and minutes after which a checkpoint is saved, whichever comes first."""
    if interval is None:
        return SAVE_STEPS, SAVE_MINUTES
    if isinstance(interval, str):
        return sys.maxsize, float(interval.removesuffix("min"))
    return interval, math.inf
