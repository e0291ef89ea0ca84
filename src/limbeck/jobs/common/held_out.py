"""The held-out rows that models are measured on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypedDict

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from limbeck.corpora import Rows, TokenStore
from limbeck.corpora.pack import ALONE, Ranks
from limbeck.disk import Count, read_json, write_json
from limbeck.errors import BadSetting
from limbeck.jobs.common.environment import Environment
from limbeck.probes import Measurements
from limbeck.run.run import Plan
from limbeck.run.watch import Watch, watched_sequences, watched_steps
from limbeck.teachers import NumberedRows
from limbeck.types import Batch

# Tokens that models are measured on: at most so many that documents, not tokens, limit the intervals; of a short run a
# quarter of what it trains on, so that proving does not cost more than training.
MOST = {"cpu": 2**16, "cuda": 2**20}
LEAST = 2**13
# With --eval-every: the measurements of a training take a tenth of its time at most, where that is LEAST tokens or more. A
# forward pass costs a third of a training step on the same sequence, or less where a teacher is queried too.
_TIME = 0.1
_APART = 3  # one document of so many may be watched at most; the others judge


@dataclass(frozen=True)
class Apart:
    """Held-out text by which a training is watched and its weights are chosen, so that it must not judge the result.

    ``rows`` are watched, of them the ``documents``, which are all that are in them where that are not too many.
    """

    rows: Int64[np.ndarray, " rows"]
    documents: Int64[np.ndarray, " documents"]


class Steps(Protocol):
    """How long a training is: optimiser steps, of so many rows each."""

    @property
    def steps(self) -> int:
        """Optimiser steps in all."""

    @property
    def rows(self) -> int:
        """Rows of a step."""


def kept_apart(store: TokenStore, plan: Steps, *, every: int, length: int, device: torch.device) -> Apart:
    """The part of a held-out text that is measured every so many steps: rows in a fixed order, from the end of that in which
    the final evaluation takes its own.

    Raises BadSetting where too few documents are held out for two parts.
    """
    points = plan.steps // every + 2
    most = min(
        MOST["cuda" if device.type == "cuda" else "cpu"], int(3 * _TIME * plan.steps * plan.rows * length / points)
    )
    wanted = max(1, max(most, LEAST) // length)
    rows = Rows(store, length=length)
    order = _order(rows)[::-1][: _LOOKED_AT * wanted]
    allowed = store.documents // _APART
    chosen, documents = list[int](), set[int]()
    for numbers in np.array_split(order, -(-len(order) // _LOOKED_AT)):
        batch = rows.rows_of(numbers)
        for number, document, weight in zip(numbers.tolist(), batch.document, batch.weight, strict=True):
            own = set(document[document >= 0].unique().tolist())
            if not bool((weight > 0).any()) or len(chosen) == wanted:
                continue
            if not chosen and len(own) > allowed:  # so few are held out that a row has more
                own = set(sorted(document[weight > 0].unique().tolist())[:allowed])
            if own and len(documents | own) <= allowed:
                chosen.append(number)
                documents |= own
        if len(chosen) == wanted:
            break
    if not chosen:
        raise BadSetting(
            f"--eval-every {every}: {store.documents} documents are held out, too few for a part that is measured during the "
            "training and another that judges its result: hold out more with --eval-data, or leave it out (six points of a "
            "training are measured anyway)"
        )
    return Apart(np.sort(np.array(chosen)), np.array(sorted(documents)))


def _of(documents: Tensor, batch: Batch, *, others: bool = False) -> Batch:
    """The batch with weight 0 outside of some documents; with ``others`` inside of them."""
    left_out = torch.isin(batch.document, documents, invert=not others)
    return replace(batch, weight=batch.weight.masked_fill(left_out, 0))


def write_apart(folder: Path, apart: Apart) -> None:
    """Writes into a run's folder which held-out documents it is watched by, so that no probe judges by them either."""
    write_json(folder / _WATCHED, {"documents": apart.documents.tolist()})


def unwatched(measured: Measurements, apart: Apart | None) -> Measurements:
    """Measurements with sums of 0 for documents that are kept apart, as if they had not been read.

    Predictions of largest KL stay.
    """
    if apart is None:
        return measured
    arrays: dict[str, Any] = {n: value.copy() for n, value in vars(measured).items() if isinstance(value, np.ndarray)}
    for value in arrays.values():
        value[apart.documents] = 0
    return replace(measured, **arrays)


def watched_documents(folder: Path) -> Int64[np.ndarray, " documents"] | None:
    """The held-out documents that the run in a folder is watched by, None for none. Raises BadFolder where it is damaged."""
    file = folder / _WATCHED
    remedy = "run the command of that run again"
    return np.array(read_json(file, _Watched, remedy=remedy)["documents"], dtype=np.int64) if file.is_file() else None


_WATCHED = "watched.json"


class _Watched(TypedDict):
    documents: list[Count]


_LOOKED_AT = 64  # rows at a time, and for each that is wanted


def _order(rows: Rows) -> Int64[np.ndarray, " rows"]:
    """All rows, in the order in which a sample takes them, so that a smaller one is part of a larger."""
    return np.random.default_rng(0).permutation(rows.n_rows)


def watch_of(
    store: TokenStore,
    plan: Plan,
    *,
    length: int,
    environment: Environment,
    every: int | None = None,
    apart: Apart | None = None,
) -> Watch | None:
    """The held-out text to measure during a training; None if it would cost too much.

    Also None on ranks other than 0, except of a sharded mesh, whose ranks measure together. ``apart``: what is measured after
    every so many steps, ``every``; without, a few rows at six points.
    """
    world = environment.world
    if not (world.first or world.sharded):
        return None
    ranks = world if world.sharded else None
    if apart is not None and every is not None:
        text = HeldOut(store, length=length, environment=environment, chosen=apart.rows)
        batches = partial(text.batches, counted=partial(_of, torch.from_numpy(apart.documents)), ranks=ranks or ALONE)
        return Watch(batches, store.documents, frozenset(), ranks=ranks, every=every).until(plan.steps)
    most = MOST["cuda" if environment.world.device.type == "cuda" else "cpu"] // length
    rows = min(watched_sequences(plan.steps * plan.rows), most)
    if not rows:
        return None
    text = HeldOut(store, length=length, environment=environment, rows=rows)
    if not any(bool((batch.weight > 0).any()) for batch in text.batches()):
        return None  # as of prompts alone
    return Watch(partial(text.batches, ranks=ranks or ALONE), store.documents, watched_steps(plan.steps), ranks=ranks)


class HeldOut:
    """The held-out rows that models are measured on: all of them, or a fixed sample spread over all documents."""

    def __init__(
        self,
        store: TokenStore,
        *,
        length: int,
        environment: Environment,
        trained: int | None = None,
        rows: int | None = None,
        chosen: Int64[np.ndarray, " rows"] | None = None,
        without: Int64[np.ndarray, " documents"] | None = None,
    ) -> None:
        """``trained``: how many tokens the models of the comparison are trained on, None where none are.

        ``rows``: exactly so many, as many as captured logits have. ``chosen``: these rows, and no sample. ``without``: documents
        that have no weight.
        """
        self.store = store
        self._rows = Rows(store, length=length)
        self._device = environment.world.device
        tokens = MOST["cuda" if self._device.type == "cuda" else "cpu"]
        if trained is not None:
            tokens = min(tokens, max(LEAST, trained // 4))
        self.sample = _order(self._rows)[: rows or max(1, tokens // length)] if chosen is None else chosen
        self._without = None if without is None else torch.from_numpy(without)
        self._chosen = np.sort(self.sample)
        self._together = max(1, 2048 // length)

    @property
    def description(self) -> str:
        """A sentence on the size of the sample, if not all of the text is read."""
        read, there = len(self._chosen), self._rows.n_rows
        description = f", {read:,} of their {there:,} rows" if read < there else ""
        left = self._rows.layout.packed.left_out
        description += (
            ""
            if self._without is None
            else f", without {len(self._without):,} documents by which the training was watched"
        )
        return description + (f", without {left:,} conversations longer than a row" if left else "")

    def batches(
        self, *, counted: Callable[[Batch], Batch] = lambda batch: batch, ranks: Ranks = ALONE
    ) -> Iterator[Batch]:
        """The rows, a few at a time, on the device; ``counted`` takes weight from more of their positions.

        Of several ``ranks`` each gets a part of the rows, in equally many batches, since a sharded model runs on all ranks at
        once; a rank that has fewer rows gets some again, with weight 0.
        """
        most = -(-len(self._chosen) // ranks.size)
        mine = self._chosen[ranks.rank :: ranks.size]
        again = np.resize(self._chosen, most - len(mine))
        for start in range(0, most, self._together):
            part = slice(start, start + self._together)
            batch = counted(self._rows.rows_of(np.concatenate([mine, again])[part]))
            if self._without is not None:
                batch = _of(self._without, batch, others=True)
            real = torch.arange(most)[part] < len(mine)
            yield replace(batch, weight=batch.weight * real[:, None]).to(self._device)

    def rows_of(self, numbers: Int64[np.ndarray, " B"]) -> Batch:
        """Rows of the sample by their places in it, which are also their numbers."""
        batch = self._rows.rows_of(self.sample[numbers])
        if self._without is not None:
            batch = _of(self._without, batch, others=True)
        return replace(batch, row=torch.from_numpy(numbers)).to(self._device)

    @property
    def numbered(self) -> NumberedRows:
        """The rows of the sample by their places in it, in a fixed order and a few at a time."""
        return NumberedRows(self.rows_of, self._rows.length, len(self.sample), self._together)

    def text_bytes(self, measured: Measurements) -> np.ndarray:
        """Bytes of text of the measured tokens of each document, (documents,): its bytes times the share that was measured."""
        store, starts = self.store, self.store.starts
        sizes = np.zeros(store.documents)
        for document in np.flatnonzero(measured.tokens > 0).tolist():
            learned = int(store.learned(int(starts[document]) + 1, int(starts[document + 1])).sum())
            sizes[document] = store.bytes_of(document) * measured.tokens[document] / max(learned, 1)
        return sizes
