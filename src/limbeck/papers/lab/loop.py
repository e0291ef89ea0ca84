"""The training loop of all recipes, and its optimiser. A recipe gives the loss of a step, a schedule, and what is measured.

A loss or gradient that is not finite ends a training before the update, so what is measured afterwards are the weights before
it. Parameters that mixers declare slow (``SLOW``, `run.optim`) are a group with a peak rate of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from limbeck.run.optim import SLOWEST, learning_rate, slow_parameters

CLIP = 1.0  # norm of the gradient
WARMUP = 0.1  # share of the steps, of `cosine`

Rate = Callable[[int, float], float]  # (step from 1, peak of the group) → learning rate


@dataclass(frozen=True)
class Trained:
    """How far a training came: ``steps`` with the last, which made no update where ``failed``."""

    steps: int
    failed: bool

    @property
    def updates(self) -> int:
        """Steps that changed the weights."""
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
    """Trains for ``steps`` optimiser steps at most. ``loss`` gives the loss of a step, counted from 1.

    ``look`` is called after each step with its number and whether the training failed there; True ends the training.
    """
    step, failed, ended = 0, False, False
    while step < steps and not (failed or ended):
        step += 1
        failed = not update(model, optimizer, loss(step), partial(rate, step))
        ended = look is not None and look(step, failed)
    return Trained(step, failed)


def update(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor, rate: Callable[[float], float]) -> bool:
    """One optimiser step on a loss, gradients clipped; False, and no step, where the gradient is not finite."""
    optimizer.zero_grad()
    loss.backward()
    if not torch.isfinite(torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)):
        return False
    for group in optimizer.param_groups:
        group["lr"] = rate(group["peak"])
    optimizer.step()
    return True


def adamw_of(
    model: nn.Module,
    *,
    rate: float,
    weight_decay: float,
    betas: tuple[float, float] = (0.9, 0.95),
    slow: float | None = SLOWEST,
) -> torch.optim.AdamW:
    """AdamW with a ``peak`` rate in each group. Matrices decay; vectors and what mixers declare slow do not.

    ``slow`` is the largest peak of what mixers declare slow; None: they are parameters like the others.
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
    """All rates up in a line over `WARMUP` of the steps, then down to a tenth as a cosine."""
    return lambda step, peak: peak * learning_rate(step - 1, steps=steps, peak=1.0, schedule="cosine", warmup=WARMUP)
