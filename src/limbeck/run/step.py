"""One optimiser step.

An objective gives a loss per predicted token. Weight x loss is summed over all tokens of all micro-batches on all ranks and
divided once, by the total weight. So the step does not depend on how rows are split into micro-batches or ranks, and a masked
token counts exactly 0. Each micro-batch may have its own objective and teacher, such as cross-entropy for replayed text or a
teacher for each domain; most trainings have one of each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from limbeck.errors import NonFiniteLoss, NothingToLearn
from limbeck.objectives.base import Objective
from limbeck.objectives.fused import fused_backward
from limbeck.run.mesh import Mesh
from limbeck.run.micro import MicroBatch
from limbeck.types import Batch, CausalLM, ChunkTargets, ChunkTeacher, Outputs, Sparse, Teacher


@dataclass(frozen=True)
class Step:
    """The result of one optimiser step: mean loss (nats per token), total weight of its tokens, gradient norm before clipping."""

    loss: float
    tokens: float
    grad_norm: float


@dataclass(frozen=True)
class LossTerm:
    """A micro-batch, its objective, and the objective's teacher (None if it needs none)."""

    batch: Batch
    objective: Objective
    teacher: Teacher | ChunkTeacher | None = None

    @property
    def weight(self) -> float:
        """Summed weight of the tokens."""
        return float(self.batch.weight.sum())

    def signal(self) -> Outputs | Sparse | ChunkTargets | None:
        """The teacher's targets, without a graph; None if the objective needs no teacher."""
        if not self.objective.needs_teacher:
            return None
        assert self.teacher is not None, f"{self.objective} needs a teacher"
        with torch.no_grad():
            return self.teacher(self.batch)


def train_step(
    student: CausalLM,
    terms: Sequence[LossTerm],
    optimizer: torch.optim.Optimizer,
    *,
    mesh: Mesh,
    max_norm: float = 1.0,
    weights: Callable[[], AbstractContextManager[object]] = nullcontext,
    micro: MicroBatch | None = None,
) -> Step:
    """Updates the student (and the objectives' state) once, from the micro-batches of one global batch.

    While the gradient is computed, ``weights`` may put others in place of the student's; the gradient then updates its own.
    ``micro``: how many rows are computed at once, None for those of the terms; fewer where memory runs out.
    An objective advances by the mean loss of its own tokens. Raises NothingToLearn when no token of any rank has weight,
    NonFiniteLoss *before* the update when the loss or the gradient is not finite, so that weights and optimiser are
    unchanged; OutOfMemory if a single row is too much; Mismatch and BadObjective as `objectives.fused_backward`.
    """
    total = mesh.sum(float(sum(term.batch.weight.sum() for term in terms)))
    if total == 0:
        raise NothingToLearn(
            f"expected tokens with weight > 0 in every step, got {len(terms)} micro-batches without one: chat data need "
            "assistant turns; check the data with `limbeck doctor`."
        )
    micro = micro or MicroBatch(max(len(term.batch.tokens) for term in terms), together=mesh.sharded)

    def clear() -> None:
        optimizer.zero_grad(set_to_none=True)

    def gradients(parts: list[LossTerm]) -> list[tuple[LossTerm, float]]:
        """Adds the gradients of all parts; gives each with its share of the loss."""
        losses = []
        for number, term in enumerate(parts, 1):
            signal = term.signal()
            mesh.begin(student, last=number == len(parts))
            outputs = student(term.batch.for_student())
            if not term.weight:
                mesh.idle(outputs)
            losses.append(float(fused_backward(term.objective, outputs, signal, term.batch, scale=1 / total)))
        return list(zip(parts, losses, strict=True))

    clear()
    with weights():
        computed = micro.fitted(terms, gradients, clear)
    loss = mesh.sum(sum(part for _, part in computed))
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    mesh.sum_gradients(trained)
    norm = mesh.clip([p.grad for p in trained if p.grad is not None], max_norm)
    if not (math.isfinite(loss) and math.isfinite(norm)):
        clear()
        raise NonFiniteLoss(f"loss {loss} nats, gradient norm {norm}")
    optimizer.step()
    _advance(computed, loss, total, mesh)
    return Step(loss=loss, tokens=total, grad_norm=norm)


def _advance(computed: Sequence[tuple[LossTerm, float]], loss: float, total: float, mesh: Mesh) -> None:
    """Advances each objective by the mean loss of its own tokens; a single objective by the loss of the step."""
    objectives = {id(term.objective): term.objective for term, _ in computed}
    if len(objectives) == 1:
        computed[0][0].objective.advance(loss)
        return
    for key, objective in objectives.items():
        own = [(term.weight, part) for term, part in computed if id(term.objective) == key]
        weight = mesh.sum(sum(weight for weight, _ in own))
        if weight:
            objective.advance(mesh.sum(sum(part for _, part in own)) * total / weight)
