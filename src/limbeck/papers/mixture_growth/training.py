"""Small decoders of one width, larger ones grown from them or trained from random weights, and averages of two."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import LlamaConfig, PreTrainedTokenizerFast

from limbeck.corpora import Rows
from limbeck.jobs.pretrain.job import llama_config
from limbeck.models.build import new_model
from limbeck.models.language_model import LanguageModel
from limbeck.models.load import load
from limbeck.models.save import save
from limbeck.papers.lab.from_teacher import in_batches, summed
from limbeck.papers.lab.loop import adamw_of, cosine, train_steps
from limbeck.papers.lab.text import rows_of_training, rows_of_tuning
from limbeck.papers.mixture_growth.arms import AVERAGE, CONTINUED, MIXTURES, WIDENED, Cell
from limbeck.planning.cost.size import Size
from limbeck.students.grow import WIDEN, Growth, grow, grow_mixture
from limbeck.students.shape import Shape
from limbeck.types import Batch

DECAY = 0.1  # weight decay of matrices
_NETS = "nets"


def tokenizer_of(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of the text."""
    found: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer")
    return found


def config_of(folder: Path, shape: Shape) -> LlamaConfig:
    """The configuration of a decoder with the vocabulary of the text."""
    return llama_config(shape, tokenizer_of(folder))


def flops_of(folder: Path, shape: Shape, length: int) -> float:
    """FLOPs of a forward pass per token."""
    return Size.of(config_of(folder, shape)).forward_flops(length)


def parameters_of(folder: Path, shape: Shape) -> int:
    """The parameters of a decoder, of which the usual learning rate is a function."""
    return Size.of(config_of(folder, shape)).parameters


def train_cell(cell: Cell, device: str, *, folder: Path) -> dict[str, Any]:
    """Nats and tokens of each held-out document before and after a cell's training. A net that is kept is saved in the folder.

    ``failed`` is true if a loss was not finite, which ends the training.
    """
    rows = rows_of_tuning if cell.tuning else rows_of_training
    corpus, held_out, chosen = rows(folder, length=cell.length, seed=cell.data_seed, measured=cell.measured)
    measured, documents = in_batches(held_out.rows_of(chosen).to(device)), held_out.store.documents
    models = _starts(cell, folder, device)
    before = documents_of(models, measured, documents)
    failed = cell.steps > 0 and _train(models[0], cell, corpus, device)
    after = documents_of(models, measured, documents) if cell.steps else before
    if cell.kept:
        save(models[0], folder / _NETS / cell.name)
    counted = after[1] > 0
    return {
        "failed": failed,
        "parameters": models[0].parameters_count,
        "tokens": after[1][counted].tolist(),
        "before": before[0][counted].tolist(),
        "after": after[0][counted].tolist(),
    }


def _starts(cell: Cell, folder: Path, device: str) -> list[LanguageModel]:
    """The model before the training of a cell; the two of an average."""
    nets = [load(folder / _NETS / name, device=device, train=True) for name in cell.nets]
    if cell.arm in (CONTINUED, AVERAGE):
        return nets
    if cell.arm in MIXTURES:
        off_diagonal, scale = MIXTURES[cell.arm]
        return [grow_mixture(*nets, off_diagonal=off_diagonal, scale=scale, seed=cell.seed)]
    if cell.arm == WIDENED:
        return [grow(nets[0], Growth(WIDEN, cell.shape, seed=cell.seed))]
    fresh = new_model(config_of(folder, cell.shape), tokenizer_of(folder), cell.seed)
    fresh.model.to(device)
    return [fresh]


def _train(model: LanguageModel, cell: Cell, corpus: Rows, device: str) -> bool:
    """Trains a model; whether a loss was not finite."""
    model.model.train()
    trained = train_steps(
        model.model,
        adamw_of(model.model, rate=cell.rate, weight_decay=DECAY),
        lambda step: cross_entropy(model, corpus.take(cell.rows).to(device)),
        cosine(cell.steps),
        steps=cell.steps,
    )
    return trained.failed


def cross_entropy(model: LanguageModel, batch: Batch) -> Tensor:
    """The mean loss of a batch in nats per token."""
    nats = F.cross_entropy(model(batch).logits().float(), batch.targets.flatten(), reduction="none")
    weight = batch.weight.flatten()
    return (nats * weight).sum() / weight.sum().clamp_min(1)


def documents_of(models: Sequence[LanguageModel], batches: Sequence[Batch], documents: int) -> np.ndarray:
    """Sums of nats and tokens of each document, (2, documents); of several models by the mean of their log-probabilities."""
    for model in models:
        model.model.eval()

    def logits(batch: Batch) -> Tensor:
        return torch.stack([model(batch).logits().float().log_softmax(-1) for model in models]).mean(0)

    return summed(logits, batches, documents)
