"""Objectives on the sorted probabilities of teacher and student, whatever tokens they belong to.

Sorted probabilities can be compared between two vocabularies that have nothing in common. Compared are the k largest of each, and
the mass of all others as one more. With p and q the sorted vectors, padded with 0 to one length, the L1 distance has the bounds

    sum_(i<=k) |p_i - q_i| + |r_p - r_q|  <=  sum_i |p_i - q_i|  <=  the left side + 2 min(r_p, r_q),

with r the mass beyond the k, by the triangle inequality. So truncation never overstates the distance between student and teacher,
and understates it by at most twice the smaller rest.

The order is that of the student's current probabilities: the gradient goes to the tokens that have a rank now, with one slope for
all beyond the k, dD/dz_j = q_j (a_j - sum_i q_i a_i). So (n, V) tensors exist for the current block only.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.objectives.base import Objective


def value_and_gradient(
    term: Objective, p: Float[Tensor, "n k"] | None, q: Float[Tensor, "n V"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, "n V"]]:
    """Nats of each position, and their gradient in the logits of ``q``, from the teacher's largest probabilities p (n, k).

    Both are 0 at positions where p is 0: there the teacher's probabilities of the same text are not known.

    Raises BadObjective if the term has no method of_largest.
    """
    assert p is not None, f"{term} needs the teacher's largest probabilities"
    p = p[:, : term.largest].to(q.dtype)
    known_positions = p[:, :1] > 0
    top, ids = q.topk(min(p.shape[-1], q.shape[-1]))
    with torch.enable_grad():
        leaf = with_rest(_padded(top, p.shape[-1])).requires_grad_()
        nats = term.of_largest(with_rest(p), leaf)
        (slope,) = torch.autograd.grad(nats.sum(), leaf)
    known = slope[:, : top.shape[-1]] - slope[:, -1:]  # relative to the slope of all others: a constant has no effect
    pushed = torch.where(known_positions, known * top, 0.0)
    gradient = (q * -pushed.sum(-1, keepdim=True)).scatter_add_(-1, ids, pushed)
    return torch.where(known_positions[:, 0], nats.detach(), 0.0), gradient


def with_rest(largest: Float[Tensor, "n k"]) -> Float[Tensor, "n k+1"]:
    """The largest probabilities, and the mass of all others last."""
    return torch.cat([largest, (1 - largest.sum(-1, keepdim=True)).clamp(min=0)], -1)


def _padded(largest: Float[Tensor, "n j"], count: int) -> Float[Tensor, "n k"]:
    """The probabilities, padded with 0 to ``count``."""
    return torch.nn.functional.pad(largest, (0, count - largest.shape[-1]))
