"""A student of the built-in teacher, of factors or pruned: made, measured, trained on its logits for a while, measured again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from limbeck.corpora import Rows
from limbeck.models.language_model import LanguageModel
from limbeck.papers.lab.from_teacher import by_document, divergence, in_batches, teacher_on
from limbeck.papers.lab.loop import adamw_of, cosine, train_steps
from limbeck.papers.lab.text import rows_of_training, rows_of_tuning
from limbeck.papers.robust_recovery.fitting import ARMS, factors_of
from limbeck.students.factor import Budget, linears
from limbeck.students.low_rank import stored_parameters, with_factors
from limbeck.students.prune import prune
from limbeck.students.score import score
from limbeck.students.shape import choose
from limbeck.types import Batch

CUT = "cut"
DECAY = 0.1  # weight decay of matrices
DIRTY = 0.05  # share of calibration tokens replaced by random ones


@dataclass(frozen=True)
class RecoveryCell:
    """A student of an arm with a share ``keep`` of the parameters of its layers, after ``steps`` steps of ``rows`` rows.

    ``dirty``: whether its calibration sample of ``calibration`` rows has random tokens. ``tuning``: whether it chooses a rate,
    and is measured on documents of the training text that it does not read. The rate is ``factor`` times ``rate``.
    """

    name: str
    arm: str
    keep: float
    dirty: bool
    seed: int
    rate: float
    steps: int
    rows: int
    length: int
    calibration: int
    measured: int
    tuning: bool = False


def train_recovery(cell: RecoveryCell, device: str, *, folder: Path) -> dict[str, Any]:
    """Nats and tokens of each held-out document before and after the training, and what the student is.

    ``failed`` is true if a loss was not finite, which ends the training.
    """
    rows = rows_of_tuning if cell.tuning else rows_of_training
    corpus, held_out, chosen = rows(folder, length=cell.length, seed=cell.seed, measured=cell.measured)
    teacher, measured = teacher_on(device), in_batches(held_out.rows_of(chosen).to(device))
    student = student_of(cell, teacher, corpus)
    before = by_document(student, measured, held_out.store.documents)
    student.model.train()
    optimizer = adamw_of(student.model, rate=cell.rate, weight_decay=DECAY)
    trained = train_steps(
        student.model,
        optimizer,
        lambda step: divergence(teacher, student, corpus.take(cell.rows).to(device)),
        cosine(cell.steps),
        steps=cell.steps,
    )
    after = by_document(student, measured, held_out.store.documents)
    counted = before[1] > 0
    return {
        "parameters": student.parameters_count if cell.arm == CUT else stored_parameters(student),
        "failed": trained.failed,
        "tokens_trained": trained.updates * cell.rows * cell.length,
        "tokens": before[1][counted].tolist(),
        "before": before[0][counted].tolist(),
        "after": after[0][counted].tolist(),
    }


def student_of(cell: RecoveryCell, teacher: LanguageModel, corpus: Rows) -> LanguageModel:
    """The student of a cell before its training, from a calibration sample of the text. The rows are then those after it."""
    sample = corpus.take(cell.calibration)
    if cell.dirty:
        sample = dirtied(sample, teacher.vocab, cell.seed)
    sample = sample.to(teacher.device)
    batches = in_batches(sample)
    if cell.arm in ARMS:
        found = factors_of(cell.arm, teacher, batches, cell.keep, cell.seed)
        return with_factors(teacher, found)
    shape = choose(teacher.config, parameters=parameters_at(teacher, cell.keep))
    return prune(teacher, shape=shape, scores=score(teacher, batches))


def parameters_at(teacher: LanguageModel, keep: float) -> int:
    """The parameters of a student of factors with this share."""
    maps, budget = linears(teacher), Budget(keep)
    saved = 0
    for name, part in maps.items():
        rank, _ = budget.of(part.out_features, part.in_features, name)
        saved += part.weight.numel() - rank * sum(part.weight.shape)
    return teacher.parameters_count - saved


def dirtied(batch: Batch, vocab: int, seed: int) -> Batch:
    """A batch in which a share of the tokens is random; targets stay."""
    generator = torch.Generator().manual_seed(seed)
    hit = torch.rand(batch.tokens.shape, generator=generator) < DIRTY
    other = torch.randint(vocab, batch.tokens.shape, generator=generator)
    return replace(batch, tokens=torch.where(hit, other, batch.tokens))
