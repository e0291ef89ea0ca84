"""One optimiser step.

The objective gives a distillation loss per predicted token. Weight x loss is summed over every token of every micro-batch on
every rank and divided once, by the total weight. So the step does not depend on how its rows are split into micro-batches or over
ranks, and a masked token counts exactly 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from limbeck.errors import NonFiniteLoss, NothingToLearn
from limbeck.objectives.base import Objective
from limbeck.objectives.fused import fused_backward
from limbeck.run.world import World
from limbeck.types import Batch, CausalLM, ChunkTargets, ChunkTeacher, Outputs, Sparse, Teacher


@dataclass(frozen=True)
class Step:
    """The result of one optimiser step: mean loss (nats per token), total weight of its tokens, gradient norm before clipping."""

    loss: float
    tokens: float
    grad_norm: float


def train_step(
    student: CausalLM,
    teacher: Teacher | ChunkTeacher | None,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    batches: Sequence[Batch],
    *,
    world: World,
    max_norm: float = 1.0,
) -> Step:
    """Updates the student (and the objective's state) once, from the micro-batches of one global batch.

    Gradients are clipped to the norm ``max_norm``. Raises NothingToLearn if no token on any rank has weight; NonFiniteLoss if the
    loss or the gradient is not finite, *before* the update: weights and optimiser are unchanged; Mismatch and BadObjective as
    `objectives.fused_backward`.
    """
    total = world.sum(float(sum(batch.weight.sum() for batch in batches)))
    if total == 0:
        raise NothingToLearn(
            f"expected tokens with weight > 0 in every step, got {len(batches)} micro-batches without one: chat data need "
            "assistant turns; check the data with `limbeck doctor`."
        )
    optimizer.zero_grad(set_to_none=True)
    loss = 0.0
    for batch in batches:
        signal: Outputs | Sparse | ChunkTargets | None = None
        if objective.needs_teacher:
            assert teacher is not None, f"{objective} needs a teacher"
            with torch.no_grad():
                signal = teacher(batch)
        loss += float(fused_backward(objective, student(batch), signal, batch, scale=1 / total))
    loss = world.sum(loss)
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    world.sum_gradients(trained)
    norm = _clip([p.grad for p in trained if p.grad is not None], max_norm)
    if not (math.isfinite(loss) and math.isfinite(norm)):
        optimizer.zero_grad(set_to_none=True)
        raise NonFiniteLoss(f"loss {loss} nats, gradient norm {norm}")
    optimizer.step()
    objective.advance(loss)
    return Step(loss=loss, tokens=total, grad_norm=norm)


def _clip(gradients: list[Tensor], max_norm: float) -> float:
    """Clips the gradients to a joint norm of at most ``max_norm``; gives the norm before clipping."""
    norm = torch.nn.utils.get_total_norm(gradients, foreach=True)
    if norm > max_norm:
        torch._foreach_mul_(gradients, float(max_norm / norm))
    return float(norm)
