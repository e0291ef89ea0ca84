"""The training loop of all recipes, and its optimiser. A recipe gives the loss of a step, a schedule, and the measurements.

A loss or gradient that is not finite ends a training before the update, so measurements are of the weights before it. Parameters
that mixers declare slow (``SLOW``, `run.optim`) are a group with its own peak rate.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from limbeck.models.formats import slow_parameters
from limbeck.run.optim import SLOWEST, learning_rate

CLIP = 1.0  # largest norm of the gradient
WARMUP = 0.1  # share of the steps in `cosine`

Rate = Callable[[int, float], float]  # (step from 1, peak of the group) → learning rate


@dataclass(frozen=True)
class Trained:
    """The end of a training: ``steps`` includes the last one, which made no update if ``failed``.

    ``norms`` are those of the gradient before it was clipped, one a step.
    """

    steps: int
    failed: bool
    norms: tuple[float, ...] = field(default=(), compare=False, repr=False)

    @property
    def updates(self) -> int:
        """The number of steps that changed the weights."""
        return self.steps - self.failed


def train_steps(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Callable[[int], Tensor],
    rate: Rate,
    *,
    steps: int,
    look: Callable[[int, bool], bool] | None = None,
) -> Trained:
    """Trains for at most ``steps`` optimiser steps. ``loss`` gives the loss of a step, a scalar in nats, counted from 1.

    ``look`` is called after each step with its number and whether the training failed there. True ends the training.
    """
    step, failed, ended = 0, False, False
    norms = []
    while step < steps and not (failed or ended):
        step += 1
        norms.append(update(model, optimizer, loss(step), partial(rate, step)))
        failed = not math.isfinite(norms[-1])
        ended = look is not None and look(step, failed)
    return Trained(step, failed, tuple(norms))


def update(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor, rate: Callable[[float], float]) -> float:
    """One optimiser step on a scalar ``loss`` with clipped gradients; none if the gradient is not finite.

    Gives the norm of the gradient before it is clipped.
    """
    optimizer.zero_grad()
    loss.backward()
    norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP))
    if math.isfinite(norm):
        for group in optimizer.param_groups:
            group["lr"] = rate(group["peak"])
        optimizer.step()
    return norm


def adamw_of(
    model: nn.Module,
    *,
    rate: float,
    weight_decay: float,
    betas: tuple[float, float] = (0.9, 0.95),
    slow: float | None = SLOWEST,
) -> torch.optim.AdamW:
    """AdamW with a ``peak`` rate in each group. Matrices have weight decay; vectors and slow parameters do not.

    ``slow`` is the largest peak of parameters that mixers declare slow. With None, they are like the others.
    """
    apart = {id(p) for p in slow_parameters(model)} if slow is not None else set()
    declared = [p for p in model.parameters() if id(p) in apart]
    others = [p for p in model.parameters() if id(p) not in apart]
    groups = [
        {"params": declared, "peak": rate if slow is None else min(rate, slow), "weight_decay": 0.0},
        {"params": [p for p in others if p.ndim >= 2], "peak": rate, "weight_decay": weight_decay},
        {"params": [p for p in others if p.ndim < 2], "peak": rate, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=betas, fused=True)


def cosine(steps: int) -> Rate:
    """The schedule of all rates: linear warm-up over `WARMUP` of the steps, then a cosine down to a tenth."""
    return lambda step, peak: peak * learning_rate(step - 1, steps=steps, peak=1.0, schedule="cosine", warmup=WARMUP)
