"""Universal logit distillation: the L1 distance between the sorted probabilities of teacher and student.

Boizard et al., arXiv 2402.12030, sec. 3: it is the Wasserstein distance between two distributions over different vocabularies, if
any two outcomes are equally far apart. Tokenizers may differ, since it does not depend on which token has which probability; that
must come from cross-entropy (the paper adds it, with a weight of 1.5 on this distance). The paper pairs the t-th positions of
both, up to the shorter: after the first word that the tokenizers split differently, these are at different places in the text.
Here positions are paired that have read the same bytes, where both have a token boundary; other positions have no such term.
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

    It uses the ``largest`` probabilities of each, and the mass of all others as one more. That is at most the sum over all, and
    lower by at most twice the smaller rest (`objectives.largest`). Source: arXiv 2402.12030. Raises BadObjective if ``largest``
    is not a whole number >= 1.
    """

    def __init__(self, *, largest: int = 64) -> None:
        super().__init__()
        if not isinstance(largest, int) or isinstance(largest, bool) or largest < 1:
            raise BadObjective(f"ULD: largest must be a whole number >= 1, got {largest!r}")
        self.largest = largest

    def forward(self, logits: Float[Tensor, "n V"], signal: Signal | None, chunk: Chunk) -> Float[Tensor, " n"]:
        """The distance at each position (n,): with a shared tokenizer all positions have read the same text.

        Raises Mismatch for sampled outcomes, which do not give the largest probabilities.
        """
        assert signal is not None, f"{self} needs a teacher"
        p, q = (s.largest(self.largest) for s in (signal, Signal(logits)))
        return self.of_largest(*(sorted_probabilities.with_rest(x[:, : p.shape[-1]]) for x in (p, q)))

    def value_and_gradient(
        self, logits: Float[Tensor, "n V"], signal: Signal | None, chunk: Chunk
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "n V"]]:
        """As `Objective.value_and_gradient`, in closed form."""
        assert signal is not None, f"{self} needs a teacher"
        return sorted_probabilities.value_and_gradient(self, signal.largest(self.largest), logits.softmax(-1))

    def of_largest(self, p: Float[Tensor, "n k+1"], q: Float[Tensor, "n k+1"]) -> Float[Tensor, " n"]:
        """The L1 distance of the sorted probabilities, (n,)."""
        return (p - q).abs().sum(-1)
