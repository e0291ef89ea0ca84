"""Squared differences of logits, as an objective (Kim et al., arXiv 2105.08919, eq. 3)."""

from jaxtyping import Float
from torch import Tensor

from limbeck import Objective, Signal
from limbeck.types import Chunk


class LogitMSE(Objective):
    """Half the mean squared difference of teacher's and student's logits, each less its mean over the vocabulary."""

    def forward(self, logits: Float[Tensor, "n V"], signal: Signal | None, chunk: Chunk) -> Float[Tensor, " n"]:
        assert signal is not None
        log_p, log_q = signal.against(logits)  # logits but for a constant in each row, which the means take away
        difference = (log_p - log_p.mean(-1, keepdim=True)) - (log_q - log_q.mean(-1, keepdim=True))
        return difference.square().mean(-1) / 2
