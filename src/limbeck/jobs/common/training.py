"""The plan of a training, from the settings that `limbeck distil` and `limbeck pretrain` share."""

from __future__ import annotations

import math
import sys
from typing import Any

from limbeck.config import TrainingSettings
from limbeck.config.defaults import SAVE_MINUTES, SAVE_STEPS
from limbeck.errors import BadSetting
from limbeck.run.optim import Schedule
from limbeck.run.run import Plan


def plan_of(settings: TrainingSettings, *, steps: int, rows: int, lr: float, schedule: Schedule, bf16: bool) -> Plan:
    """The plan of a training of ``steps`` steps of ``rows`` rows. Raises BadSetting for a warm-up that would not end."""
    if settings.warmup >= max(2, steps):
        raise BadSetting(
            f"--warmup {settings.warmup:g}: the training has {steps} steps, so its learning rate would only rise: give fewer "
            "steps, or a share of them such as 0.05"
        )
    save_every, save_minutes = _saving(settings.save_every)
    return Plan(
        steps=steps,
        rows=rows,
        lr=lr,
        schedule=schedule,
        bf16=bf16,
        weight_decay=settings.weight_decay,
        max_norm=settings.max_grad_norm or math.inf,
        warmup=settings.warmup,
        betas=settings.betas,
        save_every=save_every,
        save_minutes=save_minutes,
        micro=settings.micro_batch,
        checkpointing=settings.checkpointing,
    )


def optimiser_facts(plan: Plan) -> dict[str, Any]:
    """The optimiser's settings as run.json stores them; a gradient that is never scaled down has the norm null."""
    norm = plan.max_norm if math.isfinite(plan.max_norm) else None
    facts = {"warmup": plan.warmup, "weight_decay": plan.weight_decay, "max_grad_norm": norm}
    return facts | {"betas": list(plan.betas)}


def _saving(interval: int | str | None) -> tuple[int, float]:
    """Steps and minutes after which a checkpoint is saved, whichever comes first."""
    if interval is None:
        return SAVE_STEPS, SAVE_MINUTES
    if isinstance(interval, str):
        return sys.maxsize, float(interval.removesuffix("min"))
    return interval, math.inf
