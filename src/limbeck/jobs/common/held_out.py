"""The held-out rows that models are measured on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Int64

from limbeck.corpora import Rows, TokenStore
from limbeck.corpora.pack import ALONE, Ranks
from limbeck.jobs.common.environment import Environment
from limbeck.probes import Measurements
from limbeck.run.run import Plan
from limbeck.run.watch import Watch, watched_sequences, watched_steps
from limbeck.types import Batch

# Tokens that models are measured on: at most so many that documents, not tokens, limit the intervals; of a short run a
# quarter of what it trains on, so that proving does not cost more than training.
MOST = {"cpu": 2**16, "cuda": 2**20}
LEAST = 2**13


def watch_of(store: TokenStore, plan: Plan, *, length: int, environment: Environment) -> Watch | None:
    """The held-out text to measure during a training; None if it would cost too much.

    Also None on ranks other than 0, except of a sharded mesh, whose ranks measure together.
    """
    most = MOST["cuda" if environment.world.device.type == "cuda" else "cpu"] // length
    rows = min(watched_sequences(plan.steps * plan.rows), most)
    world = environment.world
    if not rows or not (world.first or world.sharded):
        return None
    text = HeldOut(store, length=length, environment=environment, rows=rows)
    if not any(bool((batch.weight > 0).any()) for batch in text.batches()):
        return None  # as of prompts alone
    ranks = world if world.sharded else None
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
    ) -> None:
        """``trained``: how many tokens the models of the comparison are trained on, None where none are.

        ``rows``: exactly so many, as many as captured logits have.
        """
        self.store = store
        self._rows = Rows(store, length=length)
        self._device = environment.world.device
        tokens = MOST["cuda" if self._device.type == "cuda" else "cpu"]
        if trained is not None:
            tokens = min(tokens, max(LEAST, trained // 4))
        # of one order, so that a smaller sample is part of a larger
        self.sample = np.random.default_rng(0).permutation(self._rows.n_rows)[: rows or max(1, tokens // length)]
        self._chosen = np.sort(self.sample)
        self._together = max(1, 2048 // length)

    @property
    def description(self) -> str:
        """A sentence on the size of the sample, if not all of the text is read."""
        read, there = len(self._chosen), self._rows.n_rows
        description = f", {read:,} of their {there:,} rows" if read < there else ""
        left = self._rows.layout.packed.left_out
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
            real = torch.arange(most)[part] < len(mine)
            yield replace(batch, weight=batch.weight * real[:, None]).to(self._device)

    def rows_of(self, numbers: Int64[np.ndarray, " B"]) -> Batch:
        """Rows of the sample by their places in it, which are also their numbers."""
        batch = self._rows.rows_of(self.sample[numbers]).to(self._device)
        return replace(batch, row=torch.from_numpy(numbers))

    def text_bytes(self, measured: Measurements) -> np.ndarray:
        """Bytes of text of the measured tokens of each document, (documents,): its bytes times the share that was measured."""
        store, starts = self.store, self.store.starts
        sizes = np.zeros(store.documents)
        for document in np.flatnonzero(measured.tokens > 0).tolist():
            learned = int(store.learned(int(starts[document]) + 1, int(starts[document + 1])).sum())
            sizes[document] = store.bytes_of(document) * measured.tokens[document] / max(learned, 1)
        return sizes
