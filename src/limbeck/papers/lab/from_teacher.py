"""Shared parts of recipes about students of the built-in teacher: its text, the loss of its logits, and held-out documents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.corpora import build_stores, require_rows
from limbeck.jobs.common.folder import claim, same_corpus
from limbeck.models.language_model import LanguageModel
from limbeck.models.load import load
from limbeck.run.log import console
from limbeck.types import Batch

TEACHER = "builtin:stdlib"
_TOGETHER = 8  # rows computed at once


def teacher_parameters() -> int:
    """The parameters of the teacher."""
    return teacher_on("cpu").parameters_count


def text_for_teacher(folder: Path, data: str, length: int) -> None:
    """Writes a text as the teacher's tokens into a folder, if it is not there."""
    run = claim(folder, {"data": data, "teacher": TEACHER})
    store, held_out = build_stores(data, load(TEACHER).tokenizer, folder / "data", progress=console.is_terminal)
    require_rows(store, length=length)
    same_corpus(folder, run, store, held_out)


def in_batches(rows: Batch) -> list[Batch]:
    """Rows a few at a time, as they are computed."""
    return [rows.rows(slice(at, at + _TOGETHER)) for at in range(0, len(rows.tokens), _TOGETHER)]


@cache
def teacher_on(device: str) -> LanguageModel:
    """The teacher on a device, loaded once in a process."""
    return load(TEACHER, device=torch.device(device))


def divergence(teacher: LanguageModel, student: LanguageModel, batch: Batch) -> Tensor:
    """The mean of KL(teacher ‖ student) of a batch in nats per token."""
    with torch.no_grad():
        theirs = teacher(batch).logits().log_softmax(-1)
    ours = student(batch).logits().log_softmax(-1)
    weight = batch.weight.flatten()
    return (F.kl_div(ours, theirs, reduction="none", log_target=True).sum(-1) * weight).sum() / weight.sum()


@torch.no_grad()
def by_document(model: LanguageModel, batches: Sequence[Batch], documents: int) -> np.ndarray:
    """Sums of nats and tokens of each document, (2, documents)."""
    model.model.eval()
    return summed(lambda batch: model(batch).logits(), batches, documents)


@torch.no_grad()
def summed(logits: Callable[[Batch], Tensor], batches: Sequence[Batch], documents: int) -> np.ndarray:
    """The same for anything that gives the logits of a batch."""
    sums = np.zeros((2, documents))
    for batch in batches:
        nats = F.cross_entropy(logits(batch).float(), batch.targets.flatten(), reduction="none")
        weight = batch.weight.flatten()
        where = batch.document.flatten().cpu().numpy()
        counts = (weight > 0).cpu().numpy()
        np.add.at(sums[0], where[counts], (nats * weight).double().cpu().numpy()[counts])
        np.add.at(sums[1], where[counts], weight.double().cpu().numpy()[counts])
    return sums
