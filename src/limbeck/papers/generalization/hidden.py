"""Samples of the built-in teacher's hidden states, labelled by whether the next token begins with a space."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from limbeck.models.language_model import LanguageModel
from limbeck.papers.generalization.stopped import Samples, stopped
from limbeck.papers.lab.from_teacher import in_batches, teacher_on
from limbeck.papers.lab.text import rows_of_training
from limbeck.types import Batch

FLIPPED = 0.2  # share of the labels that is turned round, in training and test samples


@dataclass(frozen=True)
class ReadoutCell:
    """``samples`` out of ``rows`` rows of ``length`` tokens, read out through features of each of the ``widths``."""

    name: str
    samples: int
    widths: tuple[int, ...]
    rows: int
    length: int
    tested: int
    seed: int


def read_out(cell: ReadoutCell, device: str, *, folder: Path) -> dict[str, Any]:
    """What `stopped` gives, for each width."""
    corpus, held_out, chosen = rows_of_training(folder, length=cell.length, seed=cell.seed, measured=cell.rows)
    teacher, rng = teacher_on(device), np.random.default_rng(cell.seed)
    train = samples_of(teacher, corpus.take(cell.rows), cell.samples, rng)
    test = samples_of(teacher, held_out.rows_of(chosen), cell.tested, rng)
    return {"widths": [{"width": width, **stopped(train, test, width, cell.seed)} for width in cell.widths]}


@torch.no_grad()
def samples_of(teacher: LanguageModel, rows: Batch, count: int, rng: np.random.Generator) -> Samples:
    """Random positions of rows: the state before the head, and 1 where the target begins with a space, else -1; some flipped."""
    found = [teacher(batch).hidden.flatten(0, 1).double().cpu() for batch in in_batches(rows.to(teacher.device))]
    counted = np.flatnonzero(rows.weight.flatten().cpu().numpy() > 0)
    chosen = rng.choice(counted, min(count, len(counted)), replace=False)
    tokens = rows.targets.flatten().cpu().numpy()[chosen]
    labels = np.array([1.0 if teacher.tokenizer.decode([token]).startswith(" ") else -1.0 for token in tokens])
    labels[rng.random(len(labels)) < FLIPPED] *= -1
    return Samples(torch.cat(found).numpy()[chosen], labels)
