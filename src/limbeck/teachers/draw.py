"""Which outcomes of a teacher are kept where not all can be: the likeliest, or a sample that is right in the mean.

*draw* keeps K outcomes with probability min(1, p / tau), tau such that K are expected, and gives each the weight max(p, tau)
= p / probability (Horvitz & Thompson 1952, J. Am. Stat. Assoc. 47, 663). Outcomes likelier than tau are always kept, with
their own probability: an exact head, to which the likeliest outcome always belongs. The others are drawn without replacement by
one random number a position (systematic sampling, Madow 1949, Ann. Math. Stat. 20, 333), which takes exactly K. So weights add
up to 1, and sums of weight f are unbiased for the sum of p f. Random-sampling KD (arXiv 2503.16870) draws with replacement
instead: its likely outcomes come again and again, and their probabilities are noisy.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.types import Sparse


def top_k(log_p: Float[Tensor, "n V"], k: int) -> Sparse:
    """The K likeliest outcomes and the rest (a coarse signal), likeliest first."""
    kept, ids = log_p.topk(k)
    others = log_p.scatter(-1, ids, -math.inf).logsumexp(-1)
    return Sparse(ids, kept, kept.exp(), log_p.shape[-1], rest=others)


def sample_outcomes(
    log_p: Float[Tensor, "n V"], k: int, uniform: Float[Tensor, "n"]
) -> tuple[Sparse, Int[Tensor, "n"]]:
    """K >= 2 outcomes, and how many of them, the first, are the exact head. ``uniform`` are random numbers in [0, 1).

    The head comes likeliest first, then the drawn ones: likely ones, then the others in the order of their ids.
    """
    top_log, top_ids = log_p.topk(k)
    top = top_log.double().exp()
    # in float32 but for the sum, which has to tell the last of many small ones
    reached = log_p.exp().scatter_(-1, top_ids, 0.0).cumsum(-1, dtype=torch.float64)
    # mass beyond a head of 0, 1, ...: from the small end, where 1 - the head would leave only rounding
    beyond = reached[:, -1:] + top.flip(-1).cumsum(-1).flip(-1)
    tau_of = beyond / torch.arange(k, 0, -1, device=top.device)
    head = (top >= tau_of).long().cumprod(-1).sum(-1).clamp(1, k - 1)
    tau = tau_of.gather(-1, head[:, None])
    place = torch.arange(k, device=top.device)
    in_head = place < head[:, None]
    likely = torch.where(in_head, 0.0, top).cumsum(-1)
    marks = (place - head[:, None] + 1 - uniform[:, None].double()).clamp(min=0) * tau
    among_likely = torch.searchsorted(likely, marks.clamp(min=1e-300)).clamp(max=k - 1)
    # the last mark may be a rounding beyond the last outcome that can happen
    among_others = torch.searchsorted(reached, torch.minimum(marks - likely[:, -1:], reached[:, -1:]))
    ids = torch.where(marks <= likely[:, -1:], top_ids.gather(-1, among_likely), among_others)
    ids = torch.where(in_head, top_ids, ids)
    kept = log_p.gather(-1, ids)
    weight = torch.where(in_head, kept.exp(), tau.to(kept.dtype))
    return Sparse(ids, kept, weight, log_p.shape[-1]), head
