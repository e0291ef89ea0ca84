"""Recall slices: nats per token at positions whose bigram repeats an earlier one in the context, and elsewhere.

A prediction of x_t is a *recall hit* if the bigram (x_{t-1}, x_t) occurs earlier in the same document of the same row, so that
it could be looked up. Models without attention have a higher loss on hits, most of all for bigrams that are rare in training, and
the mean over all tokens hides this (Arora et al., arXiv 2312.04927, sec. 3). The paper counts only bigrams with at most 1,250
occurrences in its 10 billion tokens. That limit depends on the corpus, so hits are binned by training count here, and apart from
that by their distance in tokens to the nearest earlier occurrence. Hits are a heuristic: they ignore synonyms and longer repeats,
and locate a gap in loss without explaining it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor

from limbeck.corpora import TokenStore
from limbeck.disk import load_arrays, save_arrays, writing
from limbeck.errors import BadCorpus
from limbeck.probes.interval import Interval, bootstrap
from limbeck.probes.measurements import AGAIN
from limbeck.types import Batch, CausalLM, Outputs, Reading, each

EDGES = (0, 10, 100, 1_000)  # largest training count of each bin of hits; the last bin is open
BINS = ("0", *(f"{low + 1}-{high}" for low, high in pairwise(EDGES)), f"over {EDGES[-1]}")
REACHES = (16, 64, 256)  # largest distance of each bin of hits by distance; the last bin is open
DISTANCES = (*(f"{low + 1}-{high}" for low, high in pairwise((0, *REACHES))), f"over {REACHES[-1]}")
_ELSEWHERE = len(BINS)  # the last slice
_PIECE = 2**22  # tokens of a training text processed together
_CELLS = 2**21  # logits in memory at once


@dataclass(frozen=True)
class Slices:
    """Sums over the predictions of each document and slice. Slices are the bins of hits in `BINS`, then all other tokens.

    ``far_tokens`` and ``far_nats`` are the sums over hits by distance (`DISTANCES`), None in files of earlier versions.
    """

    tokens: Float[np.ndarray, "documents slices"]
    nats: Float[np.ndarray, "documents slices"]
    far_tokens: Float[np.ndarray, "documents distances"] | None = None
    far_nats: Float[np.ndarray, "documents distances"] | None = None

    def save(self, path: Path) -> None:
        """Writes the sums to a safetensors file, atomically."""
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        save_arrays(path, {name: sums for name, sums in vars(self).items() if sums is not None})

    @classmethod
    def load(cls, path: Path) -> Slices:
        """Reads a file of `save`. Raises BadFolder if it is missing or damaged."""
        axes = dict.fromkeys((field.name for field in fields(cls)), 2)
        return cls(**load_arrays(path, axes, needs=("tokens", "nats"), remedy=AGAIN).arrays)

    def mean(self, *, hits: bool) -> float:
        """Nats per token on all hits, or on all other tokens; NaN if there are none."""
        part = slice(0, _ELSEWHERE) if hits else slice(_ELSEWHERE, None)
        tokens = self.tokens[:, part].sum()
        return float(self.nats[:, part].sum() / tokens) if tokens else float("nan")


@dataclass(frozen=True)
class Bigrams:
    """Training counts of some bigrams: ascending codes and their counts. The code of a bigram (a, b) is a V + b."""

    codes: Int64[np.ndarray, " n"]
    counts: Int64[np.ndarray, " n"]
    vocab: int

    @classmethod
    def counted(cls, store: TokenStore, batches: Iterable[Batch], *, vocab: int) -> Bigrams:
        """Counts the bigrams of these batches inside the documents of a token store."""
        found = [np.unique(_codes(batch, vocab)[batch.weight > 0].cpu().numpy()) for batch in batches]
        codes = np.unique(np.concatenate([np.zeros(0, np.int64), *found]))
        counts = np.zeros(len(codes), np.int64)
        for start in range(0, store.tokens - 1 if len(codes) else 0, _PIECE):
            tokens = store.slice(start, min(start + _PIECE + 1, store.tokens)).astype(np.int64)
            inside = np.ones(len(tokens) - 1, dtype=bool)
            opened = store.starts[
                np.searchsorted(store.starts, start + 1) : np.searchsorted(store.starts, start + len(tokens))
            ]
            inside[opened - start - 1] = False  # the first token of a document has no predecessor
            seen = (tokens[:-1] * vocab + tokens[1:])[inside]
            place = np.searchsorted(codes, seen).clip(max=len(codes) - 1)
            counts += np.bincount(place[codes[place] == seen], minlength=len(codes))
        return cls(codes, counts, vocab)

    def slices_of(self, batch: Batch, hit: Bool[Tensor, "B T"]) -> Int64[np.ndarray, " BT"]:
        """The slice of each flat position: the bin of a ``hit``, or the last slice for other tokens."""
        place = np.searchsorted(self.codes, _codes(batch, self.vocab).reshape(-1).cpu().numpy())
        count = self.counts[place.clip(max=len(self.codes) - 1)]
        return np.where(hit.reshape(-1).cpu().numpy(), np.searchsorted(EDGES, count), _ELSEWHERE)


def distances(batch: Batch) -> Int[Tensor, "B T"]:
    """Tokens from each prediction back to the last earlier occurrence of its bigram in the same document of its row; else 0."""
    length = batch.tokens.shape[1]
    run = (batch.position == 0).cumsum(1)  # which document of the row
    both = torch.stack([run, batch.tokens, batch.targets], -1).reshape(-1, 3)
    row = torch.arange(len(batch.tokens), device=both.device).repeat_interleave(length)
    kinds = torch.unique(torch.cat([row[:, None], both], 1), dim=0, return_inverse=True)[1]
    order = kinds.argsort(stable=True)  # groups equal bigrams, the earliest first
    found = torch.zeros_like(kinds)
    found[order[1:]] = (order[1:] - order[:-1]) * (kinds[order[1:]] == kinds[order[:-1]])
    return found.view_as(batch.tokens)


def nats_of(outputs: Outputs, targets: Int[Tensor, " BT"], places: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Nats of the targets at these flat positions. Logits are computed piece by piece."""
    size = max(8, _CELLS // outputs.vocab)
    parts = [
        -outputs.logits(part).float().log_softmax(-1).gather(-1, targets[part][:, None]).squeeze(-1)
        for part in places.split(size)
    ]
    return torch.cat(parts)


@torch.no_grad()
def measure_slices(model: CausalLM, batches: Iterable[Batch], bigrams: Bigrams, *, documents: int) -> Slices:
    """Measures a model's sums for each of ``documents`` documents and each slice. Raises BadCorpus if no token has weight."""
    sums, far = np.zeros((2, documents, _ELSEWHERE + 1)), np.zeros((2, documents, len(DISTANCES)))
    for batch, outputs in each(model, batches):
        counted = batch.weight.reshape(-1).nonzero().squeeze(1)
        where = counted.cpu().numpy()
        targets = batch.targets.reshape(-1)
        if not len(counted):
            continue
        nats = nats_of(outputs, targets, counted).double().cpu().numpy()
        weight = batch.weight.reshape(-1)[counted].double().cpu().numpy()
        back = distances(batch)
        place = batch.document.reshape(-1)[counted].cpu().numpy(), bigrams.slices_of(batch, back > 0)[where]
        np.add.at(sums[0], place, weight)
        np.add.at(sums[1], place, weight * nats)
        far_back = back.reshape(-1)[counted].cpu().numpy()
        hit = far_back > 0
        place = place[0][hit], np.searchsorted(REACHES, far_back[hit])
        np.add.at(far[0], place, weight[hit])
        np.add.at(far[1], place, (weight * nats)[hit])
    if not sums[0].any():
        raise BadCorpus(
            f"the held-out text has no token of weight > 0, so {model.name} cannot be measured: give more text, or held-out "
            "text with --eval-data"
        )
    return Slices(*sums, *far)


def slices(
    model: str, runs: Sequence[Slices], *, against: Sequence[Slices] = (), seed: int | None = None
) -> list[Reading]:
    """Nats per token on all hits, on hits of each bin and distance and elsewhere, and the share of hits among all predictions.

    ``against`` are slices of another model on the same text, one or as many as ``runs``. They add the gap in nats per token on
    hits, on those of each bin and distance, and elsewhere, and the share of the whole gap on hits, Δ_hits n_hits / (Δ n)
    (arXiv 2312.04927, sec. 3.1). The share is not clipped: above 1, the model is better elsewhere. It is left out if the gap's
    interval contains 0.
    """
    tokens, nats = np.stack([run.tokens for run in runs]), np.stack([run.nats for run in runs])
    found: list[tuple[str, str, Interval]] = []
    parts = {"recall_hits": slice(0, _ELSEWHERE)}
    parts |= {f"recall_hits, seen {name}": slice(i, i + 1) for i, name in enumerate(BINS)}
    parts |= {"elsewhere": slice(_ELSEWHERE, None)}
    for name, part in parts.items():
        if tokens[..., part].any():
            found.append((name, "nats/token", _mean(nats[..., part].sum(-1), tokens[..., part].sum(-1)).within(0.0)))
    far = _far(runs)
    if far is not None:
        found += _by_bin("recall_hits", DISTANCES, *far, " tokens back", least=0.0)
    on_hits = tokens[..., :_ELSEWHERE].sum(-1)
    found.append(("share_of_hits", "share", _mean(on_hits, tokens.sum(-1)).within(0.0, 1.0)))
    if against and on_hits.any():
        more = nats - np.stack([run.nats for run in against])
        found += _gap(more, tokens)
        found += _by_bin("gap_on_hits", [f"seen {name}" for name in BINS], more, tokens)
        theirs = _far(against)
        if far is not None and theirs is not None:
            found += _by_bin("gap_on_hits", DISTANCES, far[0] - theirs[0], far[1], " tokens back")
    return [Reading(model, "slices", name, x.value, unit, x.n, x.low, x.high, seed) for name, unit, x in found]


def _far(runs: Sequence[Slices]) -> tuple[np.ndarray, np.ndarray] | None:
    """Nats and tokens of hits by distance, (seeds, documents, distances); None if a measurement has none."""
    tokens = [run.far_tokens for run in runs if run.far_tokens is not None]
    nats = [run.far_nats for run in runs if run.far_nats is not None]
    return (np.stack(nats), np.stack(tokens)) if len(tokens) == len(nats) == len(runs) else None


def _by_bin(
    name: str,
    bins: Sequence[str],
    sums: Float[np.ndarray, "seeds documents bins"],
    tokens: Float[np.ndarray, "seeds documents bins"],
    unit: str = "",
    *,
    least: float = -math.inf,
) -> list[tuple[str, str, Interval]]:
    """The mean of each bin that has tokens, at least ``least``."""
    return [
        (f"{name}, {of}{unit}", "nats/token", _mean(sums[..., i], tokens[..., i]).within(least))
        for i, of in enumerate(bins)
        if tokens[..., i].any()
    ]


def _gap(more: Float[np.ndarray, "seeds documents slices"], tokens: np.ndarray) -> list[tuple[str, str, Interval]]:
    """The gap between two models' nats per token: overall, on hits, elsewhere, and the share of it on hits."""
    hit, n_hit = more[..., :_ELSEWHERE].sum(-1), tokens[..., :_ELSEWHERE].sum(-1)
    whole, n = more.sum(-1), tokens.sum(-1)
    gap = _mean(whole, n)
    found = [
        ("gap", "nats/token", gap),
        ("gap_on_hits", "nats/token", _mean(hit, n_hit)),
        ("gap_elsewhere", "nats/token", _mean(whole - hit, n - n_hit)),
    ]
    if gap.excludes_zero:
        found.append(("gap_share_on_hits", "share", _mean(hit, whole)))
    return found


def _mean(sums: Float[np.ndarray, "seeds documents"], counts: Float[np.ndarray, "seeds documents"]) -> Interval:
    """The ratio of the sum of ``sums`` to the sum of ``counts``, over documents and seeds, with its interval."""
    return bootstrap(lambda total: total[..., :1] / total[..., 1:], np.stack([sums, counts], -1))[0]


def _codes(batch: Batch, vocab: int) -> Int[Tensor, "B T"]:
    return batch.tokens * vocab + batch.targets
