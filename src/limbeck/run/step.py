"""One optimiser step.

An objective gives a loss per predicted token. Weight x loss is summed over all tokens of all micro-batches on all ranks and
divided once, by the total weight. So the step does not depend on how rows are split into micro-batches or ranks, and a masked
token counts exactly 0. Each micro-batch may have its own objective and teacher, such as cross-entropy for replayed text or a
teacher for each domain; most trainings have one of each.

On a device that computes in the background a step only queues its work. The device itself leaves out an update that is not
finite, and the host reads loss and norm when it likes. It waits before the update where an objective needs the loss as
a number, or the optimiser cannot leave out an update.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import cast

import torch
from jaxtyping import Float64
from torch import Tensor

from limbeck.errors import NonFiniteLoss, NothingToLearn
from limbeck.host import on_host, queues
from limbeck.objectives.base import Objective
from limbeck.objectives.fused import fixed_weights, fused_backward
from limbeck.run.mesh import Mesh
from limbeck.run.micro import MicroBatch
from limbeck.types import Batch, CausalLM, ChunkTargets, ChunkTeacher, Outputs, PairTargets, Slopes, Sparse, Teacher


@dataclass(frozen=True)
class Step:
    """The result of one optimiser step: `loss`, `grad_norm`, and the total weight of its ``tokens``.

    ``numbers`` are loss and norm where they were computed. Where that is a device that computes in the background, reading them
    waits for it. Either raises NonFiniteLoss if one is not finite; then the step has updated nothing. ``unit``: that of the loss.
    """

    tokens: float
    numbers: Float64[Tensor, "2"]
    unit: str = "nats"

    @property
    def loss(self) -> float:
        """The mean loss, in the unit per token."""
        return self._read[0]

    @property
    def grad_norm(self) -> float:
        """The norm of the gradient before clipping."""
        return self._read[1]

    @cached_property
    def _read(self) -> tuple[float, float]:
        loss, norm = self.numbers.tolist()
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise NonFiniteLoss(f"loss {loss} {self.unit}, gradient norm {norm}")
        return loss, norm


@dataclass(frozen=True)
class LossTerm:
    """A micro-batch, its objective, and the objective's teacher (None if it needs none)."""

    batch: Batch
    objective: Objective
    teacher: Teacher | ChunkTeacher | None = None

    @property
    def weight(self) -> float:
        """Summed weight of the tokens."""
        return self.batch.total

    def signal(self) -> Outputs | Sparse | ChunkTargets | PairTargets | Slopes | None:
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
    objectives: Sequence[Objective] = (),
) -> Step:
    """Updates the student (and the objectives' state) once, from the micro-batches of one global batch.

    While the gradient is computed, ``weights`` may put others in place of the student's; the gradient then updates its own.
    ``micro``: how many rows are computed at once, None for those of the terms; fewer where memory runs out.
    An objective advances by the mean loss of its own tokens. ``objectives``: all that any rank may have terms of, in one order on
    all ranks; without, those of the terms, which are then of one kind on all ranks.

    Raises NothingToLearn when no token of any rank has weight, NonFiniteLoss *before* the update when the loss or the gradient is
    not finite, so that weights and optimiser are unchanged; on a device that computes in the background the result may raise it
    instead, when it is read. Raises OutOfMemory if a single row is too much; Mismatch and BadObjective as
    `objectives.fused_backward`.
    """
    total = mesh.sum(float(sum(on_host(term.batch.weight).sum() for term in terms)))
    if total == 0:
        raise NothingToLearn(
            f"expected tokens with weight > 0 in every step, got {len(terms)} micro-batches without one: chat data need "
            "assistant turns; check the data with `limbeck doctor`."
        )
    micro = micro or MicroBatch(max(len(term.batch.tokens) for term in terms), together=mesh.sharded)

    found = {id(one): one for one in objectives or [term.objective for term in terms]}
    tallies = [tally for objective in found.values() for tally in objective.tallies()]

    def clear() -> None:
        optimizer.zero_grad(set_to_none=True)
        for tally in tallies:
            tally.zero_()

    def gradients(parts: list[LossTerm]) -> list[tuple[LossTerm, Tensor]]:
        """Adds the gradients of all parts; gives each with its share of the loss."""
        losses = []
        for number, term in enumerate(parts, 1):
            signal = term.signal()
            mesh.begin(student, last=number == len(parts))
            outputs = student(term.batch.for_student())
            if not term.weight:
                mesh.idle(outputs)
            losses.append(fused_backward(term.objective, outputs, signal, term.batch, scale=1 / total))
        return list(zip(parts, losses, strict=True))

    clear()
    with weights(), fixed_weights():
        computed = micro.fitted(terms, gradients, clear)
    loss = mesh.sum_tensor(reduce(torch.add, [part for _, part in computed]))
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    mesh.sum_gradients(trained)
    norm = mesh.clip([p.grad for p in trained if p.grad is not None], max_norm)
    step = Step(total, torch.stack([loss, norm.to(loss)]))
    for tally in tallies:
        tally.copy_(mesh.sum_tensor(tally))
    if queues(loss.device):
        for objective in found.values():
            objective.settle()
        if not (mesh.sharded or _follow(found.values())) and _leaves_out(optimizer, step):
            optimizer.step()
            _advance(computed, found, loss, total, mesh)
            return step
    try:
        mean = step.loss
    except NonFiniteLoss:
        clear()
        raise
    optimizer.step()
    _advance(computed, found, mean, total, mesh)
    return step


def _follow(objectives: Iterable[Objective]) -> bool:
    """Whether one of the objectives changes with the loss or the number of steps."""
    parts = (part for objective in objectives for part in objective.modules())
    return any(isinstance(part, Objective) and part.follows for part in parts)


def _leaves_out(optimizer: torch.optim.Optimizer, step: Step) -> bool:
    """Makes the optimiser's next update one that the device leaves out unless the step is finite; False if it cannot."""
    if not (type(optimizer) is torch.optim.AdamW and optimizer.defaults["fused"]):
        return False
    vars(optimizer).update(found_inf=(~step.numbers.isfinite().all()).float(), grad_scale=None)
    return True


def _advance(
    computed: Sequence[tuple[LossTerm, Tensor]],
    objectives: Mapping[int, Objective],
    loss: float | Tensor,
    total: float,
    mesh: Mesh,
) -> None:
    """Advances each objective by the mean loss of its own tokens; a single objective by the loss of the step.

    A loss that is still on its device stays there: none of the objectives needs it as a number then (`Objective.follows`).
    """
    if len(objectives) == 1:
        next(iter(objectives.values())).advance(cast("float", loss))
        return
    for key, objective in objectives.items():
        own = [(term.weight, part) for term, part in computed if id(term.objective) == key]
        weight = mesh.sum(sum(weight for weight, _ in own))
        if not weight:
            continue
        if isinstance(loss, Tensor):
            mean: float | Tensor = mesh.sum_tensor(sum(part for _, part in own) + loss.new_zeros(())) * (total / weight)
        else:
            mean = mesh.sum(sum(float(part) for _, part in own)) * total / weight
        objective.advance(cast("float", mean))
