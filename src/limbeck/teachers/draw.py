"""Chooses K outcomes of each of a teacher's distributions: the top-k, or an unbiased sample.

`sample_outcomes` keeps an outcome with probability min(1, p / tau), with tau such that K are expected, and gives it the weight
max(p, tau) = p / (probability of being kept) (Horvitz & Thompson 1952, J. Am. Stat. Assoc. 47, 663). Outcomes with p > tau are
always kept, at their own probability: an exact head, which always holds the most probable outcome. The others are sampled without
replacement by one random number a position (systematic sampling, Madow 1949, Ann. Math. Stat. 20, 333), which gives exactly K.
Weights sum to 1, and the sum of weight f is unbiased for the sum of p f. Random-sampling KD (arXiv 2503.16870) samples with
replacement instead: probable outcomes are drawn repeatedly, and their probabilities are noisy.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.types import Sparse


def top_k(log_p: Float[Tensor, "n V"], k: int) -> Sparse:
    """The top-k outcomes, most probable first, and the log of the mass of the rest."""
    kept, ids = log_p.topk(k)
    others = log_p.scatter(-1, ids, -math.inf).logsumexp(-1)
    return Sparse(ids, kept, kept.exp(), log_p.shape[-1], rest=others)


def sample_outcomes(
    log_p: Float[Tensor, "n V"], k: int, uniform: Float[Tensor, " n"]
) -> tuple[Sparse, Int[Tensor, " n"]]:
    """Samples K >= 2 outcomes of each position; gives the signal, and how many of its first outcomes are the exact head.

    ``uniform`` are random numbers in [0, 1). The head is ordered by probability; then come sampled outcomes of the top-k, then
    the others in the order of their ids. Sums of weight f are unbiased for the sum of p f (Horvitz & Thompson 1952, Madow 1949).
    """
    top_log, top_ids = log_p.topk(k)
    top = top_log.double().exp()
    # in float32 but for the sum, which must resolve the last of many small terms; in place, since fresh memory costs more than it
    reached = log_p.exp().scatter_(-1, top_ids, 0.0).double().cumsum_(-1)
    # mass beyond a head of 0, 1, ...: summed from the small end, since 1 - the head would be mostly rounding
    beyond = reached[:, -1:] + top.flip(-1).cumsum(-1).flip(-1)
    tau_of = beyond / torch.arange(k, 0, -1, device=top.device)
    head = (top >= tau_of).long().cumprod(-1).sum(-1).clamp(1, k - 1)
    tau = tau_of.gather(-1, head[:, None])
    place = torch.arange(k, device=top.device)
    in_head = place < head[:, None]
    likely = torch.where(in_head, 0.0, top).cumsum(-1)
    marks = (place - head[:, None] + 1 - uniform[:, None].double()).clamp(min=0) * tau
    among_likely = torch.searchsorted(likely, marks.clamp(min=1e-300)).clamp(max=k - 1)
    # by rounding the last mark may lie beyond the last outcome of positive probability
    among_others = torch.searchsorted(reached, torch.minimum(marks - likely[:, -1:], reached[:, -1:]))
    ids = torch.where(marks <= likely[:, -1:], top_ids.gather(-1, among_likely), among_others)
    ids = torch.where(in_head, top_ids, ids)
    kept = log_p.gather(-1, ids)
    weight = torch.where(in_head, kept.exp(), tau.to(kept.dtype))
    return Sparse(ids, kept, weight, log_p.shape[-1]), head
