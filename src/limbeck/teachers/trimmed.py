"""Captured logits over a trimmed vocabulary: what was captured over all tokens, restricted to those that are kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Int64
from numpy import ndarray

from limbeck.errors import BadSetting
from limbeck.teachers.cache import LogitCache
from limbeck.teachers.codec import Sampled
from limbeck.types import Batch, Sparse

_LOW = -60.0  # nats of an outcome that is left out: its weight is 0, and no formula overflows


class TrimmedCache(LogitCache):
    """A logit cache whose outcomes are those of ``kept`` tokens, by their new ids, with weights that sum to 1 again.

    The mass that is left out of a position is estimated by the weights of its dropped outcomes, which is unbiased. A position of
    which all outcomes are dropped has no target.
    """

    def __init__(self, folder: Path, kept: Int64[ndarray, " kept"]) -> None:
        """Raises BadSetting for top-k outcomes: how much of their rest is on kept tokens is not known."""
        super().__init__(folder)
        require_sampled(self)
        self._new = torch.full((self.vocab,), -1, dtype=torch.int64)
        self._new[torch.from_numpy(kept)] = torch.arange(len(kept))
        self.vocab = len(kept)

    def __call__(self, batch: Batch) -> Sparse:
        """As `LogitCache`, over the kept tokens."""
        whole = super().__call__(batch)
        new = self._new.to(whole.ids.device)[whole.ids]
        there = new >= 0
        weight = torch.where(there, whole.weight, 0.0)
        total = weight.sum(-1, keepdim=True)
        some = total > 0
        log_p = torch.where(there & some, whole.log_p - torch.where(some, total, 1.0).log(), _LOW)
        return Sparse(new.clamp(min=0), log_p, torch.where(some, weight / total, 0.0), self.vocab)

    def masked(self, batch: Batch) -> Batch:
        """The batch with weight 0 at positions of which all outcomes are dropped."""
        known = (self(batch).weight.sum(-1) > 0).view_as(batch.weight)
        return replace(batch, weight=torch.where(known, batch.weight, 0.0))


def require_sampled(cache: LogitCache) -> None:
    """Raises BadSetting for top-k outcomes, which cannot be restricted to some tokens."""
    if not isinstance(cache.codec, Sampled):
        raise BadSetting(
            f"{cache.folder}: it holds {cache.codec} outcomes of all tokens, and how much of the rest is on tokens that are kept "
            "is not known: capture anew with --vocab, or with --codec sampled"
        )
