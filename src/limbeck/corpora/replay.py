"""Rows of other text among those of a training text (replay), so that a model that is tuned forgets less."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from limbeck.corpora.mask_input import MaskedInputs
from limbeck.corpora.pack import ALONE, Ranks, Rows
from limbeck.corpora.store import TokenStore
from limbeck.host import on_host
from limbeck.types import Batch, joined


@dataclass(frozen=True)
class _Backwards:
    """Ranks in the other order, so that where rows do not divide evenly another rank has one more of the second text."""

    rank: int
    size: int


@dataclass
class Replay:
    """A `Corpus`: rows of ``own``, a ``share`` of each step's rows being of another text ``store``.

    Over any number of steps the other text has ``share`` of all rows, to less than one row. Its rows come last in a batch, and
    their numbers are above those of ``own`` (`is_other`). ``counted`` changes the weights of rows of the other text.
    """

    own: Rows | MaskedInputs
    store: TokenStore
    share: float
    ranks: Ranks = ALONE
    counted: Callable[[Batch], Batch] = lambda batch: batch
    length: int = field(init=False)
    seed: int = field(init=False)
    _other: Rows = field(init=False, repr=False)
    _taken: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.length, self.seed = self.own.length, self.own.seed
        backwards = _Backwards(self.ranks.size - 1 - self.ranks.rank, self.ranks.size)
        how: dict[str, Any] = {"length": self.length, "seed": self.seed, "ranks": backwards}
        self._other = Rows(self.store, counted=self.counted, **how)

    @property
    def is_other(self) -> Callable[[Batch], torch.Tensor]:
        """A function of a batch: which of its rows are of the other text (B,)."""
        first = self.own.n_rows
        return lambda batch: on_host(batch.row) >= first

    def take(self, rows: int) -> Batch:
        """This rank's part of the next ``rows`` global rows."""
        others = self._others(rows)
        self._taken += rows
        own = self.own.take(rows - others)
        if not others:
            return own
        other = self._other.take(others)
        other = replace(other, row=other.row + self.own.n_rows)
        return joined(own, other)

    def documents(self, rows: int) -> list[str]:
        """Names of the documents with weight in the last ``rows`` rows."""
        taken, self._taken = self._taken, self._taken - rows
        others = self._others(rows)
        self._taken = taken
        return self.own.documents(rows - others) + (self._other.documents(others) if others else [])

    def state_dict(self) -> dict[str, Any]:
        """The position in both texts."""
        return {"taken": self._taken, "own": self.own.state_dict(), "other": self._other.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues at a saved position."""
        self._taken = int(state["taken"])
        self.own.load_state_dict(state["own"])
        self._other.load_state_dict(state["other"])

    def _others(self, rows: int) -> int:
        """How many of the next rows are of the other text."""
        return math.floor((self._taken + rows) * self.share) - math.floor(self._taken * self.share)
