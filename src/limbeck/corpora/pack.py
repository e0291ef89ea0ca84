"""Rows out of a token store, and the only shift: after it ``targets[b, t]`` is what follows ``tokens[b, t]``.

The stream of all documents is cut into rows without regard to where documents end, so nothing is padded but the last
row, and every token is predicted exactly once an epoch: row r reads tokens r L to r L + L - 1 and predicts those one
further. Rows of which nothing is learned (a long prompt) are passed over. What keeps documents apart is ``position``:
Transformers sees a new sequence wherever it does not grow by one and lets attention not cross it. A document that a row
cuts goes on in another row without what came before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64

from limbeck.corpora.store import TokenStore
from limbeck.errors import BadCorpus
from limbeck.types import Batch

_ROWS_AT_ONCE = 2**14  # looked at for something to learn


class Rows:
    """A store as rows of ``length`` predictions: a `Corpus`, endless and shuffled anew each epoch.

    ``n_rows`` is the number of rows in one epoch, those of which something is learned. The order depends on the seed
    alone. Of several ``ranks``, each takes every ranks-th of the global rows, so together they read what one would, and
    the saved position is the same for all.
    """

    def __init__(
        self,
        store: TokenStore,
        *,
        length: int,
        seed: int = 0,
        rank: int = 0,
        ranks: int = 1,
        most: int | None = None,
        counted: Callable[[Batch], Batch] = lambda batch: batch,
        first: int = 0,
        common: tuple[int, int] = (0, 0),
    ) -> None:
        """``most``: rows of an epoch, if there are more. ``counted`` takes weight from more positions of a batch.

        ``first``: rows of the endless order that are passed over, since what is trained has read them. ``common``: a seed, and
        how many rows of its order this order begins with, so that those of several seeds have them in common.
        """
        self.store = store
        self.length = length
        self.seed = seed
        self.rank = rank
        self.ranks = ranks
        self._counted = counted
        self._learnable = _learnable(store, length)[:most]
        self.n_rows = len(self._learnable)
        self._common = common
        self._next = first
        self._order: tuple[int, np.ndarray] | None = None  # the epoch, and its order

    def take(self, rows: int) -> Batch:
        """The next ``rows`` rows of all ranks together, as far as they are this rank's."""
        indices = np.arange(self._next, self._next + rows)[self.rank :: self.ranks]
        self._next += rows
        return self.rows_of(np.array([self._row(int(index)) for index in indices], dtype=np.int64))

    def in_order(self, batch_rows: int) -> Iterator[Batch]:
        """One pass over this rank's rows in the order of the store, ``batch_rows`` at a time, fewer at the end."""
        mine = np.arange(self.rank, self.n_rows, self.ranks)
        for start in range(0, len(mine), batch_rows):
            yield self.rows_of(mine[start : start + batch_rows])

    def taken(self, rows: int) -> Batch:
        """The last ``rows`` rows that all ranks together have taken."""
        return self.rows_of(np.array([self._row(i) for i in range(self._next - rows, self._next)], dtype=np.int64))

    def rows_of(self, rows: Int64[np.ndarray, " B"]) -> Batch:
        """The rows of these numbers, from 0 to ``n_rows`` - 1.

        Weight is 0 where the next token opens another document, is not learned, or is past the end. Padding past the
        end is a document of its own, number -1.
        """
        store, length = self.store, self.length
        start = self._learnable[np.asarray(rows, dtype=np.int64)][:, None] * length
        index = start + np.arange(length + 1)  # (B, T + 1), in the stream
        inside = index < store.tokens
        tokens = np.zeros(index.shape, dtype=np.int64)
        learned = np.zeros(index.shape, dtype=bool)
        for row, first in enumerate(start[:, 0].tolist()):
            stop = min(first + length + 1, store.tokens)
            tokens[row, : stop - first] = store.slice(first, stop)
            learned[row, : stop - first] = store.learned(first, stop)
        document = np.searchsorted(store.starts, index, side="right") - 1
        opened = np.where(inside, store.starts[document], store.tokens)
        position = index - np.maximum(opened, start)
        document = np.where(inside, document, -1)
        weight = learned[:, 1:] & (document[:, 1:] == document[:, :-1])
        batch = Batch(
            tokens=torch.from_numpy(tokens[:, :-1].copy()),
            targets=torch.from_numpy(tokens[:, 1:].copy()),
            weight=torch.from_numpy(weight.astype(np.float32)),
            position=torch.from_numpy(position[:, :-1].copy()),
            document=torch.from_numpy(document[:, :-1].copy()),
            row=torch.from_numpy(np.array(rows, dtype=np.int64)),
        )
        return self._counted(batch)

    def state_dict(self) -> dict[str, Any]:
        """The position: how many rows all ranks together have taken, those passed over at the start among them."""
        return {"row": self._next}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues at a saved position."""
        self._next = int(state["row"])

    def _row(self, index: int) -> int:
        """Which row of the store stands at a place of the endless order."""
        epoch, place = divmod(index, self.n_rows)
        if self._order is None or self._order[0] != epoch:
            self._order = (epoch, self._shuffled(epoch))
        return int(self._order[1][place])

    def _shuffled(self, epoch: int) -> Int64[np.ndarray, " n_rows"]:
        """The rows of an epoch in their order: first those in common with another seed, which do not come twice."""
        own = np.random.Generator(np.random.PCG64([self.seed, epoch])).permutation(self.n_rows)
        seed, rows = self._common
        ahead = min(max(rows - epoch * self.n_rows, 0), self.n_rows)
        if ahead == 0 or seed == self.seed:
            return own
        begins = np.random.Generator(np.random.PCG64([seed, epoch])).permutation(self.n_rows)[:ahead]
        return np.concatenate([begins, own[~np.isin(own, begins)]])


def _learnable(store: TokenStore, length: int) -> Int64[np.ndarray, " n_rows"]:
    """The rows of a store of which a token is learned; all of them where none is, for the step to say so."""
    rows = np.arange(max(1, -(-(store.tokens - 1) // length)))
    if store.learns_all:
        return rows
    some = np.zeros(len(rows), dtype=bool)
    for first in range(0, len(rows), _ROWS_AT_ONCE):
        start, stop = first * length + 1, min((first + _ROWS_AT_ONCE) * length + 1, store.tokens)
        learned = store.learned(start, stop)
        opened = store.starts[np.searchsorted(store.starts, start) : np.searchsorted(store.starts, stop)]
        learned[opened - start] = False  # the first token of a document is never predicted
        some[first : first + _ROWS_AT_ONCE] = np.logical_or.reduceat(learned, np.arange(0, len(learned), length))
    return rows[some] if some.any() else rows


def require_rows(store: TokenStore, *, length: int) -> None:
    """An error where a store has less than one row of ``length`` predictions: too little to train on."""
    if store.tokens < length + 1:
        raise BadCorpus(
            f"{store.folder}: expected at least one row of {length} + 1 tokens, got {store.tokens} tokens in "
            f"{store.documents} documents: give more text, or shorten the rows with --length"
        )
