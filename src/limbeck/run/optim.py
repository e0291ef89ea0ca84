"""The optimiser (AdamW), its parameter groups, and learning-rate schedules with warm-up."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from limbeck.config.defaults import BETAS, WARMUP
from limbeck.models.formats import slow_parameters
from limbeck.planning.cost.memory import Optimizer
from limbeck.run.eight_bit import adamw_8bit
from limbeck.run.rounded import RoundedAdamW

Schedule = Literal["wsd", "cosine", "constant"]
SLOWEST = 1e-3  # of state-space parameters, whatever the others have (Gu et al., arXiv 2206.11893, app. C)


def learning_rate(step: int, *, steps: int, peak: float, schedule: Schedule, warmup: float = WARMUP) -> float:
    """The learning rate of a step, counted from 0.

    All schedules have a linear warm-up over the first ``warmup`` share of the steps (of 1 or more: over so many steps). "wsd"
    then stays at the peak and decays linearly to 0 over the last fifth (Hu et al., arXiv 2404.06395, sec. 4); "cosine" decays to
    a tenth of the peak (Hoffmann et al., arXiv 2203.15556); "constant" stays at the peak.
    """
    rise = max(1, round(warmup if warmup >= 1 else steps * warmup))
    if step < rise:
        return peak * (step + 1) / rise
    if schedule == "constant":
        return peak
    if schedule == "cosine":
        done = (step - rise) / max(1, steps - rise)
        return peak * (0.1 + 0.45 * (1 + math.cos(math.pi * done)))
    fall = steps - falls_from(steps)
    return peak * min(1.0, (steps - step) / fall)


def falls_from(steps: int) -> int:
    """The step at which the rate of the schedule "wsd" begins to fall."""
    return steps - max(1, round(steps * 0.2))


Start = Literal["fresh", "made", "converted"]  # initialised at random; from a model's weights; those with new mixers
# Parameters up to which rates were tried out here. Those of "made": docs/results/rates.
TUNED: Mapping[Start, int] = {"fresh": 3_000_000, "made": 40_000_000, "converted": 3_000_000}
PUBLISHED = 1_000_000_000  # parameters from which the rate of published recoveries of pruned models is used
RECOVERY = 1e-4  # that peak rate
COSINE = 100_000_000  # parameters of a made student from which its schedule is a cosine


def suggested_learning_rate(parameters: int, *, start: Start = "fresh") -> float:
    """A peak learning rate for a model of this size.

    ``fresh`` (random weights): 0.002 at 1M parameters, proportional to size^(-1/4), 0.004 at most. Tuned on small students (0.1M
    to 3M, where 0.001 to 0.004 do not differ beyond noise); at 1.7B it gives 3.1e-4, where SmolLM2 used 5e-4 (arXiv 2502.02737).

    ``made`` (from another model's weights): the same up to 40M parameters (measured at 20M and 40M: docs/results/rates). From 1B
    on 1e-4, the rate of published recoveries of pruned models: Minitron (arXiv 2407.14679; NVIDIA ModelOpt's guideline is 1e-4 to
    1e-5), Llama-3.1-Minitron and MN-Minitron (arXiv 2408.11796), Sheared LLaMA (arXiv 2310.06694), whose students had 1.3B
    parameters or more. In between linear in the logarithms of both.

    ``converted`` (the teacher with other mixers): a third of ``fresh``, since a higher rate would destroy the copied weights, and
    at most ``made``.
    """
    fresh = float(min(4e-3, 2e-3 * (1e6 / max(parameters, 1)) ** 0.25))
    if start == "fresh":
        return fresh
    made, tuned = fresh, TUNED["made"]
    if parameters > tuned:
        there = suggested_learning_rate(tuned)
        way = min(1.0, math.log(parameters / tuned) / math.log(PUBLISHED / tuned))
        made = there ** (1 - way) * RECOVERY**way
    return made if start == "made" else min(made, fresh / 3)


TUNING, ADAPTERS = 0.3, 10.0  # factors of a tuning's rate: on that of training, and of adapters on that of all weights


def tuning_rate(parameters: int, *, adapters: bool = False) -> float:
    """A peak learning rate for tuning a trained model of this size: 0.3 of that of a ``made`` one, of adapters ten times that.

    The factor of adapters is that of "LoRA Without Regret" (Schulman et al., 2025), for any rank, where they are scaled by alpha
    over the rank.
    """
    rate = TUNING * suggested_learning_rate(parameters, start="made")
    return min(0.02, ADAPTERS * rate) if adapters else rate


def suggested_schedule(parameters: int, *, start: Start = "fresh") -> Schedule:
    """ "cosine" for students of 100M parameters or more made from a model, as in the sources of their rate; else "wsd"."""
    return "cosine" if start != "fresh" and parameters >= COSINE else "wsd"


def adamw(
    model: nn.Module,
    others: Iterable[Tensor],
    *,
    weight_decay: float,
    betas: tuple[float, float] = BETAS,
    kind: Optimizer = "adamw",
) -> torch.optim.Optimizer:
    """Fused AdamW, or one of another ``kind`` with a smaller state; `set_rates` sets its learning rates at each step.

    Three parameter groups: matrices with weight decay; vectors (norms, biases) and an objective's parameters (``others``)
    without; parameters that modules declare as ``SLOW``, without weight decay and with a lower peak rate. Where the model is
    sharded and ``others`` are not, they are a group of their own, since fused AdamW takes one kind at a time.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    slow = [p for p in slow_parameters(model) if p.requires_grad]
    apart = {id(p) for p in slow}
    plain = [p for p in trained if id(p) not in apart]
    vectors, others = [p for p in plain if p.ndim < 2], list(others)
    apart_too = any(isinstance(p, DTensor) for p in vectors)
    groups: list[dict[str, Any]] = [
        {"params": [p for p in plain if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": vectors if apart_too else vectors + others, "weight_decay": 0.0},
        {"params": others if apart_too else [], "weight_decay": 0.0},
        {"params": slow, "weight_decay": 0.0, "most": SLOWEST},
    ]
    some = [g for g in groups if g["params"]]
    if kind == "adamw-bf16":
        return RoundedAdamW(some, betas=betas)
    if kind == "adamw-8bit":
        return adamw_8bit(some, betas=betas)
    return torch.optim.AdamW(some, lr=0.0, betas=betas, fused=True)


def set_rates(
    optimizer: torch.optim.Optimizer,
    step: int,
    *,
    steps: int,
    peak: float,
    schedule: Schedule,
    warmup: float = WARMUP,
) -> float:
    """Sets the learning rate of each parameter group of `adamw` for a step; returns that of the groups without a limit."""

    def rate(peak: float) -> float:
        return learning_rate(step, steps=steps, peak=peak, schedule=schedule, warmup=warmup)

    for group in optimizer.param_groups:
        its = rate(min(peak, group.get("most", peak)))
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(its)  # which a compiled update reads
        else:
            group["lr"] = its
    return rate(peak)
