"""Cross-entropy and the divergences between teacher and student, each with its gradient written out.

p is the teacher's distribution, q the student's, z the student's logits. For a divergence D with slope g = dD/dq the gradient in
z is q (g - sum q g), since softmax is invariant to a constant added to all logits. `ClosedForm` defines the use of a temperature.
"""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck import divergence
from limbeck.objectives.base import ClosedForm, Pair, in_range, objective, unsupported
from limbeck.objectives.outcomes import OfOutcomes, Outcomes
from limbeck.types import Chunk, Signal


@objective
class CrossEntropy(ClosedForm):
    """Cross-entropy: -log q of the target token, in nats. It needs no teacher and has no temperature."""

    needs_teacher = False

    def forward(self, logits: Float[Tensor, "n V"], signal: Signal | None, chunk: Chunk) -> Float[Tensor, " n"]:
        """-log q of the targets (n,), in nats."""
        return -logits.log_softmax(-1).gather(-1, chunk.targets[:, None]).squeeze(-1)

    def of_outcomes(self, outcomes: Outcomes) -> Float[Tensor, " n"]:
        """-log q of the targets."""
        return -outcomes.target

    def slopes_of_outcomes(self, outcomes: Outcomes) -> OfOutcomes:
        """-log q of the targets, whose slope is -1."""
        if type(self) is not CrossEntropy:  # a user's own may differ
            return super().slopes_of_outcomes(outcomes)
        return OfOutcomes(-outcomes.target, None, torch.full_like(outcomes.target, -1.0))

    def closed_form(self, pair: Pair, chunk: Chunk) -> tuple[Tensor, Tensor]:
        """Nats (n,) and gradient (n, V), which is q, minus 1 at the target."""
        targets = chunk.targets[:, None]
        nats = -pair.log_q.gather(-1, targets).squeeze(-1)
        q = pair.own("log_q").exp_()
        return nats, q.scatter_add_(-1, targets, q.new_full(targets.shape, -1.0))


class Divergence(ClosedForm):
    """A divergence between teacher and student at a temperature, in nats.

    ``unbounded``: its `integrand` is unbounded where the student has mass and the teacher has almost none, so that a sum over
    sampled outcomes would be dominated by outcomes that were not sampled.
    """

    unbounded = False

    def __init__(self, *, temperature: float = 1.0) -> None:
        super().__init__()
        in_range(f"{type(self).__name__}: temperature", temperature, 0, math.inf)
        self.temperature = float(temperature)

    @abstractmethod
    def between(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """The divergence of n pairs of log-distributions (n, K), in nats (n,)."""

    def forward(self, logits: Float[Tensor, "n V"], signal: Signal | None, chunk: Chunk) -> Float[Tensor, " n"]:
        """The divergence at the temperature, times temperature to the power ``order``; in nats (n,)."""
        assert signal is not None, f"{self} needs a teacher"
        return self.temperature**self.order * self.between(*signal.against(logits, self.temperature))

    def integrand(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """f(log p, log q) of each outcome, (n, K), for divergences of the form D = sum p f(log p, log q).

        Raises BadObjective for others.
        """
        raise unsupported(self, "it is not a sum over outcomes")

    def of_outcomes(self, outcomes: Outcomes) -> Float[Tensor, " n"]:
        """The sum of weight times the integrand, in nats (n,).

        Raises BadObjective at a temperature other than 1, and for sampled outcomes if the integrand is ``unbounded``.
        """
        if self.temperature != 1.0:
            raise unsupported(self, "they are probabilities at temperature 1, from which no other temperature follows")
        if self.unbounded and not outcomes.has_rest:
            raise unsupported(
                self, "it depends on outcomes where the teacher has no mass, and sampled outcomes are where it has mass"
            )
        return outcomes.expect(self.integrand(outcomes.log_p, outcomes.log_q))


@objective
class ForwardKL(Divergence):
    """Forward KL(p || q), in nats: the student covers all of the teacher's mass (Hinton et al., arXiv 1503.02531)."""

    def between(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """KL(p || q) of log-distributions (n, K), in nats (n,)."""
        return divergence.kl(log_p, log_q)

    def integrand(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """log p/q outcome by outcome (n, K)."""
        return log_p - log_q

    def slopes_of_outcomes(self, outcomes: Outcomes) -> OfOutcomes:
        """As `of_outcomes`; the slopes are minus the weights."""
        if type(self) is not ForwardKL:  # a user's own may differ
            return super().slopes_of_outcomes(outcomes)
        return OfOutcomes(self.of_outcomes(outcomes), -outcomes.weight, None)

    def closed_form(self, pair: Pair, chunk: Chunk) -> tuple[Tensor, Tensor]:
        """Nats (n,) and gradient (n, V), which is q - p."""
        return forward_kl(pair)


@objective
class ReverseKL(Divergence):
    """Reverse KL(q || p), in nats: the student keeps to where the teacher has mass (MiniLLM, arXiv 2306.08543).

    It is computed on given text, not on the student's own samples.
    """

    unbounded = True

    def between(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """KL(q || p) of log-distributions (n, K), in nats (n,)."""
        return divergence.reverse_kl(log_p, log_q)

    def integrand(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """q/p log q/p outcome by outcome (n, K)."""
        log_ratio = log_q - log_p
        return log_ratio.exp() * log_ratio

    def closed_form(self, pair: Pair, chunk: Chunk) -> tuple[Tensor, Tensor]:
        """Nats (n,) and gradient (n, V), which is q (log q/p - KL)."""
        log_p = pair.own("log_p")
        log_ratio = torch.sub(pair.log_q, log_p, out=log_p)
        q = pair.own("log_q").exp_()
        nats = torch.linalg.vecdot(q, log_ratio)
        return nats.clamp(min=0), log_ratio.sub_(nats[:, None]).mul_(q)


@objective
class JensenShannon(Divergence):
    """Generalised Jensen-Shannon divergence, in nats: beta KL(p || m) + (1 - beta) KL(q || m), m = beta p + (1 - beta) q.

    GKD (arXiv 2306.13649). Near beta = 0 it is about beta KL(p || q), near 1 about (1 - beta) KL(q || p); for the limits use
    ForwardKL and ReverseKL.
    """

    unbounded = True

    def __init__(self, *, beta: float = 0.5, temperature: float = 1.0) -> None:
        super().__init__(temperature=temperature)
        in_range("JensenShannon: beta", beta, 0, 1)
        self.beta = float(beta)

    def between(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """The generalised Jensen-Shannon divergence of log-distributions (n, K), in nats (n,)."""
        return divergence.jensen_shannon(log_p, log_q, beta=self.beta)

    def integrand(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """beta log p/m + (1 - beta) q/p log q/m outcome by outcome (n, K)."""
        log_m = divergence.log_mixture(log_p, log_q, self.beta)
        return self.beta * (log_p - log_m) + (1 - self.beta) * (log_q - log_p).exp() * (log_q - log_m)

    def closed_form(self, pair: Pair, chunk: Chunk) -> tuple[Tensor, Tensor]:
        """Nats (n,) and gradient (n, V). The slope is (1 - beta) log q/m: the terms from m add up to a constant."""
        p, q = pair.own("log_p").exp_(), pair.own("log_q").exp_()
        m = torch.lerp(q, p, self.beta)
        log_q_m = _ratio(q, m, out=torch.empty_like(q)).log_()
        log_p_m = _ratio(p, m, out=m).log_()
        teacher = log_p_m.mul_(p).sum(-1)
        student = torch.mul(q, log_q_m, out=p).sum(-1)
        nats = self.beta * teacher + (1 - self.beta) * student
        return nats.clamp_(min=0), log_q_m.sub_(student[:, None]).mul_(q).mul_(1 - self.beta)


@objective
class SkewKL(Divergence):
    """Skew KL(p || alpha p + (1 - alpha) q), in nats, with a bounded gradient (DistiLLM, arXiv 2402.03898)."""

    def __init__(self, *, alpha: float = 0.1, temperature: float = 1.0) -> None:
        super().__init__(temperature=temperature)
        in_range("SkewKL: alpha", alpha, 0, 1)
        self.alpha = float(alpha)

    def between(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """KL(p || alpha p + (1 - alpha) q) of log-distributions (n, K), in nats (n,)."""
        return divergence.skew_kl(log_p, log_q, alpha=self.alpha)

    def integrand(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """log p/m outcome by outcome (n, K)."""
        return log_p - divergence.log_mixture(log_p, log_q, self.alpha)

    def closed_form(self, pair: Pair, chunk: Chunk) -> tuple[Tensor, Tensor]:
        """Nats (n,) and gradient (n, V). The slope is -(1 - alpha) p/m."""
        p, q = pair.own("log_p").exp_(), pair.own("log_q").exp_()
        m = torch.lerp(q, p, self.alpha)
        ratio = _ratio(p, m, out=m)
        nats = torch.log(ratio).mul_(p).sum(-1)
        weighted = torch.mul(q, ratio, out=p)
        mean = weighted.sum(-1)
        slope = self.alpha - 1
        return nats.clamp_(min=0), q.mul_(-slope * mean[:, None]).add_(weighted, alpha=slope)


@objective
class SkewReverseKL(Divergence):
    """Skew reverse KL(q || alpha q + (1 - alpha) p), in nats (DistiLLM, arXiv 2402.03898)."""

    unbounded = True

    def __init__(self, *, alpha: float = 0.1, temperature: float = 1.0) -> None:
        super().__init__(temperature=temperature)
        in_range("SkewReverseKL: alpha", alpha, 0, 1)
        self.alpha = float(alpha)

    def between(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """KL(q || alpha q + (1 - alpha) p) of log-distributions (n, K), in nats (n,)."""
        return divergence.skew_reverse_kl(log_p, log_q, alpha=self.alpha)

    def integrand(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """q/p log q/m outcome by outcome (n, K)."""
        return (log_q - log_p).exp() * (log_q - divergence.log_mixture(log_q, log_p, self.alpha))

    def closed_form(self, pair: Pair, chunk: Chunk) -> tuple[Tensor, Tensor]:
        """Nats (n,) and gradient (n, V). The slope is log q/m - alpha q/m."""
        p, q = pair.own("log_p").exp_(), pair.own("log_q").exp_()
        m = torch.lerp(p, q, self.alpha)
        ratio = _ratio(q, m, out=m)
        slope = torch.log(ratio)
        nats = torch.mul(q, slope, out=p).sum(-1)
        slope.sub_(ratio, alpha=self.alpha)
        mean = torch.mul(q, slope, out=p).sum(-1)
        return nats.clamp_(min=0), slope.sub_(mean[:, None]).mul_(q)


@objective
class TotalVariation(Divergence):
    """Total variation, half the sum of |p - q|: a probability from 0 to 1, not nats.

    It is linear near its minimum, so it is multiplied by the temperature once.
    """

    order = 1

    def between(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """Half the sum of |p - q| of log-distributions (n, K), (n,). It is a probability, not nats."""
        return divergence.total_variation(log_p, log_q)

    def integrand(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """1 - q/p where positive, else 0, outcome by outcome (n, K). The mass that q lacks there equals its excess elsewhere."""
        return (1 - (log_q - log_p).exp()).clamp(min=0)

    def closed_form(self, pair: Pair, chunk: Chunk) -> tuple[Tensor, Tensor]:
        """The distance (n,) and its gradient (n, V). The slope is half the sign of q - p."""
        p, q = pair.own("log_p").exp_(), pair.own("log_q").exp_()
        gap = torch.sub(q, p, out=p)
        share = 0.5 * gap.abs().sum(-1)
        slope = gap.sign_()
        mean = torch.linalg.vecdot(q, slope)
        return share, slope.sub_(mean[:, None]).mul_(q).mul_(0.5)


def forward_kl(pair: Pair) -> tuple[Tensor, Tensor]:
    """KL(p || q) of each position in nats, (n,), and its gradient q - p in the logits, (n, V)."""
    p = pair.p
    nats = pair.own("log_p").sub_(pair.log_q).mul_(p).sum(-1)
    return nats.clamp_(min=0), pair.own("log_q").exp_().sub_(p)


def _ratio(part: Tensor, mixture: Tensor, *, out: Tensor) -> Tensor:
    """part / mixture, clamped above 0 so that it has a logarithm; not NaN where both underflowed to 0."""
    tiny = torch.finfo(part.dtype).tiny
    return torch.div(part, mixture.clamp_(min=tiny), out=out).clamp_(min=tiny)
