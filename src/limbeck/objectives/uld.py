"""Universal logit distillation: the teacher's and the student's probabilities, each sorted by size, are made alike.

Boizard et al., arXiv 2402.12030, sec. 3: the Wasserstein distance between two distributions over vocabularies that have no
ground distance in common, taking any two outcomes to be equally far, is the L1 distance of their sorted probabilities. What
an outcome is plays no part, so tokenizers may differ; cross-entropy has to say which is which (the paper adds it, with a
weight of 1.5 on this). The paper pairs the t-th position of the one with the t-th of the other, up to the shorter: after the
first word that the two split otherwise these are about different places in the text. Here those positions are paired that
have read the same bytes, where both have a boundary, and the others are left to the other terms.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from limbeck.errors import BadObjective
from limbeck.objectives import largest as sorted_probabilities
from limbeck.objectives.base import Objective, objective
from limbeck.types import Chunk, Signal


@objective
class ULD(Objective):
    """Sum of |p - q| over the sorted probabilities p of the teacher and q of the student: 0 to 2 a position, not nats.

    Of the ``largest`` of each, and the mass of all others as one more: never more than the whole sum, and less by at most
    twice what either leaves (`objectives.largest`).
    """

    def __init__(self, *, largest: int = 64) -> None:
        super().__init__()
        if not isinstance(largest, int) or isinstance(largest, bool) or largest < 1:
            raise BadObjective(f"ULD: largest must be a whole number >= 1, got {largest!r}")
        self.largest = largest

    def forward(self, logits: Float[Tensor, "n V"], signal: Signal | None, chunk: Chunk) -> Float[Tensor, "n"]:
        """Of a teacher with the student's tokens every position is one where both have read the same."""
        assert signal is not None, f"{self} needs a teacher"
        p, q = (s.largest(self.largest) for s in (signal, Signal(logits)))
        return self.of_largest(*(sorted_probabilities.with_rest(x[:, : p.shape[-1]]) for x in (p, q)))

    def value_and_gradient(
        self, logits: Float[Tensor, "n V"], signal: Signal | None, chunk: Chunk
    ) -> tuple[Float[Tensor, "n"], Float[Tensor, "n V"]]:
        """As `Objective.value_and_gradient`, in closed form."""
        assert signal is not None, f"{self} needs a teacher"
        return sorted_probabilities.value_and_gradient(self, signal.largest(self.largest), logits.softmax(-1))

    def of_largest(self, p: Float[Tensor, "n k+1"], q: Float[Tensor, "n k+1"]) -> Float[Tensor, "n"]:
        """The L1 distance of the two."""
        return (p - q).abs().sum(-1)
