"""A step in which each row is distilled from its own teacher, and one in which each domain has the same share of the loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.host import on_host, sent
from limbeck.run.mesh import Mesh
from limbeck.run.micro import MicroBatch
from limbeck.run.step import LossTerm, Step, train_step
from limbeck.teachers.routed import RoutedTeacher
from limbeck.types import Batch, CausalLM, joined


@dataclass(frozen=True)
class RoutedStep:
    """One optimiser step, ``update``, of terms that are cut into rows of one teacher each.

    Every token counts as it would with one teacher: weight x loss is summed over the rows of all teachers and divided once. Rows
    of the whole step are put together by teacher first, so that there are hardly more micro-batches than with one.
    """

    teacher: RoutedTeacher
    update: Callable[..., Step] = train_step

    def __call__(
        self, student: CausalLM, terms: Sequence[LossTerm], optimizer: torch.optim.Optimizer, **how: Any
    ) -> Step:
        """Raises as `train_step`."""
        rows = reduce(joined, (term.batch for term in terms))
        parts = [replace(terms[0], batch=part) for part in self.teacher.split(rows)]
        how["micro"] = how.get("micro") or MicroBatch(max(len(term.batch.tokens) for term in terms))
        return self.update(student, parts, optimizer, **how)


@dataclass(frozen=True)
class EqualDomains:
    """One optimiser step, ``update``, in which each of some ``domains`` has the same share of the loss (`domain_weights`).

    ``route`` gives the number of each row's domain (B,), on the host. Shares are those of the step, over all ranks.
    """

    route: Callable[[Batch], Int[Tensor, " B"]]
    domains: int
    update: Callable[..., Step] = train_step

    def __call__(
        self, student: CausalLM, terms: Sequence[LossTerm], optimizer: torch.optim.Optimizer, *, mesh: Mesh, **how: Any
    ) -> Step:
        """Raises as `train_step`."""
        routes = [self.route(term.batch) for term in terms]
        own = [on_host(term.batch.weight).sum(-1) for term in terms]
        tokens = torch.bincount(torch.cat(routes), torch.cat(own), minlength=self.domains)
        tokens = torch.tensor([mesh.sum(one) for one in tokens.tolist()])
        if tokens.any():  # else the step says that there is nothing to learn
            each = domain_weights(tokens, torch.ones_like(tokens))
            terms = [_weighted(term, each[route]) for term, route in zip(terms, routes, strict=True)]
        return self.update(student, terms, optimizer, mesh=mesh, **how)


def domain_weights(tokens: Float[Tensor, " domains"], targets: Float[Tensor, " domains"]) -> Float[Tensor, " domains"]:
    """The weight of a token of each domain, by which domains have their ``targets`` as shares of the loss.

    Target over observed share (Open-MOPD, arXiv 2608.19098), with mean 1 over the tokens. A domain without tokens has 0.
    """
    weights = torch.where(tokens > 0, targets / tokens.clamp_min(1e-9), 0.0)
    return weights * tokens.sum() / (weights * tokens).sum()


def _weighted(term: LossTerm, each: Float[Tensor, " B"]) -> LossTerm:
    """A term with the weights of its rows times ``each``."""
    weight = term.batch.weight
    found = sent(on_host(weight) * each[:, None], weight.device)
    return replace(term, batch=replace(term.batch, weight=found))
