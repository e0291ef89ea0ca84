"""Packed rows from a token store. Targets are shifted here and nowhere else: ``targets[b, t]`` follows ``tokens[b, t]``.

The store's layout (`corpora/layout.py`) assigns documents to rows: whole documents by best fit, and pieces of those longer than
a row. Every learned token is predicted once an epoch. ``position`` separates documents and pieces: Transformers starts a new
sequence wherever it does not grow by one, and attention does not cross that place. The rest of a row is padding, which counts
as a document of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Int64, Integer

from limbeck.corpora.interleave import Interleaved, Span
from limbeck.corpora.problem_formats import KINDS
from limbeck.corpora.store import TokenStore
from limbeck.errors import BadCorpus
from limbeck.types import Batch


class Ranks(Protocol):
    """Which of the processes of a training this one is (``rank``), and how many there are (``size``): a `World` is one."""

    @property
    def rank(self) -> int: ...
    @property
    def size(self) -> int: ...


@dataclass(frozen=True)
class Rank:
    """The process ``rank`` of ``size`` processes, counted from 0."""

    rank: int
    size: int


ALONE = Rank(0, 1)


@dataclass(frozen=True)
class Start:
    """Where a training begins in the endless order of rows.

    ``first``: rows that are passed over, since what is trained has read them. ``common``: a seed, and how many rows of its order
    this order begins with, so that those of several seeds have them in common.
    """

    first: int = 0
    common: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Blend:
    """How the rows of a training are shared among the sources of its store: from row ``first[i]`` on by ``shares[i]``.

    Shares are of tokens, have the sum 1, and hold for the sources in the order of the store.
    """

    first: tuple[int, ...]
    shares: tuple[tuple[float, ...], ...]

    def tokens(self, rows: int, *, length: int) -> tuple[int, ...]:
        """The tokens of each source in a training of ``rows`` rows of ``length`` tokens, rounded up.

        One at least, also of a source whose stage has no row.
        """
        edges = np.minimum([*self.first, rows], rows)
        found = np.ceil(length * np.diff(edges) @ np.array(self.shares)).astype(int)
        return tuple(np.maximum(found, 1).tolist())


class Rows:
    """A token store as rows of ``length`` predictions (the sequence length): an endless `Corpus`, shuffled anew each epoch.

    ``n_rows`` is the number of rows in one epoch, ``layout`` their content. The order depends on the seed alone. Of several
    ``ranks`` each reads every ranks-th global row. Together they read the rows of a single process, and share its position.
    """

    def __init__(
        self,
        store: TokenStore,
        *,
        length: int,
        seed: int = 0,
        ranks: Ranks = ALONE,
        most: int | None = None,
        counted: Callable[[Batch], Batch] = lambda batch: batch,
        start: Start = Start(),
        blend: Blend | None = None,
    ) -> None:
        """``most``: rows of an epoch, if there are more. ``counted`` takes weight from more positions of a batch.

        With a ``blend`` each source of the store has epochs of its own. Raises BadCorpus where one of them has no row.
        """
        self.store = store
        self.length = length
        self.seed = seed
        self.rank, self.ranks = ranks.rank, ranks.size
        self._counted = counted
        self.layout = store.layout(length)
        self.n_rows = self.layout.rows if most is None else min(most, self.layout.rows)
        self._common = start.common
        self._next = start.first
        self._order: dict[int, tuple[int, np.ndarray]] = {}  # of each source the epoch, and its order
        self._edges = np.array([0, self.n_rows])
        self._sources: Interleaved | None = None
        if blend is not None:
            self._edges = store.rows_by_source(length)
            self._sources = _interleaved(store, self._edges, length, blend)

    def take(self, rows: int) -> Batch:
        """This rank's part of the next ``rows`` global rows."""
        indices = np.arange(self._next, self._next + rows)[self.rank :: self.ranks]
        self._next += rows
        return self.rows_of(np.array([self._row(int(index)) for index in indices], dtype=np.int64))

    def in_order(self, batch_rows: int) -> Iterator[Batch]:
        """One pass over this rank's rows in the order of the store, ``batch_rows`` at a time, fewer at the end."""
        mine = np.arange(self.rank, self.n_rows, self.ranks)
        for start in range(0, len(mine), batch_rows):
            yield self.rows_of(mine[start : start + batch_rows])

    def taken(self, rows: int) -> Batch:
        """The last ``rows`` global rows that all ranks together have read."""
        return self.rows_of(np.array([self._row(i) for i in range(self._next - rows, self._next)], dtype=np.int64))

    def first(self, rows: int) -> Int64[np.ndarray, " rows"]:
        """The numbers of the first ``rows`` global rows of the order, each once, ascending; of all where an epoch is read."""
        if rows >= self.n_rows and self._sources is None:
            return np.arange(self.n_rows)
        return np.unique(np.array([self._row(index) for index in range(rows)], dtype=np.int64))

    def documents(self, rows: int) -> list[str]:
        """Names of the documents with weight in the last ``rows`` rows that all ranks together have taken."""
        taken = self.taken(rows)
        return [self.store.name_of(i) for i in taken.document[taken.weight > 0].unique().tolist()]

    def rows_of(self, rows: Int64[np.ndarray, " B"]) -> Batch:
        """The rows with these numbers, from 0 to ``n_rows`` - 1, as a batch (B, T).

        The weight is 0 where the next token is not learned, is learned in another row, or opens another document. Padding has
        the document number -1.
        """
        store, rows = self.store, np.asarray(rows, dtype=np.int64)
        places = self.layout.places(rows)
        there = places.token >= 0
        read = places.token[there]
        document = np.searchsorted(store.starts, read, side="right") - 1
        follows = np.minimum(read + 1, store.tokens - 1)
        weight = self.layout.fresh[places.segment[there]] & (read + 1 < store.starts[document + 1])
        if not store.learns_all:
            weight &= store.learned_at(follows)

        def spread(values: np.ndarray, fill: float = 0, dtype: type = np.int64) -> torch.Tensor:
            found: np.ndarray = np.full(there.shape, fill, dtype)
            found[there] = values
            return torch.from_numpy(found)

        batch = Batch(
            tokens=spread(store.tokens_at(read)),
            targets=spread(store.tokens_at(follows)),
            weight=spread(weight, dtype=np.float32),
            position=torch.from_numpy(places.position),
            document=spread(document, -1),
            row=torch.from_numpy(np.array(rows)),
        )
        return self._counted(batch)

    def counts(self, rows: int) -> np.ndarray:
        """How many of the first ``rows`` rows are of each source of the store."""
        return np.array([rows]) if self._sources is None else self._sources.counts(rows)

    def passes(self, rows: int) -> np.ndarray:
        """How often each source of the store is read in the first ``rows`` rows."""
        found: np.ndarray = self.counts(rows) / np.diff(self._edges)
        return found

    def state_dict(self) -> dict[str, Any]:
        """The position: the number of global rows read, including those skipped at the start."""
        return {"row": self._next}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues at a saved position."""
        self._next = int(state["row"])

    def _row(self, index: int) -> int:
        """The row of the store at a place of the endless order."""
        source, number = (0, index) if self._sources is None else self._sources.at(index)
        first, rows = self._edges[source], int(self._edges[source + 1] - self._edges[source])
        epoch, place = divmod(number, rows)
        if source not in self._order or self._order[source][0] != epoch:
            self._order[source] = (epoch, self._shuffled(source, epoch, rows))
        return int(first + self._order[source][1][place])

    def _shuffled(self, source: int, epoch: int, n_rows: int) -> Integer[np.ndarray, " n_rows"]:
        """The rows of a source in the order of an epoch. Those in common with another seed come first, and only once."""
        which = [epoch] if self._sources is None else [epoch, source]
        own = np.random.Generator(np.random.PCG64([self.seed, *which])).permutation(n_rows)
        own = own.astype(np.uint32) if n_rows < 2**32 else own  # it is kept for the epoch
        seed, rows = self._common
        given = rows if self._sources is None else int(self._sources.counts(rows)[source])
        ahead = min(max(given - epoch * n_rows, 0), n_rows)
        if ahead == 0 or seed == self.seed:
            return own
        begins = np.random.Generator(np.random.PCG64([seed, *which])).permutation(n_rows)[:ahead].astype(own.dtype)
        return np.concatenate([begins, own[~np.isin(own, begins)]])


def _interleaved(
    store: TokenStore, edges: Int64[np.ndarray, " sources_and_one"], length: int, blend: Blend
) -> Interleaved:
    """The source of each row. Rows of a source count by the tokens that they hold on average."""
    layout, rows = store.layout(length), np.diff(edges)
    for source, count in zip(store.manifest["sources"], rows, strict=True):
        if not count:
            raise BadCorpus(
                f"{source['source']}: expected text to train on, got none in its {source['documents']} documents"
            )
    read = np.array([layout.read(*map(int, pair)) for pair in pairwise(edges)]) / rows
    shares = [np.array(some) / read for some in blend.shares]
    return Interleaved([Span(first, some / some.sum()) for first, some in zip(blend.first, shares, strict=True)])


def require_rows(store: TokenStore, *, length: int) -> None:
    """Raises BadCorpus where a store has less than one row of ``length`` predictions, too little to train on.

    So it does for worked problems in a format that are longer than a row, which would lose their shots.
    """
    if store.tokens < length + 1:
        raise BadCorpus(
            f"{store.folder}: expected at least one row of {length} + 1 tokens, got {store.tokens} tokens in "
            f"{store.documents} documents: give more text, or shorten the rows with --seq-len"
        )
    _require_whole_problems(store, length=length)


def _require_whole_problems(store: TokenStore, *, length: int) -> None:
    """Raises BadCorpus for worked problems in a format that do not fit a row."""
    if set(store.manifest.get("read", {}).get("forms", {})).isdisjoint(KINDS):
        return
    longer = np.flatnonzero(np.diff(store.starts) > length + 1).tolist()
    split = [name for name in map(store.name_of, longer) if any(f" {kind}: " in name for kind in KINDS)]
    if split:
        raise BadCorpus(
            f"{store.folder}: expected problems with their shots to fit into rows of {length} tokens, got {len(split):,} "
            f"that do not, such as {split[0]!r}: take fewer shots, as in formats:ic_cot@2:FILE, or longer rows with --seq-len"
        )
