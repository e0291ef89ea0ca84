"""Objectives on both sides' probabilities in order of size, whatever outcomes they are of.

Sorted probabilities can be compared between two vocabularies that have nothing in common. The k largest of each are, and the
mass of all others as one more: with p and q the sorted vectors, padded with 0 to one length, that gives for the L1 distance

    sum_(i<=k) |p_i - q_i| + |r_p - r_q|  <=  sum_i |p_i - q_i|  <=  the left side + 2 min(r_p, r_q),

r being what the k leave, by the triangle inequality. So truncation never makes a student look further from its teacher than
it is, and hides at most twice the smaller rest.

The order is the student's own at that moment: its gradient goes to the tokens that stand at a rank now, with one slope for
all that are beyond the k, dD/dz_j = q_j (a_j - sum_i q_i a_i). So the (n, V) that exists is the block that is worked on.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.objectives.base import Objective


def value_and_gradient(
    term: Objective, p: Float[Tensor, "n k"] | None, q: Float[Tensor, "n V"]
) -> tuple[Float[Tensor, "n"], Float[Tensor, "n V"]]:
    """Nats of each position and their gradient in the logits of ``q``, from the teacher's largest probabilities.

    0 where those are 0: there the teacher was not asked, or not the same.
    """
    assert p is not None, f"{term} needs a teacher that was asked for its largest probabilities"
    p = p[:, : term.largest].to(q.dtype)
    heard = p[:, :1] > 0
    top, ids = q.topk(min(p.shape[-1], q.shape[-1]))
    with torch.enable_grad():
        leaf = with_rest(_padded(top, p.shape[-1])).requires_grad_()
        nats = term.of_largest(with_rest(p), leaf)
        (slope,) = torch.autograd.grad(nats.sum(), leaf)
    known = slope[:, : top.shape[-1]] - slope[:, -1:]  # against the slope of all others, which no distribution feels
    pushed = torch.where(heard, known * top, 0.0)
    gradient = (q * -pushed.sum(-1, keepdim=True)).scatter_add_(-1, ids, pushed)
    return torch.where(heard[:, 0], nats.detach(), 0.0), gradient


def with_rest(largest: Float[Tensor, "n k"]) -> Float[Tensor, "n k+1"]:
    """The largest probabilities, and what they leave."""
    return torch.cat([largest, (1 - largest.sum(-1, keepdim=True)).clamp(min=0)], -1)


def _padded(largest: Float[Tensor, "n j"], count: int) -> Float[Tensor, "n k"]:
    """With outcomes of probability 0 up to ``count``."""
    return torch.nn.functional.pad(largest, (0, count - largest.shape[-1]))
