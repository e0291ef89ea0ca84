"""Objectives on a teacher of other tokens, who is known by its likelihoods of chunks of text (`limbeck.types.ChunkTargets`).

The likelihood of a chunk is the product of those of its tokens, log q = sum log q_t, so the gradient of any function of it in
the logits of position t is that function's slope, one number a chunk, times the gradient of log q_t, which is cross-entropy's
but for its sign. So the student's head is gone through once for log q, without gradients, and once more as for
cross-entropy, with a factor of its own at each position; (tokens x vocabulary) never exists.

A chunk's nats are carried in equal parts by its positions, each times its own weight: their sum over all positions is what it
is however rows are spread over micro-batches and ranks, since no chunk reaches beyond its row.

Terms that compare sorted probabilities instead (`objectives.largest`) are a matter of each position, in the second walk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.objectives import largest
from limbeck.objectives.base import Objective
from limbeck.objectives.basic import CrossEntropy
from limbeck.types import Chunk, ChunkTargets

Terms = Sequence[tuple[float, Objective]]


@dataclass(frozen=True)
class Slopes:
    """The part of a loss that is about chunks, brought down to n positions: nats, and their slope in log q of the target.

    ``largest`` is the teacher's, as of `ChunkTargets`, for the terms that compare those.
    """

    nats: Float[Tensor, "n"]
    slope: Float[Tensor, "n"]
    largest: Float[Tensor, "n k"] | None

    def part(self, part: slice | Tensor) -> Slopes:
        """Those of some positions."""
        return Slopes(self.nats[part], self.slope[part], None if self.largest is None else self.largest[part])


def of_chunks(terms: Terms) -> Terms:
    """The terms that compare likelihoods of chunks."""
    return [(share, term) for share, term in terms if term.needs_teacher and not term.largest]


def slopes(terms: Terms, signal: ChunkTargets, log_q: Float[Tensor, "n"], weight: Float[Tensor, "n"]) -> Slopes:
    """What the terms about chunks say of all positions, whose log q of their targets are known."""
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
    # in the sum of weight x nats all positions of a chunk count by their mean weight
    found.slope[within] = (slope * mean_weight)[number].to(log_q.dtype) / weight[within].to(log_q.dtype)
    return found


def value_and_gradient(
    terms: Terms, logits: Float[Tensor, "n V"], told: Slopes, chunk: Chunk
) -> tuple[Float[Tensor, "n"], Float[Tensor, "n V"]]:
    """Weighted nats of each position, those of its chunk among them, and their gradient in its logits."""
    plain = sum(share for share, term in terms if type(term) is CrossEntropy)  # shares the softmax
    targets = chunk.targets[:, None]
    log_q = logits.log_softmax(-1)
    nats = told.nats.to(logits.dtype) - plain * log_q.gather(-1, targets).squeeze(-1)
    slope = told.slope[:, None].to(logits.dtype) - plain
    q = log_q.exp_()
    listening = [(share, term) for share, term in terms if term.largest]
    more = [(share, *largest.value_and_gradient(term, told.largest, q)) for share, term in listening]
    gradient = q.mul_(-slope).scatter_add_(-1, targets, slope)
    for share, value, added in more:
        nats, gradient = nats + share * value, gradient.add_(added, alpha=share)
    for share, term in terms:
        if not term.needs_teacher and type(term) is not CrossEntropy:
            value, added = term.value_and_gradient(logits, None, chunk)
            nats, gradient = nats + share * value, gradient.add_(added, alpha=share)
    return nats, gradient
