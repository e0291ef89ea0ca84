"""Approximate likelihood matching: the teacher's and the student's likelihoods of the same chunks of text are made alike.

Minixhofer, Vulić & Ponti, arXiv 2503.20083, sec. 3: of all that might have stood in the place of a chunk only two outcomes are
looked at, this chunk and anything else, at a temperature that keeps either from being almost certain. So tokenizers may
differ, and a teacher need not tell more than how likely it finds the text. With one tokenizer every token is a chunk.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck import divergence as formulas
from limbeck.errors import BadObjective
from limbeck.objectives.base import Objective, in_range, objective, refused
from limbeck.objectives.outcomes import Outcomes
from limbeck.types import Chunk, Signal

_DIVERGENCES = {
    "kl": formulas.kl,
    "reverse_kl": formulas.reverse_kl,
    "jensen_shannon": formulas.jensen_shannon,
    "total_variation": formulas.total_variation,
}
_CERTAIN = 1e-6  # nats: no likelihood is taken to be nearer to 1, where divergences have no gradient or an infinite one


@objective
class ALM(Objective):
    """A divergence between (p^(1/T), 1 - p^(1/T)) and the same of q, with p and q the likelihoods of a chunk, times T.

    In nats of each chunk. The factor T is ours: it keeps the size of gradients as T grows. Far up, where the paper is with
    T = 100, KL comes to s - t + t log(t / s), with s and t the surprisals -log q and -log p: it pulls the student towards a
    chunk by at most what cross-entropy does, and not at all once both find it equally likely.

    ``merge`` is the paper's threshold gamma on the bias of tokenizers (sec. 3; the authors' runs take 0.1): the likelihood of
    tokens is that of their text only where nothing longer could have been meant, so chunks are joined until the teacher gives
    more than this to next tokens that begin with a blank or close the document. 0 joins none. The factor that the authors also
    put on the likelihoods of a chunk, each side's mass on such tokens at its end, is left out.
    """

    def __init__(self, *, temperature: float = 100.0, divergence: str = "kl", merge: float = 0.0) -> None:
        super().__init__()
        in_range("ALM: temperature", temperature, 0, math.inf)
        in_range("ALM: merge", merge, 0, 1, closed=True)
        if divergence not in _DIVERGENCES:
            raise BadObjective(f"ALM: divergence must be one of {', '.join(_DIVERGENCES)}, got {divergence!r}")
        self.temperature, self.divergence, self.merge = float(temperature), divergence, float(merge)

    def forward(self, logits: Float[Tensor, "n V"], signal: Signal | None, chunk: Chunk) -> Float[Tensor, "n"]:
        """Of a teacher with the student's tokens each token is a chunk."""
        assert signal is not None, f"{self} needs a teacher"
        targets = chunk.targets[:, None]
        log_p, log_q = (x.gather(-1, targets).squeeze(-1) for x in (signal.log_p(), logits.log_softmax(-1)))
        return self.of_chunks(log_p, log_q).to(logits.dtype)

    def of_outcomes(self, outcomes: Outcomes) -> Float[Tensor, "n"]:
        """Raises BadObjective: the target is seldom among the few outcomes that a teacher left."""
        raise refused(self, "what it compares is the target's likelihood, which is not always among them")

    def of_chunks(self, log_p: Float[Tensor, "C"], log_q: Float[Tensor, "C"]) -> Float[Tensor, "C"]:
        """The divergence of each chunk, in float64: 1 - p^(1/T) is a small difference."""
        return self.temperature * _DIVERGENCES[self.divergence](self._outcomes(log_p), self._outcomes(log_q))

    def _outcomes(self, log_p: Float[Tensor, "C"]) -> Float[Tensor, "C 2"]:
        """log of the tempered likelihoods of a chunk and of anything else."""
        tempered = (log_p.double() - _CERTAIN) / self.temperature
        return torch.stack([tempered, _log_1m_exp(tempered)], -1)


def _log_1m_exp(x: Float[Tensor, "C"]) -> Float[Tensor, "C"]:
    """log(1 - exp(x)) of x < 0 without loss of digits (Maechler 2012, "Accurately computing log(1 - exp(-|a|))")."""
    return torch.where(x > -math.log(2), torch.log(-torch.expm1(x)), torch.log1p(-torch.exp(x)))
