"""Objectives on captured logits with a few outcomes of each position (`limbeck.types.Sparse`): top-k or sampled.

An objective of the form D = sum p f(log p, log q) needs only the sum of weight f over the captured outcomes. Its gradient in the
student's logits z has one dense part, since the student's normaliser covers the whole vocabulary: with a = dD/dlog q at each
outcome, dD/dz = scatter(a) - q sum(a). So a step costs one softmax over the vocabulary, whatever the number of terms, and the
teacher's (n, V) probabilities never exist.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.types import Chunk, Sparse


@dataclass(frozen=True)
class Outcomes:
    """Teacher's and student's log-probabilities at the captured outcomes of n positions, in nats.

    With ``has_rest`` the outcomes are the top-k, and the last of K is all others. A loss is differentiated in ``log_q`` and in
    ``target``, log q of the target token.
    """

    log_p: Float[Tensor, "n K"]
    log_q: Float[Tensor, "n K"]
    weight: Float[Tensor, "n K"]
    target: Float[Tensor, " n"]
    has_rest: bool

    def expect(self, values: Float[Tensor, "n K"]) -> Float[Tensor, " n"]:
        """The sum of weight times the value of each outcome; padding counts 0, even if its value is not finite."""
        return torch.where(self.weight > 0, self.weight * values, 0.0).sum(-1)


@dataclass(frozen=True)
class OfOutcomes:
    """Nats of n positions, and their slopes: in log q of each outcome, and of the target; None for 0."""

    nats: Float[Tensor, " n"]
    outcomes: Float[Tensor, "n K"] | None
    target: Float[Tensor, " n"] | None


class Term(Protocol):
    """An objective that can be computed from captured outcomes."""

    def of_outcomes(self, outcomes: Outcomes) -> Float[Tensor, " n"]:
        """Nats of each position, differentiable in ``log_q`` and ``target``. Raises BadObjective if it needs more outcomes."""

    def slopes_of_outcomes(self, outcomes: Outcomes) -> OfOutcomes:
        """The same nats with their slopes. Raises as `of_outcomes`."""


def differentiated(term: Term, outcomes: Outcomes) -> OfOutcomes:
    """A term's nats from captured outcomes, with their slopes by autograd. Raises as `Term.of_outcomes`.

    The nats are differentiable in the term's own parameters, if it has any.
    """
    trains = isinstance(term, torch.nn.Module) and any(p.requires_grad for p in term.parameters())
    with torch.enable_grad():
        log_q, target = (x.detach().requires_grad_() for x in (outcomes.log_q, outcomes.target))
        nats = term.of_outcomes(replace(outcomes, log_q=log_q, target=target))
        slopes = torch.autograd.grad(nats.sum(), (log_q, target), allow_unused=True, retain_graph=trains)
    return OfOutcomes(nats if trains else nats.detach(), *slopes)


def value_and_gradient(
    terms: Sequence[tuple[float, Term]], logits: Float[Tensor, "n V"], signal: Sparse, chunk: Chunk
) -> tuple[Float[Tensor, " n"], Float[Tensor, "n V"]]:
    """Weighted nats of each position, and their gradient in its logits. Raises BadObjective if a term needs more outcomes."""
    if not terms:
        return logits.new_zeros(len(logits)), torch.zeros_like(logits)
    q = logits.softmax(-1)
    # log of the sum of exponentials, from the likeliest: one pass where logsumexp takes four
    log_norm = logits.amax(-1, keepdim=True) - q.amax(-1, keepdim=True).log_()
    targets = chunk.targets[:, None]
    at_ids, at_target = (logits.gather(-1, index) - log_norm for index in (signal.ids, targets))
    weight = signal.weight
    log_p = signal.log_p.masked_fill(weight == 0, 0.0)  # else padding could be infinity times 0
    if signal.rest is not None:
        q.scatter_(-1, signal.ids, 0.0)
        others = q.sum(-1, keepdim=True).clamp_(min=torch.finfo(q.dtype).tiny)
        at_ids = torch.cat([at_ids, others.log()], -1)
        log_p = torch.cat([log_p, signal.rest[:, None]], -1)
        weight = torch.cat([weight, signal.rest.exp()[:, None]], -1)
    outcomes = Outcomes(log_p, at_ids, weight, at_target.squeeze(-1), signal.rest is not None)
    nats, slope, at = _together(terms, outcomes)
    shared = slope.sum(-1, keepdim=True) + at[:, None]
    if signal.rest is None:
        gradient = q.mul_(-shared)
        known = slope
    else:  # the rest's gradient is divided among its outcomes in proportion to the student's probabilities
        gradient = q.mul_(slope[:, -1:] / others - shared)
        of_outcomes = slope[:, :-1] - at_ids[:, :-1].exp() * shared
        known = torch.where(signal.weight > 0, of_outcomes, 0.0)  # padding has the id of another outcome
    gradient.scatter_add_(-1, signal.ids, known).scatter_add_(-1, targets, at[:, None])
    return nats, gradient


def _together(terms: Sequence[tuple[float, Term]], outcomes: Outcomes) -> tuple[Tensor, Tensor, Tensor]:
    """The weighted sum of the terms: nats (n,), and their slopes in log q of the outcomes (n, K) and of the target (n,)."""
    nats, at = torch.zeros_like(outcomes.target), torch.zeros_like(outcomes.target)
    slope = torch.zeros_like(outcomes.log_q)
    for share, term in terms:
        found = term.slopes_of_outcomes(outcomes)
        with torch.enable_grad():  # of the term's own parameters
            nats = nats + share * found.nats
        for total, part in ((slope, found.outcomes), (at, found.target)):
            if part is not None:
                total.add_(part, alpha=share)
    return nats, slope, at
