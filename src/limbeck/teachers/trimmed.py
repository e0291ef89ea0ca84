"""Captured logits over a trimmed vocabulary: what was captured over all tokens, restricted to those that are kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from numpy import ndarray
from torch import Tensor

from limbeck.teachers.cache import LogitCache
from limbeck.types import Batch, Sparse

_LOW = -60.0  # nats of an outcome that is left out: its weight is 0, and no formula overflows


class TrimmedCache(LogitCache):
    """A logit cache whose outcomes are those of ``kept`` tokens, by their new ids, divided by the mass that is not left out.

    Of sampled outcomes that mass is estimated by their weights, without bias; their quotient has the bias of a ratio of two such
    sums, at most the variance of the estimate over its square. Of top-k outcomes it is 1 less that of the dropped ones: the
    teacher's distribution given that none of these comes next. Beyond the top-k it is not known which tokens there are, and all
    of the rest counts as kept. Dropped outcomes become padding, of weight 0 and the id of a kept one; a position of which all
    outcomes are dropped has no target.
    """

    def __init__(self, folder: Path, kept: Int64[ndarray, " kept"]) -> None:
        super().__init__(folder)
        self._new = torch.full((self.vocab,), -1, dtype=torch.int64)
        self._new[torch.from_numpy(kept)] = torch.arange(len(kept))
        self.vocab = len(kept)

    def __call__(self, batch: Batch) -> Sparse:
        """As `LogitCache`, over the kept tokens."""
        whole = super().__call__(batch)
        new = self._new.to(whole.ids.device)[whole.ids]
        there = (new >= 0) & (whole.weight > 0)
        some = there.any(-1, keepdim=True)
        weight = torch.where(there, whole.weight, 0.0)
        total = torch.where(some, _mass(whole, weight), 1.0)
        log_p = torch.where(there, whole.log_p - total.log(), _LOW)
        first = new.gather(-1, there.int().argmax(-1, keepdim=True)).clamp(min=0)
        rest = None
        if whole.rest is not None:
            rest = torch.where(some.squeeze(-1), whole.rest - total.squeeze(-1).log(), -torch.inf)
        return Sparse(torch.where(there, new, first), log_p, weight / total, self.vocab, rest)

    def masked(self, batch: Batch) -> Batch:
        """The batch with weight 0 at positions of which all outcomes are dropped."""
        known = (self(batch).weight.sum(-1) > 0).view_as(batch.weight)
        return replace(batch, weight=torch.where(known, batch.weight, 0.0))


def _mass(whole: Sparse, kept: Float[Tensor, "n K"]) -> Float[Tensor, "n 1"]:
    """The mass that is not left out, from the weights of the ``kept`` outcomes alone and, of top-k ones, the rest."""
    mass = kept.sum(-1, keepdim=True)
    return mass if whole.rest is None else mass + whole.rest.exp()[:, None]
