"""The policy gradient in the fused head: log q of sampled tokens, each times a number that is known before.

That number is minus the advantage of the sample (`run.policy`), the slope of the loss in log q of its tokens. So the head is
applied once, as for cross-entropy with a factor at each position, which may be negative.
"""

from __future__ import annotations

from typing import NoReturn

from jaxtyping import Float
from torch import Tensor

from limbeck.errors import BadObjective
from limbeck.objectives.base import Objective
from limbeck.types import Chunk, Signal


class PolicyGradient(Objective):
    """A loss whose slope in log q of each target is given as the teacher's signal, `types.Slopes`."""

    per = "a sample"

    def forward(self, logits: Float[Tensor, "n V"], signal: Signal | None, chunk: Chunk) -> NoReturn:
        """Raises BadObjective: without slopes there is no loss."""
        raise BadObjective(f"{self}: it needs the slope of each position, as limbeck tune --reward computes them")
