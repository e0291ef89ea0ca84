"""Trains small decoders of S4D layers on text, one spectrum each, and measures the nats of every held-out document.

Held-out documents choose no learning rate: they are few and long, and the judged measurement uses nearly all of them. A training
that chooses a rate leaves out every tenth document of the training text, and is measured on those.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast

from limbeck.corpora import Rows, build_stores, require_rows
from limbeck.corpora.layout import BEST_FIT
from limbeck.errors import BadCorpus
from limbeck.jobs.common.folder import claim, same_corpus, text_of_run
from limbeck.jobs.pretrain.job import make_tokenizer
from limbeck.models.decoder import LimbeckConfig, LimbeckForCausalLM
from limbeck.papers.lab.loop import adamw_of, cosine, train_steps
from limbeck.run.log import console
from limbeck.types import Batch

DECAY = 0.1  # weight decay of matrices
KEPT = 10  # one in so many documents of the training text is left out to choose rates
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


def text_of(folder: Path, data: str, *, vocab: int, length: int) -> int:
    """Writes a text as tokens into a folder, with a tokenizer trained on it, if it is not there; gives the number of tokens."""
    run = claim(folder, {"data": data, "vocab": vocab, "packing": BEST_FIT})
    make_tokenizer(data, folder / "tokenizer", vocab=vocab)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer")
    store, held_out = build_stores(data, tokenizer, folder / "data", progress=console.is_terminal)
    require_rows(store, length=length)
    same_corpus(folder, run, store, held_out)
    return len(tokenizer)


def train_text(cell: TextCell, device: str, *, folder: Path) -> dict[str, Any]:
    """Trains a decoder on the text in the folder; gives nats and tokens of each held-out document.

    ``failed`` is true if a loss was not finite, which ends the training.
    """
    train, kept = text_of_run(folder)
    held_out = Rows(kept, length=cell.length)
    chosen = np.sort(np.random.default_rng(0).permutation(held_out.n_rows)[: cell.measured])
    corpus = Rows(train, length=cell.length, seed=cell.seed)
    return _trained(cell, corpus, held_out, chosen, device)


def tune_text(cell: TextCell, device: str, *, folder: Path) -> dict[str, Any]:
    """As `train_text`, but trains without every tenth document of the training text, and is measured on those.

    With fewer than ten documents, it leaves out the last. Raises BadCorpus if there is nothing to measure.
    """
    store, _ = text_of_run(folder)
    every = max(2, min(KEPT, store.documents))
    corpus = Rows(store, length=cell.length, seed=cell.seed, counted=partial(_counted, every=every, kept=False))
    others = Rows(store, length=cell.length, counted=partial(_counted, every=every, kept=True))
    chosen = _that_count(others, cell.measured)
    if len(chosen) == 0:
        raise BadCorpus(
            f"{store.folder}: expected two documents or more, one of them to choose learning rates by, got {store.documents}: "
            "give more text"
        )
    return _trained(cell, corpus, others, chosen, device)


def _trained(
    cell: TextCell, corpus: Rows, measured: Rows, chosen: Int64[np.ndarray, " rows"], device: str
) -> dict[str, Any]:
    model = new_decoder(cell).to(device).train()
    optimizer = adamw_of(model, rate=cell.rate, weight_decay=DECAY)

    def loss(_: int) -> torch.Tensor:
        nats, weight = _nats(model, corpus.take(cell.rows).to(device))
        return (nats * weight).sum() / weight.sum().clamp_min(1)

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


def _nats(model: LimbeckForCausalLM, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """The nats of the next token at each position, and its weight."""
    logits = model(input_ids=batch.tokens, position_ids=batch.position, use_cache=False).logits
    nats = F.cross_entropy(logits.flatten(0, 1).float(), batch.targets.flatten(), reduction="none")
    return nats, batch.weight.flatten()


def _counted(batch: Batch, *, every: int, kept: bool) -> Batch:
    """A batch in which only the last of every ``KEPT`` documents has weight (``kept``), or only the others."""
    last = batch.document % every == every - 1
    return replace(batch, weight=batch.weight * (last if kept else ~last))


def _that_count(rows: Rows, most: int) -> Int64[np.ndarray, " rows"]:
    """Endless numbers of rows with any weight, in order, from a random start."""
    found: list[int] = []
    for row in np.random.default_rng(0).permutation(rows.n_rows):
        if len(found) == most:
            break
        if rows.rows_of(np.array([row])).weight.any():
            found.append(int(row))
    return np.sort(np.array(found, dtype=np.int64))


@torch.no_grad()
def _measured(
    model: LimbeckForCausalLM, rows: Rows, chosen: Int64[np.ndarray, " rows"], device: str
) -> Float[np.ndarray, "2 documents"]:
    """Nats and tokens by document, from these rows."""
    documents = rows.store.documents
    found = np.zeros((2, documents))
    for start in range(0, len(chosen), _TOGETHER):
        batch = rows.rows_of(chosen[start : start + _TOGETHER])
        nats, weight = (part.cpu().double().numpy() for part in _nats(model.eval(), batch.to(device)))
        document = np.maximum(batch.document.flatten().numpy(), 0)  # padding has weight 0
        for row, values in enumerate((nats * weight, weight)):
            found[row] += np.bincount(document, values, minlength=documents)
    return found
