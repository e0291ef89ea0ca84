"""Trains small decoders of S4D layers on text, one spectrum each, and measures the nats of every held-out document.

Held-out documents choose no learning rate: they are few and long, and the judged measurement uses nearly all of them. A training
that chooses a rate leaves out every tenth document of the training text, and is measured on those.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64

from limbeck.corpora import Rows
from limbeck.models.decoder import LimbeckConfig, LimbeckForCausalLM
from limbeck.papers.lab.loop import adamw_of, cosine, train_steps
from limbeck.papers.lab.text import mean_nats, nats_and_weight, rows_of_training, rows_of_tuning

DECAY = 0.1  # weight decay of matrices
_TOGETHER = 16  # rows measured at once


@dataclass(frozen=True)
class TextCell:
    """A training. ``rows`` is the number of rows of a step. The test has ``measured`` rows of held-out text, the same for all."""

    name: str
    spectrum: str
    method: str
    vocab: int
    width: int
    layers: int
    state: int
    length: int
    steps: int
    rate: float
    seed: int
    rows: int
    measured: int


def train_text(cell: TextCell, device: str, *, folder: Path) -> dict[str, Any]:
    """Trains a decoder on the text in the folder; gives nats and tokens of each held-out document.

    ``failed`` is true if a loss was not finite, which ends the training.
    """
    return _trained(cell, *rows_of_training(folder, length=cell.length, seed=cell.seed, measured=cell.measured), device)


def tune_text(cell: TextCell, device: str, *, folder: Path) -> dict[str, Any]:
    """As `train_text`, but trains without every tenth document of the training text, and is measured on those.

    With fewer than ten documents, it leaves out the last. Raises BadCorpus if there is nothing to measure.
    """
    return _trained(cell, *rows_of_tuning(folder, length=cell.length, seed=cell.seed, measured=cell.measured), device)


def _trained(
    cell: TextCell, corpus: Rows, measured: Rows, chosen: Int64[np.ndarray, " rows"], device: str
) -> dict[str, Any]:
    model = new_decoder(cell).to(device).train()
    optimizer = adamw_of(model, rate=cell.rate, weight_decay=DECAY)

    def loss(_: int) -> torch.Tensor:
        return mean_nats(model, corpus.take(cell.rows).to(device))

    trained = train_steps(model, optimizer, loss, cosine(cell.steps), steps=cell.steps)
    documents = _measured(model, measured, chosen, device)
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "trained_steps": trained.updates,
        "trained_tokens": trained.updates * cell.rows * cell.length,
        "failed": trained.failed,
        "nats": documents[0].tolist(),
        "tokens": documents[1].tolist(),
    }


def new_decoder(cell: TextCell) -> LimbeckForCausalLM:
    """A decoder of S4D layers and MLPs, without any other mixer. Its weights depend on the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cell.seed)
        return LimbeckForCausalLM(
            LimbeckConfig(
                vocab_size=cell.vocab,
                hidden_size=cell.width,
                intermediate_size=3 * cell.width,
                mixers=[f"s4d:init={cell.spectrum},state={cell.state},method={cell.method}"],
                num_hidden_layers=cell.layers,
                num_attention_heads=1,
                max_position_embeddings=cell.length,
                initializer_range=0.02,
                tie_word_embeddings=True,
                use_cache=False,
            )
        )


@torch.no_grad()
def _measured(
    model: LimbeckForCausalLM, rows: Rows, chosen: Int64[np.ndarray, " rows"], device: str
) -> Float[np.ndarray, "2 documents"]:
    """Nats and tokens by document, from these rows."""
    documents = rows.store.documents
    found = np.zeros((2, documents))
    for start in range(0, len(chosen), _TOGETHER):
        batch = rows.rows_of(chosen[start : start + _TOGETHER])
        nats, weight = (part.cpu().double().numpy() for part in nats_and_weight(model.eval(), batch.to(device)))
        document = np.maximum(batch.document.flatten().numpy(), 0)  # padding has weight 0
        for row, values in enumerate((nats * weight, weight)):
            found[row] += np.bincount(document, values, minlength=documents)
    return found
