"""Ramp: an objective whose weight rises during training, a control for schedules such as TAID's.

An objective with a moving target also changes the size of its gradient. The same rise on a plain objective separates the two
effects. Like TAID's t, the weight advances once per optimiser step and is kept in buffers.
"""

from __future__ import annotations

from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.errors import BadObjective
from limbeck.objectives.base import Counting, Objective, Sum, in_range, objective
from limbeck.objectives.basic import ForwardKL
from limbeck.objectives.outcomes import Outcomes
from limbeck.types import Chunk, Signal


@objective
class Ramp(Counting):
    """An objective ``of`` times a weight that rises linearly over the training from ``start`` to ``end``.

    Raises BadObjective if ``of`` is not a single objective or the weights are not 0 <= start <= end <= 1.
    """

    weight: Tensor

    def __init__(self, *, of: Objective | None = None, start: float = 0.4, end: float = 1.0) -> None:
        super().__init__()
        of = ForwardKL() if of is None else of  # each its own: an objective keeps what it learned of its limits
        if not isinstance(of, Objective) or isinstance(of, Sum):
            raise BadObjective(f"Ramp: of must be one objective, as in Ramp(of=ForwardKL()), got {of!r}; ramps add up")
        in_range("Ramp: start", start, 0, 1, closed=True)
        in_range("Ramp: end", end, 0, 1, closed=True)
        if start > end:
            raise BadObjective(f"Ramp: the weight rises, so start must be <= end, got start={start}, end={end}")
        self.of, self.start, self.end = of, float(start), float(end)
        self.needs_teacher, self.largest, self.merge = of.needs_teacher, of.largest, of.merge
        self.steps = 0
        self.register_buffer("weight", torch.tensor(self.start, dtype=torch.float64))

    def forward(self, logits: Float[Tensor, "n V"], signal: Signal | None, chunk: Chunk) -> Float[Tensor, " n"]:
        """The objective's nats (n,), times the current weight."""
        return self.weight * self.of(logits, signal, chunk)

    def value_and_gradient(
        self, logits: Float[Tensor, "n V"], signal: Signal | None, chunk: Chunk
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "n V"]]:
        """As `Objective.value_and_gradient`, from that of the objective."""
        nats, gradient = self.of.value_and_gradient(logits, signal, chunk)
        with torch.enable_grad():  # of the objective's own parameters
            nats = self.weight * nats
        return nats, gradient.mul_(self.weight)

    def of_outcomes(self, outcomes: Outcomes) -> Float[Tensor, " n"]:
        """The objective's nats from captured outcomes, times the weight. Raises BadObjective as the objective does."""
        return self.weight * self.of.of_outcomes(outcomes)

    def of_chunks(self, log_p: Float[Tensor, " C"], log_q: Float[Tensor, " C"]) -> Float[Tensor, " C"]:
        """The objective's nats of chunks, times the weight. Raises BadObjective as the objective does."""
        return self.weight * self.of.of_chunks(log_p, log_q)

    def of_largest(self, p: Float[Tensor, "n k+1"], q: Float[Tensor, "n k+1"]) -> Float[Tensor, " n"]:
        """The objective's nats from sorted probabilities, times the weight. Raises BadObjective as the objective does."""
        return self.weight * self.of.of_largest(p, q)

    def begin(self, steps: int) -> None:
        """Sets the weight to its start, for a training of ``steps`` steps."""
        super().begin(steps)
        self.steps = steps
        self.weight.fill_(self.start)
        self.of.begin(steps)

    def advance(self, loss: float | Tensor) -> None:
        """Advances the weight by one step. The objective gets the weighted loss, as a term of a sum gets the sum's.

        Raises BadObjective if `begin` was not called.
        """
        if self.steps <= 0:
            raise BadObjective("Ramp: the number of steps is not set: call begin(steps) before the first step")
        done = min(1.0, self.counted() / self.steps)
        self.weight.fill_(self.start + (self.end - self.start) * done)
        self.of.advance(cast("float", loss))  # a number where it needs one
