"""The reference of preference objectives: log-probabilities of pairs by the model before tuning, computed once and kept.

So no step computes a second model. Only pairs that some training reads are scored, a block of rows at a time; a run that was
stopped goes on at the first block that is missing, and one that gets more seeds scores what these read besides.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64

from limbeck.corpora import Rows, TokenStore
from limbeck.corpora.pair_rows import by_side, sides_of
from limbeck.disk import load_arrays, save_arrays, writing
from limbeck.host import on_host, sent
from limbeck.models.language_model import LanguageModel
from limbeck.models.observing import evaluating
from limbeck.probes.measurements import measure
from limbeck.probes.preference import read_pairs
from limbeck.run.log import console
from limbeck.run.micro import micro_rows
from limbeck.run.world import World
from limbeck.types import Batch, PairTargets

FOLDER = "reference"  # in the run's folder
_BLOCK = 512  # rows of a file
_AXES = {"pairs": 1, "nats": 2}  # numbers of pairs in the store, and of each both sides
_AGAIN = "remove it; the next run computes it again"


@dataclass(eq=False)
class Reference:
    """A teacher that knows log p of both completions of each pair (pairs, 2), in nats, NaN of those that no training reads."""

    name: str
    log_p: Float[np.ndarray, "pairs 2"] = field(repr=False)

    def __call__(self, batch: Batch) -> PairTargets:
        """Which completion each learned position of rows of pairs belongs to, and its log p."""
        side = sides_of(batch)
        learned = on_host(batch.weight).reshape(-1) > 0
        pairs = int(side.max()) // 2 + 1
        document = torch.zeros(pairs, dtype=torch.int64)
        real = side >= 0
        document[side[real] // 2] = on_host(batch.document).reshape(-1)[real]
        device = batch.weight.device
        log_p = torch.from_numpy(self.log_p[document.numpy()])
        return PairTargets(sent(torch.where(learned, side, -1), device), sent(log_p, device))


def reference_of(
    model: LanguageModel,
    store: TokenStore,
    rows: Int64[np.ndarray, " rows"],
    *,
    length: int,
    folder: Path,
    world: World,
    bf16: bool,
) -> Reference:
    """The reference of the pairs in some ``rows`` of a store, from files in ``folder`` or computed now; on all ranks.

    ``bf16``: computed in mixed precision, as the trainings are. Raises BadFolder where a file is damaged.
    """
    log_p = np.full((store.documents, 2), math.nan)
    for number in np.unique(rows // _BLOCK).tolist():
        file, wanted = folder / f"{number:05d}.safetensors", rows[rows // _BLOCK == number]
        if not world.any(world.first and _has(file, store, wanted, length=length))[0]:
            console.print(f"reference: {len(wanted):,} of {len(rows):,} rows of pairs, once by the model before tuning")
            part = _scored(model, store, wanted, length=length, world=world, bf16=bf16)
            if world.first:
                with writing(folder):
                    folder.mkdir(parents=True, exist_ok=True)
                save_arrays(file, part)
        world.barrier()
        arrays = _read(file)
        log_p[arrays["pairs"].astype(np.int64)] = -arrays["nats"]
    return Reference(model.name, log_p)


def _read(file: Path) -> dict[str, np.ndarray]:
    return load_arrays(file, _AXES, needs=tuple(_AXES), remedy=_AGAIN).arrays


def _has(file: Path, store: TokenStore, rows: Int64[np.ndarray, " rows"], *, length: int) -> bool:
    """Whether a file has all pairs of some rows."""
    if not file.is_file():
        return False
    documents = Rows(store, length=length).rows_of(rows).document.unique()
    return bool(np.isin(documents[documents >= 0].numpy(), _read(file)["pairs"]).all())


def _scored(
    model: LanguageModel,
    store: TokenStore,
    numbers: Int64[np.ndarray, " rows"],
    *,
    length: int,
    world: World,
    bf16: bool,
) -> dict[str, np.ndarray]:
    """The pairs in some rows, and nats of their sides; each rank scores a part of the rows."""
    rows = Rows(store, length=length)
    together = micro_rows(length, world.device)
    mine = numbers[world.rank :: world.size]

    def batches() -> Iterator[Batch]:
        for start in range(0, len(mine), together):
            yield by_side(rows.rows_of(mine[start : start + together])).to(world.device)

    autocast = torch.autocast(world.device.type, dtype=torch.bfloat16, enabled=bf16)
    with evaluating(model.model), autocast:
        found = measure(model, None, batches(), documents=2 * store.documents, ranks=world)
    pairs = np.flatnonzero(read_pairs(found))
    return {"pairs": pairs.astype(np.float64), "nats": found.nats.reshape(-1, 2)[pairs]}
