"""Shared parts of recipes that train small decoders on a text: the text as tokens, its rows, and the loss of a batch.

Held-out documents choose no learning rate. A training that chooses a rate leaves out every tenth document of the training text,
and is measured on those.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast

from limbeck.corpora import Rows, TokenStore, build_stores, require_rows
from limbeck.corpora.layout import BEST_FIT
from limbeck.errors import BadCorpus
from limbeck.jobs.common.folder import claim, same_corpus, text_of_run
from limbeck.jobs.pretrain.job import make_tokenizer
from limbeck.models.decoder import LimbeckForCausalLM
from limbeck.run.log import console
from limbeck.types import Batch

KEPT = 10  # one in so many documents of the training text is left out to choose rates


def text_of(folder: Path, data: str, *, vocab: int, length: int) -> int:
    """Writes a text as tokens into a folder, with a tokenizer trained on it, if it is not there; gives the number of tokens."""
    run = claim(folder, {"data": data, "vocab": vocab, "packing": BEST_FIT})
    make_tokenizer(data, folder / "tokenizer", vocab=vocab)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer")
    store, held_out = build_stores(data, tokenizer, folder / "data", progress=console.is_terminal)
    require_rows(store, length=length)
    same_corpus(folder, run, store, held_out)
    return len(tokenizer)


Chosen = tuple[
    Rows, Rows, Int64[np.ndarray, " rows"]
]  # rows to train on, rows to measure on, the numbers of those measured


def rows_of_training(folder: Path, *, length: int, seed: int, measured: int) -> Chosen:
    """The rows of the text in a run's folder, and ``measured`` of those of its held-out text, the same for all seeds."""
    train, kept = text_of_run(folder)
    held_out = Rows(kept, length=length)
    chosen = np.sort(np.random.default_rng(0).permutation(held_out.n_rows)[:measured])
    return Rows(train, length=length, seed=seed), held_out, chosen


def rows_of_tuning(folder: Path, *, length: int, seed: int, measured: int) -> Chosen:
    """The rows of the text in a run's folder without every tenth document, and ``measured`` of those that have them.

    With fewer than ten documents, the last is left out. Raises BadCorpus if there is nothing to measure.
    """
    train, _ = text_of_run(folder)
    corpus, others = without_some(train, length=length, seed=seed)
    return corpus, others, rows_that_count(others, measured)


def without_some(store: TokenStore, *, length: int, seed: int) -> tuple[Rows, Rows]:
    """Rows in which every tenth document of a text has no weight, and rows in which only those have.

    With fewer than ten documents, the last is left out.
    """
    every = max(2, min(KEPT, store.documents))
    corpus = Rows(store, length=length, seed=seed, counted=partial(_counted, every=every, kept=False))
    return corpus, Rows(store, length=length, counted=partial(_counted, every=every, kept=True))


def rows_that_count(rows: Rows, most: int) -> Int64[np.ndarray, " rows"]:
    """Numbers of rows with any weight, at most ``most``, in order, from a random start.

    Raises BadCorpus if there are none.
    """
    found: list[int] = []
    for row in np.random.default_rng(0).permutation(rows.n_rows):
        if len(found) == most:
            break
        if rows.rows_of(np.array([row])).weight.any():
            found.append(int(row))
    if not found:
        store = rows.store
        raise BadCorpus(
            f"{store.folder}: expected two documents or more, one of them to choose learning rates by, got {store.documents}: "
            "give more text"
        )
    return np.sort(np.array(found, dtype=np.int64))


def nats_and_weight(model: LimbeckForCausalLM, batch: Batch) -> tuple[Float[Tensor, " BT"], Float[Tensor, " BT"]]:
    """The nats of the next token at each position, and its weight."""
    logits = model(input_ids=batch.tokens, position_ids=batch.position, use_cache=False).logits
    nats = F.cross_entropy(logits.flatten(0, 1).float(), batch.targets.flatten(), reduction="none")
    return nats, batch.weight.flatten()


def mean_nats(model: LimbeckForCausalLM, batch: Batch) -> Float[Tensor, ""]:
    """The mean loss of a batch in nats, over the positions with weight."""
    nats, weight = nats_and_weight(model, batch)
    return (nats * weight).sum() / weight.sum().clamp_min(1)


def _counted(batch: Batch, *, every: int, kept: bool) -> Batch:
    """A batch in which only the last of every ``every`` documents has weight (``kept``), or only the others."""
    last = batch.document % every == every - 1
    return replace(batch, weight=batch.weight * (last if kept else ~last))
