"""Adaptive KL: forward and reverse KL, mixed by where the two differ (Wu et al., arXiv 2404.02657, sec. 4.2).

The head of p is its most probable tokens, as few as hold the mass mu. Tokens exactly as probable as the last of them
belong to it too, so the order of the vocabulary cannot matter.
"""

from __future__ import annotations

import torch
from torch import Tensor

from limbeck import divergence
from limbeck.objectives.base import Pair, in_range
from limbeck.objectives.basic import Divergence
from limbeck.types import Chunk

_GROUPS, _FIRST = 32, 96  # tokens of a group, and groups looked into, before a whole row is sorted


class AdaptiveKL(Divergence):
    """share KL(p || q) + (1 - share) KL(q || p), share = the head's part of all |p - q|, not differentiated."""

    def __init__(self, *, mu: float = 0.5, temperature: float = 1.0) -> None:
        super().__init__(temperature=temperature)
        in_range("AdaptiveKL: mu", mu, 0, 1)
        self.mu = float(mu)

    def between(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """The mixture, with the head found by sorting."""
        p = log_p.detach().exp()
        share = _share(p, log_q.detach().exp(), _least_by_sorting(p, self.mu))
        return share * divergence.kl(log_p, log_q) + (1 - share) * divergence.reverse_kl(log_p, log_q)

    def closed_form(self, pair: Pair, chunk: Chunk) -> tuple[Tensor, Tensor]:
        """share (q - p) + (1 - share) q (log q/p - KL(q || p))."""
        p, log_p = pair.own("p"), pair.own("log_p")
        log_ratio = torch.sub(pair.log_q, log_p, out=log_p)
        q = pair.own("log_q").exp_()
        share = _share(p, q, least_of_head(p, self.mu))
        forward = -torch.linalg.vecdot(p, log_ratio)
        reverse = torch.linalg.vecdot(q, log_ratio)
        nats = share * forward + (1 - share) * reverse
        kept = (1 - share)[:, None]
        gradient = log_ratio.mul_(kept).add_(share[:, None] - kept * reverse[:, None]).mul_(q)
        return nats.clamp_(min=0), gradient.sub_(p.mul_(share[:, None]))


def least_of_head(p: Tensor, mu: float) -> Tensor:
    """The probability of the last token of the head of each row, (n,).

    The k largest of a row lie in those k groups whose largest token is largest, so most rows need no sorting of all
    their tokens: the head of a trained teacher is short.
    """
    n, vocab = p.shape
    groups = vocab // _GROUPS
    if groups <= _FIRST:
        return _least_by_sorting(p, mu)
    body = p[:, : groups * _GROUPS].view(n, _GROUPS, groups)
    chosen = body.amax(1).topk(_FIRST, sorted=False).indices
    candidates = body.gather(2, chosen[:, None].expand(n, _GROUPS, _FIRST)).flatten(1)
    candidates = torch.cat([candidates, p[:, groups * _GROUPS :]], 1)
    largest = candidates.topk(_FIRST).values
    least, found = _first_reaching(largest, mu)
    missing = (~found).nonzero().squeeze(-1)
    if len(missing):
        least[missing] = _least_by_sorting(p[missing], mu)
    return least


def _least_by_sorting(p: Tensor, mu: float) -> Tensor:
    return _first_reaching(p.sort(-1, descending=True).values, mu)[0]


def _first_reaching(falling: Tensor, mu: float) -> tuple[Tensor, Tensor]:
    """The value at which sums of falling values reach mu, and whether they do."""
    reached = falling.cumsum(-1) >= mu
    found = reached.any(-1)
    index = torch.where(found, reached.int().argmax(-1), falling.shape[-1] - 1)
    return falling.gather(-1, index[:, None]).squeeze(-1), found


def _share(p: Tensor, q: Tensor, least: Tensor) -> Tensor:
    """The head's part of the sum of |p - q|; half where there is no difference."""
    gap = (p - q).abs()
    total = gap.sum(-1)
    head = torch.where(p >= least[:, None], gap, 0.0).sum(-1)
    return torch.where(total > 0, head / total, 0.5)
