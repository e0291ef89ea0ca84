"""Recall in context: pairs of tokens are told once, then each key is asked for its value.

Multi-query associative recall (Arora et al., arXiv 2312.04927, sec. 4) with a text model's own tokens, drawn at random, so that
nothing but the context tells which value belongs to a key: k1 v1 ... kK vK, then the keys in another order, each followed by its
value. What is asked is which of the K values of the row the model finds likeliest; guessing among them is right 1/K of the
time. A text model was never trained on such rows, so a low number says little of an architecture alone: compare models of one
training. Rows are the same for every model of one vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors.numpy import load_file, save_file
from torch import Tensor

from limbeck.disk import writing
from limbeck.models.load import LanguageModel
from limbeck.probes.interval import bootstrap
from limbeck.types import Batch, Reading

PAIRS, ROWS = 8, 128
_TOGETHER = 32


@dataclass(frozen=True)
class Recall:
    """For each row how many of its values were found, and their nats, of ``PAIRS`` that were asked for."""

    found: Float[np.ndarray, " rows"]
    nats: Float[np.ndarray, " rows"]

    def save(self, path: Path) -> None:
        """Writes the sums as safetensors, in one piece."""
        beside = path.with_name(f".{path.name}")
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file({"found": self.found, "nats": self.nats}, beside)
            beside.replace(path)

    @classmethod
    def load(cls, path: Path) -> Recall:
        """Reads what `save` wrote."""
        return cls(**load_file(path))


def can_recall(model: LanguageModel) -> bool:
    """Whether vocabulary and context hold such rows."""
    return len(_ordinary(model)) >= 2 * PAIRS and model.context >= 4 * PAIRS


@torch.no_grad()
def measure_recall(model: LanguageModel, *, seed: int = 0) -> Recall:
    """What a model recalls of ``ROWS`` rows of ``PAIRS`` pairs."""
    tokens, values = pairs_of(_ordinary(model), seed=seed)
    if (begin := model.tokenizer.bos_token_id) is not None and model.context > 4 * PAIRS:
        tokens = torch.cat([torch.full_like(tokens[:, :1], begin), tokens], 1)
    asked = torch.arange(tokens.shape[1] - 2 * PAIRS, tokens.shape[1], 2)  # where the keys stand the second time
    found, nats = [], []
    for rows, among in zip(tokens.split(_TOGETHER), values.split(_TOGETHER), strict=True):
        log_q = _log_q(model, rows, asked)
        answer = rows[:, asked + 1]  # (B, K)
        of_row = log_q.gather(-1, among[:, None].expand(-1, PAIRS, -1))  # (B, asked, K)
        likeliest = among.gather(1, of_row.argmax(-1))
        found.append((likeliest == answer).double().sum(-1))
        nats.append(-log_q.gather(-1, answer[..., None]).double().squeeze(-1).sum(-1))
    return Recall(torch.cat(found).numpy(), torch.cat(nats).numpy())


def recall(model: str, runs: Sequence[Recall], *, seed: int | None = None) -> list[Reading]:
    """The share of values that were found among those of their row, what guessing finds, and nats of a value."""
    columns = np.stack([np.stack([run.found, run.nats, np.full(len(run.found), PAIRS)], -1) for run in runs])
    found, nats = bootstrap(lambda total: total[..., :2] / total[..., 2:], columns)
    rows = [
        ("found", "share", found.value, found.low, found.high),
        ("recall_nats", "nats/token", nats.value, nats.low, nats.high),
    ]
    chance = Reading(model, "recall", "chance", 1 / PAIRS, "share", 1, 1 / PAIRS, 1 / PAIRS, seed)
    return [
        Reading(model, "recall", name, value, unit, ROWS, low, high, seed) for name, unit, value, low, high in rows
    ] + [chance]


def pairs_of(ordinary: Int[Tensor, " V"], *, seed: int) -> tuple[Int[Tensor, "R T"], Int[Tensor, "R K"]]:
    """(rows of 4 K tokens, the values of each in the order of their keys). Keys and values of a row all differ."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(ROWS, len(ordinary), generator=generator).argsort(-1)[:, : 2 * PAIRS]
    keys, values = ordinary[drawn].chunk(2, -1)
    order = torch.rand(ROWS, PAIRS, generator=generator).argsort(-1)
    told = torch.stack([keys, values], -1).flatten(1)
    asked = torch.stack([keys.gather(1, order), values.gather(1, order)], -1).flatten(1)
    return torch.cat([told, asked], 1), values


def _log_q(model: LanguageModel, rows: Int[Tensor, "B T"], places: Int[Tensor, " K"]) -> Float[Tensor, "B K V"]:
    nowhere = torch.zeros_like(rows)
    position = torch.arange(rows.shape[1]).expand_as(rows)
    batch = Batch(rows, rows, torch.ones(rows.shape), position, nowhere, nowhere[:, 0]).to(model.device)
    outputs = model(batch)
    flat = (torch.arange(len(rows))[:, None] * rows.shape[1] + places).flatten().to(model.device)
    return outputs.logits(flat).float().log_softmax(-1).unflatten(0, (len(rows), -1)).cpu()


def _ordinary(model: LanguageModel) -> Int[Tensor, " V"]:
    """The tokens that are none of the special ones."""
    special = set(model.tokenizer.all_special_ids)
    return torch.tensor([token for token in range(model.vocab) if token not in special])
