"""Decoupled knowledge distillation: separate terms for the target token and all others (Zhao et al., arXiv 2203.08679, eq. 7).

In forward KL the second term is multiplied by the teacher's probability of the other tokens; here it has its own weight. Both
terms are computed from the logits without the target's, so that a probability close to 1 loses no digits.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from limbeck import divergence
from limbeck.errors import BadObjective
from limbeck.objectives.base import ClosedForm, Pair, in_range, objective, unsupported
from limbeck.objectives.outcomes import Outcomes
from limbeck.types import Chunk, Signal, tempered


@objective
class DKD(ClosedForm):
    """alpha KL over {target, not target} + beta KL over the other tokens among themselves, in nats (arXiv 2203.08679, eq. 7).

    Raises BadObjective for a parameter out of range, or if alpha and beta are both 0.
    """

    def __init__(self, *, alpha: float = 1.0, beta: float = 0.5, temperature: float = 1.0) -> None:
        super().__init__()
        in_range("DKD: alpha", alpha, 0, 1e6, closed=True)
        in_range("DKD: beta", beta, 0, 1e6, closed=True)
        in_range("DKD: temperature", temperature, 0, math.inf)
        if alpha == beta == 0:
            raise BadObjective(
                "DKD: expected alpha or beta to be > 0, got 0 for both, which gives no loss: raise one of them"
            )
        self.alpha, self.beta, self.temperature = float(alpha), float(beta), float(temperature)

    def forward(self, logits: Float[Tensor, "n V"], signal: Signal | None, chunk: Chunk) -> Float[Tensor, " n"]:
        """The weighted sum at the temperature, times temperature squared; in nats (n,)."""
        assert signal is not None, f"{self} needs a teacher"
        odds_p, log_p = _apart(tempered(signal.logits, self.temperature), chunk.targets)
        odds_q, log_q = _apart(tempered(logits, self.temperature), chunk.targets)
        target = divergence.kl(_two(odds_p), _two(odds_q))
        return self.temperature**2 * (self.alpha * target + self.beta * divergence.kl(log_p, log_q))

    def of_outcomes(self, outcomes: Outcomes) -> Float[Tensor, " n"]:
        """Raises BadObjective: the target may not be among the captured outcomes."""
        raise unsupported(
            self, "it needs the teacher's probability of the target, which may not be among those outcomes"
        )

    def closed_form(self, pair: Pair, chunk: Chunk) -> tuple[Tensor, Tensor]:
        """Nats (n,) and gradient (n, V): alpha (b - a) at the target; beta (q' - p') - alpha (b - a) q' at the others."""
        assert pair.signal is not None, f"{self} needs a teacher"
        targets = chunk.targets[:, None]
        odds_p, log_p = _apart(tempered(pair.signal.logits, self.temperature), chunk.targets)
        odds_q, log_q = _apart(tempered(pair.logits, self.temperature), chunk.targets)
        others_p, others_q = log_p.exp(), log_q.exp()
        log_ratio = log_p.sub_(log_q).scatter_(-1, targets, 0.0)
        nats = self.alpha * divergence.kl(_two(odds_p), _two(odds_q))
        nats += self.beta * torch.linalg.vecdot(others_p, log_ratio).clamp_(min=0)
        excess = self.alpha * (odds_q.sigmoid() - odds_p.sigmoid())[:, None]
        gradient = others_q.mul_(self.beta - excess).sub_(others_p, alpha=self.beta)
        return nats, gradient.scatter_(-1, targets, excess)


def _apart(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Log-odds of the target against all others together, (n,); log-probabilities of the others, -inf at the target."""
    targets = targets[:, None]
    others = logits.scatter(-1, targets, -math.inf)
    log_others = others.log_softmax(-1)
    # log of the sum of exponentials, from the largest: one pass where logsumexp takes four
    total = others.amax(-1) - log_others.amax(-1)
    return logits.gather(-1, targets).squeeze(-1) - total, log_others


def _two(odds: Tensor) -> Tensor:
    """Log-probabilities of two outcomes from their log-odds, (n, 2)."""
    return torch.stack([logsigmoid(odds), logsigmoid(-odds)], -1)
