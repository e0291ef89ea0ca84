"""Recall in context: a row contains a passage of held-out text twice, and the probe compares the losses of both occurrences.

The second occurrence is a copy of the first, so a model that can look it up has a lower loss there. This is the associative
recall of Arora et al., arXiv 2312.04927, sec. 4, with ordinary text instead of pairs of symbols. Small models cannot recall
random pairs: the 260k-parameter Llama of stories in limbeck's results chose the right one of 8 values in 0.116 of cases, where
chance is 0.125, while its second occurrence is 0.10 nats a token easier. The first tokens of both occurrences are left out, since
the repetition cannot be known yet. The gain is meaningful only beside another model of the same training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.corpora import TokenStore
from limbeck.disk import load_arrays, save_arrays, writing
from limbeck.probes.interval import bootstrap
from limbeck.probes.measurements import AGAIN
from limbeck.probes.slices import nats_of
from limbeck.types import Batch, CausalLM, Reading

PASSAGE, UNKNOWN = 48, 8  # tokens of a passage, and the first ones that do not count
_DOCUMENTS, _TOGETHER = 256, 16


@dataclass(frozen=True)
class Recall:
    """Sums of nats over the counted tokens of each passage, for both occurrences, and the number of these tokens in one."""

    first: Float[np.ndarray, " passages"]
    second: Float[np.ndarray, " passages"]
    tokens: Float[np.ndarray, " passages"]

    def save(self, path: Path) -> None:
        """Writes the sums to a safetensors file, atomically."""
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        save_arrays(path, vars(self))

    @classmethod
    def load(cls, path: Path) -> Recall:
        """Reads a file of `save`. Raises BadFolder if it is missing or damaged."""
        axes = dict.fromkeys(("first", "second", "tokens"), 1)
        return cls(**load_arrays(path, axes, needs=tuple(axes), remedy=AGAIN).arrays)


def passages_of(store: TokenStore, *, context: int) -> Int[Tensor, "passages T"] | None:
    """Rows of a document's first token, a passage, and the passage again. None if documents or ``context`` are too short.

    The passage is the text after the first token. Each document that is long enough gives one, up to 256 in total.
    """
    starts, length = store.starts, np.diff(store.starts)
    long_enough = np.flatnonzero(length > PASSAGE)[:_DOCUMENTS]
    if not len(long_enough) or context < 2 * PASSAGE + 1:
        return None
    once = np.stack([store.slice(int(starts[d]), int(starts[d]) + PASSAGE + 1).astype(np.int64) for d in long_enough])
    return torch.from_numpy(np.concatenate([once, once[:, 1:]], 1))


@torch.no_grad()
def measure_recall(model: CausalLM, rows: Int[Tensor, "passages T"], *, device: torch.device) -> Recall:
    """Measures a model's nats on both occurrences of each passage."""
    nats = []
    for some in rows.split(_TOGETHER):
        tokens, targets = some[:, :-1], some[:, 1:]
        position = torch.arange(tokens.shape[1]).expand_as(tokens)
        nowhere = torch.zeros_like(tokens)
        batch = Batch(tokens, targets, torch.ones(tokens.shape), position, nowhere, nowhere[:, 0]).to(device)
        targets = batch.targets.reshape(-1)
        all_of_them = torch.arange(len(targets), device=targets.device)
        nats.append(nats_of(model(batch), targets, all_of_them).view_as(tokens).double().cpu())
    first, second = torch.cat(nats)[:, : 2 * PASSAGE].chunk(2, 1)
    count = np.full(len(rows), PASSAGE - UNKNOWN, dtype=np.float64)
    return Recall(first[:, UNKNOWN:].sum(1).numpy(), second[:, UNKNOWN:].sum(1).numpy(), count)


def recall(model: str, runs: Sequence[Recall], *, seed: int | None = None) -> list[Reading]:
    """Nats per token of the first and of the second occurrence of a passage, and their difference, with intervals."""
    columns = np.stack([np.stack([run.first, run.second, run.first - run.second, run.tokens], -1) for run in runs])
    first, second, easier = bootstrap(lambda total: total[..., :3] / total[..., 3:], columns)
    found = (first.within(0.0), second.within(0.0), easier)
    return [
        Reading(model, "recall", name, x.value, "nats/token", x.n, x.low, x.high, seed)
        for name, x in zip(("first_reading", "second_reading", "recalled"), found, strict=True)
    ]
