"""Divergences between two distributions over one support: (log p, log q) -> nats per position.

p is the teacher's, q the student's distribution. These formulas are differentiable, and the reference for the faster ones. An
outcome of probability 0 (log-probability -inf) contributes its limit, so no formula gives NaN for two distributions; the result
is infinite only where the limit is.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor


def kl(log_p: Float[Tensor, "*shape K"], log_q: Float[Tensor, "*shape K"]) -> Float[Tensor, "*shape"]:
    """KL(p || q) in nats. Outcomes with p = 0 count 0; q = 0 where p > 0 gives inf (Cover & Thomas, sec. 2.3).

    A probability that underflows in its format counts as 0.
    """
    p = log_p.exp()
    log_ratio = torch.where(p > 0, log_p - log_q, 0.0)
    return _not_negative((p * log_ratio).sum(-1))


def reverse_kl(log_p: Float[Tensor, "*shape K"], log_q: Float[Tensor, "*shape K"]) -> Float[Tensor, "*shape"]:
    """KL(q || p) in nats: it penalises the student's mass where the teacher has none."""
    return kl(log_q, log_p)


def jensen_shannon(
    log_p: Float[Tensor, "*shape K"], log_q: Float[Tensor, "*shape K"], *, beta: float = 0.5
) -> Float[Tensor, "*shape"]:
    """beta KL(p || m) + (1 - beta) KL(q || m) with m = beta p + (1 - beta) q, in nats (GKD, arXiv 2306.13649, eq. 3).

    At most the entropy of (beta, 1 - beta). It falls to 0 as beta goes to 0 or 1; *divided* by beta it goes to KL(p ||
    q), divided by 1 - beta to KL(q || p).
    """
    log_m = log_mixture(log_p, log_q, beta)
    return beta * kl(log_p, log_m) + (1 - beta) * kl(log_q, log_m)


def skew_kl(
    log_p: Float[Tensor, "*shape K"], log_q: Float[Tensor, "*shape K"], *, alpha: float = 0.1
) -> Float[Tensor, "*shape"]:
    """KL(p || alpha p + (1 - alpha) q) in nats, at most -log alpha (DistiLLM, arXiv 2402.03898, sec. 3.1)."""
    return kl(log_p, log_mixture(log_p, log_q, alpha))


def skew_reverse_kl(
    log_p: Float[Tensor, "*shape K"], log_q: Float[Tensor, "*shape K"], *, alpha: float = 0.1
) -> Float[Tensor, "*shape"]:
    """KL(q || alpha q + (1 - alpha) p) in nats, at most -log alpha (DistiLLM, arXiv 2402.03898, sec. 3.1)."""
    return kl(log_q, log_mixture(log_q, log_p, alpha))


def total_variation(log_p: Float[Tensor, "*shape K"], log_q: Float[Tensor, "*shape K"]) -> Float[Tensor, "*shape"]:
    """Total variation, half the sum of |p - q|: a probability from 0 to 1, not nats."""
    return 0.5 * (log_p.exp() - log_q.exp()).abs().sum(-1)


@torch.no_grad()
def both_ways(
    log_p: Float[Tensor, "*shape K"], log_q: Float[Tensor, "*shape K"]
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    """(KL(p || q), KL(q || p), total variation), equal to those of `kl`, `reverse_kl` and `total_variation`, digit by digit.

    What they have in common is computed once, in half the time of the three. Without gradients.
    """
    p, q, log_ratio = log_p.exp(), log_q.exp(), log_p - log_q
    forward = (p * log_ratio).sum(-1)
    reverse = -(q * log_ratio).sum(-1)
    if not torch.isfinite(forward + reverse).all():  # some outcome is impossible, and 0 times infinity counts 0
        forward, reverse = kl(log_p, log_q), kl(log_q, log_p)
    return _not_negative(forward), _not_negative(reverse), 0.5 * p.sub_(q).abs_().sum(-1)


def log_mixture(log_p: Tensor, log_q: Tensor, share: float) -> Tensor:
    """log(share p + (1 - share) q) of two log-distributions, outcome by outcome, all of one shape (..., K)."""
    impossible = (log_p == -math.inf) & (log_q == -math.inf)  # there logaddexp would differentiate to NaN
    log_m = torch.logaddexp(
        torch.where(impossible, 0.0, log_p + math.log(share)), torch.where(impossible, 0.0, log_q + math.log1p(-share))
    )
    return torch.where(impossible, -math.inf, log_m)


def _not_negative(nats: Tensor) -> Tensor:
    """The same values, with negative rounding errors set to 0; the gradient is unchanged, since it may not be 0 there."""
    return torch.where(nats < 0, nats - nats.detach(), nats)
