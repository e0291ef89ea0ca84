"""Preference objectives in the fused head: the slope of a pair's loss in the log-probability of each token of its completions.

A loss of pairs depends on the logits only through log q, summed over the tokens of each completion. So the head is applied twice,
as for chunks of text (`objectives.chunks`): for the sums, without gradients, then as for cross-entropy, with a factor at each
position. The (tokens x vocabulary) matrix never exists. Both completions of a pair must be in the same batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.objectives.base import Objective
from limbeck.objectives.preference import Pairs, Preference, single
from limbeck.types import PairTargets, Slopes


def slopes(
    terms: Sequence[tuple[float, Objective]],
    signal: PairTargets,
    log_q: Float[Tensor, " n"],
    weight: Float[Tensor, " n"],
) -> Slopes:
    """The loss and its slope in log q at all n positions, from log q of their targets (nats) and their weights.

    A pair counts with the summed weight of its positions. Raises BadObjective for a term that is no loss of pairs.
    """
    within = signal.side >= 0
    side, share = signal.side[within], weight[within].double()
    none = torch.zeros(signal.log_p.numel(), dtype=torch.float64, device=log_q.device)
    tokens = none.index_add(0, side, torch.ones_like(share)).view_as(signal.log_p)
    of_pair = none.index_add(0, side, share).view_as(signal.log_p).sum(-1)
    with torch.enable_grad():
        sums = none.index_add(0, side, log_q[within].double()).view_as(signal.log_p).requires_grad_()
        pairs = Pairs(sums, signal.log_p.to(none), tokens)
        nats = sum((part * _preference(term).of_pairs(pairs) for part, term in terms), 0 * sums[:, 0])
        (slope,) = torch.autograd.grad(nats.sum(), sums)
    found = Slopes(torch.zeros_like(log_q), torch.zeros_like(log_q), None)
    found.nats[within] = nats.detach()[side // 2].to(log_q.dtype)
    # the step multiplies the slope by the position's own weight, and the pair has that of all its positions
    found.slope[within] = (slope.view(-1)[side] * of_pair[side // 2] / share).to(log_q.dtype)
    return found


def _preference(term: Objective) -> Preference:
    if not isinstance(term, Preference):
        raise single(term)
    return term
