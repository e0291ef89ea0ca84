"""Objectives with a teacher of another tokenizer, given by its log-likelihoods of chunks of text (`limbeck.types.ChunkTargets`).

The likelihood of a chunk is the product of those of its tokens, log q = sum log q_t, so the gradient of any function of it in
the logits of position t is that function's slope, one number a chunk, times the gradient of log q_t, which is that of
cross-entropy with the opposite sign. So the student's head is applied twice: once for log q, without gradients, then as for
cross-entropy, with a factor at each position. The (tokens x vocabulary) matrix never exists.

A chunk's nats are divided equally among its positions, each times its own weight. Their sum does not depend on how rows are
spread over micro-batches and ranks, since no chunk reaches beyond its row.

Terms that compare sorted probabilities (`objectives.largest`) act on each position, in the second pass.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.objectives import largest
from limbeck.objectives.base import Objective
from limbeck.objectives.basic import CrossEntropy
from limbeck.types import Chunk, ChunkTargets, Slopes

Terms = Sequence[tuple[float, Objective]]


def of_chunks(terms: Terms) -> Terms:
    """The terms that compare likelihoods of chunks."""
    return [(share, term) for share, term in terms if term.needs_teacher and not term.largest]


def slopes(terms: Terms, signal: ChunkTargets, log_q: Float[Tensor, " n"], weight: Float[Tensor, " n"]) -> Slopes:
    """The chunk terms at all n positions, from log q of their targets (nats) and their weights.

    Raises BadObjective if a term cannot be computed from likelihoods of chunks.
    """
    within = signal.chunk >= 0
    number, count = signal.chunk[within], len(signal.log_p)
    none = torch.zeros(count, dtype=torch.float64, device=log_q.device)
    members = none.index_add(0, number, torch.ones_like(number, dtype=torch.float64))
    mean_weight = none.index_add(0, number, weight[within].double()) / members
    with torch.enable_grad():
        of_chunk = none.index_add(0, number, log_q[within].double()).requires_grad_()
        log_p = signal.log_p.double()
        nats = sum((share * term.of_chunks(log_p, of_chunk) for share, term in of_chunks(terms)), 0 * of_chunk)
        (slope,) = torch.autograd.grad(nats.sum(), of_chunk)
    found = Slopes(torch.zeros_like(log_q), torch.zeros_like(log_q), signal.largest)
    found.nats[within] = (nats.detach() / members)[number].to(log_q.dtype)
    # in the sum of weight x nats a chunk counts with the mean weight of its positions
    found.slope[within] = (slope * mean_weight)[number].to(log_q.dtype) / weight[within].to(log_q.dtype)
    return found


def value_and_gradient(
    terms: Terms, logits: Float[Tensor, "n V"], of_chunk_terms: Slopes, chunk: Chunk
) -> tuple[Float[Tensor, " n"], Float[Tensor, "n V"]]:
    """Weighted nats of each position, its share of the chunk terms included, and their gradient in its logits.

    Raises BadObjective if a term cannot be computed from the teacher's targets.
    """
    plain = sum(share for share, term in terms if type(term) is CrossEntropy)  # shares the softmax
    targets = chunk.targets[:, None]
    log_q = logits.log_softmax(-1)
    nats = of_chunk_terms.nats.to(logits.dtype) - plain * log_q.gather(-1, targets).squeeze(-1)
    slope = of_chunk_terms.slope[:, None].to(logits.dtype) - plain
    q = log_q.exp_()
    sorted_terms = [(share, term) for share, term in terms if term.largest]
    more = [(share, *largest.value_and_gradient(term, of_chunk_terms.largest, q)) for share, term in sorted_terms]
    gradient = q.mul_(-slope).scatter_add_(-1, targets, slope)
    for share, value, added in more:
        nats, gradient = nats + share * value, gradient.add_(added, alpha=share)
    for share, term in terms:
        if not term.needs_teacher and type(term) is not CrossEntropy:
            value, added = term.value_and_gradient(logits, None, chunk)
            with torch.enable_grad():  # of the term's own parameters
                nats = nats + share * value
            gradient = gradient.add_(added, alpha=share)
    return nats, gradient
