"""What captured outcomes of all tokens give to tokens that are left out, measured on a sample of the captured rows."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from limbeck.corpora import Rows, TokenStore
from limbeck.models.trim.tokenizer import Kept
from limbeck.probes.interval import mean_interval
from limbeck.teachers import LogitCache
from limbeck.teachers.codec import Sampled

_TOKENS = 2**16  # of the rows that are read


def measured_outside(cache: LogitCache, store: TokenStore, kept: Kept) -> dict[str, Any]:
    """The probability that a teacher's captured outcomes give to tokens that are not ``kept``, a position.

    ``store`` is the captured text, in the whole vocabulary. Gives ``left_out``, an interval over its documents; ``worst``, that
    of one position; ``rest``, the mean probability beyond top-k outcomes, of which it is not known on which tokens it is (None
    for sampled ones); and the number of ``positions``.
    """
    number = min(cache.rows, max(1, _TOKENS // cache.length))
    rows = np.unique(np.linspace(cache.first, cache.first + cache.rows - 1, number).astype(np.int64))
    dropped = torch.ones(cache.vocab, dtype=torch.bool)
    dropped[torch.from_numpy(kept)] = False
    left, positions = np.zeros(store.documents), np.zeros(store.documents)
    worst, rest = 0.0, 0.0
    sampled = isinstance(cache.codec, Sampled)
    packed = Rows(store, length=cache.length)
    for row in rows:
        batch = cache.masked(packed.rows_of(np.array([row])))
        signal, flat = cache(batch), batch.flat()
        places = flat.weight.nonzero().squeeze(-1)
        mass = torch.where(dropped[signal.ids], signal.weight, 0.0).double().sum(-1)[places]
        where = batch.document.reshape(-1)[places].numpy()
        np.add.at(left, where, mass.numpy())
        np.add.at(positions, where, 1)
        worst = max([worst, *mass.tolist()])
        if signal.rest is not None:
            rest += float(signal.rest[places].double().exp().sum())
    read = positions > 0
    total = int(positions.sum())
    return {
        "positions": total,
        "left_out": asdict(mean_interval(left[read], positions[read])) if total else None,
        "worst": worst,
        "rest": None if sampled else rest / max(1, total),
    }
