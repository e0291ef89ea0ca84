"""Approximate likelihood matching: a divergence between teacher's and student's likelihoods of the same chunks of text.

Minixhofer, Vulić & Ponti, arXiv 2503.20083, sec. 3. Of all texts in the place of a chunk only two outcomes are compared, this
chunk and anything else, at a temperature that keeps both away from 0 and 1. So the tokenizers may differ, and of the teacher only
its log-probabilities of the text are needed. With a shared tokenizer every token is a chunk.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck import divergence as formulas
from limbeck.errors import BadObjective
from limbeck.objectives.base import Objective, in_range, objective, unsupported
from limbeck.objectives.outcomes import Outcomes
from limbeck.types import Chunk, Signal

_DIVERGENCES = {
    "kl": formulas.kl,
    "reverse_kl": formulas.reverse_kl,
    "jensen_shannon": formulas.jensen_shannon,
    "total_variation": formulas.total_variation,
}
_CERTAIN = (
    1e-6  # nats below 0, at least, for every log-likelihood: at 0 divergences have no gradient or an infinite one
)


@objective
class ALM(Objective):
    """T times a divergence between (p^(1/T), 1 - p^(1/T)) and (q^(1/T), 1 - q^(1/T)), for a chunk's likelihoods p and q.

    Approximate likelihood matching (arXiv 2503.20083), in nats per chunk, with T = ``temperature``. The factor T is ours: it
    keeps the size of gradients as T grows. For large T (the paper's is 100) KL approaches s - t + t log(t / s), with the
    surprisals s = -log q and t = -log p: its pull towards a chunk is at most that of cross-entropy, and 0 where p = q.

    ``divergence`` is kl, reverse_kl, jensen_shannon or total_variation. ``merge`` is the paper's threshold gamma on tokenizer
    bias (sec. 3; 0.1 in the authors' runs): chunks are joined until the teacher's mass on next tokens that begin with a blank or
    end the document exceeds it. 0 joins none. The authors also scale a chunk's likelihoods by each side's mass on such tokens at
    its end; that factor is left out.

    Raises BadObjective for a parameter out of range.
    """

    def __init__(self, *, temperature: float = 100.0, divergence: str = "kl", merge: float = 0.0) -> None:
        super().__init__()
        in_range("ALM: temperature", temperature, 0, math.inf)
        in_range("ALM: merge", merge, 0, 1, closed=True)
        if divergence not in _DIVERGENCES:
            raise BadObjective(f"ALM: divergence must be one of {', '.join(_DIVERGENCES)}, got {divergence!r}")
        self.temperature, self.divergence, self.merge = float(temperature), divergence, float(merge)

    def forward(self, logits: Float[Tensor, "n V"], signal: Signal | None, chunk: Chunk) -> Float[Tensor, " n"]:
        """The divergence at each position, in nats: with a shared tokenizer every token is a chunk."""
        assert signal is not None, f"{self} needs a teacher"
        targets = chunk.targets[:, None]
        log_p, log_q = (x.gather(-1, targets).squeeze(-1) for x in (signal.log_p(), logits.log_softmax(-1)))
        return self.of_chunks(log_p, log_q).to(logits.dtype)

    def of_outcomes(self, outcomes: Outcomes) -> Float[Tensor, " n"]:
        """Raises BadObjective: the target is often not among the captured outcomes."""
        raise unsupported(self, "it compares likelihoods of the target, which is not always among those outcomes")

    def of_chunks(self, log_p: Float[Tensor, " C"], log_q: Float[Tensor, " C"]) -> Float[Tensor, " C"]:
        """The divergence of each chunk in nats, computed in float64 since 1 - p^(1/T) is a small difference."""
        return self.temperature * _DIVERGENCES[self.divergence](self._outcomes(log_p), self._outcomes(log_q))

    def _outcomes(self, log_p: Float[Tensor, " C"]) -> Float[Tensor, "C 2"]:
        """Log-probabilities at the temperature of the two outcomes, the chunk and anything else."""
        tempered = (log_p.double() - _CERTAIN) / self.temperature
        return torch.stack([tempered, _log_1m_exp(tempered)], -1)


def _log_1m_exp(x: Float[Tensor, " C"]) -> Float[Tensor, " C"]:
    """log(1 - exp(x)) of x < 0 without loss of digits (Maechler 2012, "Accurately computing log(1 - exp(-|a|))")."""
    return torch.where(x > -math.log(2), torch.log(-torch.expm1(x)), torch.log1p(-torch.exp(x)))
