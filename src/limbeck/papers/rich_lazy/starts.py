"""Starts of one student of the built-in teacher: random, pruned in two ways, of averaged layers, and pruned of low rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from limbeck.corpora import Rows
from limbeck.models.build import new_model
from limbeck.models.language_model import LanguageModel
from limbeck.papers.lab.from_teacher import by_document, divergence, in_batches, teacher_on
from limbeck.papers.lab.loop import adamw_of, cosine, train_steps
from limbeck.papers.lab.text import rows_of_training, rows_of_tuning
from limbeck.probes.change import matrices_moved, represented
from limbeck.students.factor import Budget
from limbeck.students.low_rank import low_rank
from limbeck.students.prune import prune
from limbeck.students.score import score
from limbeck.students.shape import Shape
from limbeck.types import Batch

RANDOM, PRUNED, AT_RANDOM, AVERAGED, LOW_RANK = "random", "pruned", "pruned at random", "averaged layers", "low rank"
STARTS = (RANDOM, PRUNED, AT_RANDOM, AVERAGED, LOW_RANK)
KEEP = 0.5  # share of parameters of the start of low rank, which is multiplied out
DECAY = 0.1  # weight decay of matrices
_CALIBRATION = 32  # rows


@dataclass(frozen=True)
class StartCell:
    """A student of ``layers`` of the teacher's layers from a start, trained for ``steps`` steps of ``rows`` rows.

    How far it moved is read after ``early`` steps. A ``tuning`` is measured on documents of the training text that it does not
    read.
    """

    name: str
    start: str
    layers: int
    seed: int
    rate: float
    steps: int
    early: int
    rows: int
    length: int
    measured: int
    tuning: bool = False


def train_start(cell: StartCell, device: str, *, folder: Path) -> dict[str, Any]:
    """How far the student moved early, and nats and tokens of each held-out document after all steps.

    ``failed`` is true if a loss was not finite, which ends the training.
    """
    rows = rows_of_tuning if cell.tuning else rows_of_training
    corpus, held_out, chosen = rows(folder, length=cell.length, seed=cell.seed, measured=cell.measured)
    teacher, measured = teacher_on(device), in_batches(held_out.rows_of(chosen).to(device))
    before, student = (start_of(cell, teacher, corpus) for _ in range(2))
    found: dict[str, Any] = {}

    def look(step: int, failed: bool) -> bool:
        if step == cell.early:
            found["moved"] = matrices_moved(before, student)[0].moved
            found["representation"] = represented("student", before, student, measured).value
            student.model.train()
        return False

    student.model.train()
    trained = train_steps(
        student.model,
        adamw_of(student.model, rate=cell.rate, weight_decay=DECAY),
        lambda step: divergence(teacher, student, corpus.take(cell.rows).to(device)),
        cosine(cell.steps),
        steps=cell.steps,
        look=look,
    )
    nats, tokens = by_document(student, measured, held_out.store.documents)
    return {**found, "failed": trained.failed, "nats": nats[tokens > 0].tolist(), "tokens": tokens[tokens > 0].tolist()}


def start_of(cell: StartCell, teacher: LanguageModel, corpus: Rows) -> LanguageModel:
    """The student before its training. Starts that need text have the first rows of the corpus, which moves no position."""
    state = corpus.state_dict()
    sample = corpus.take(_CALIBRATION).to(teacher.device)
    corpus.load_state_dict(state)
    batches = in_batches(sample)
    full = Shape.of(teacher.config)
    shape = Shape(cell.layers, full.hidden, full.heads, full.kv_heads, full.ffn)
    method = "random" if cell.start == AT_RANDOM else "activation"
    pruned = prune(teacher, shape=shape, scores=score(teacher, batches, method=method, seed=cell.seed))
    if cell.start == RANDOM:
        return new_model(pruned.config, teacher.tokenizer, cell.seed)
    if cell.start == AVERAGED:
        return averaged(pruned, teacher)
    return _low_rank(pruned, batches) if cell.start == LOW_RANK else pruned


@torch.no_grad()
def averaged(student: LanguageModel, teacher: LanguageModel) -> LanguageModel:
    """A student whose layer i has the mean of the weights of the i-th part of the teacher's layers; the rest is the teacher's."""
    ours, theirs = student.decoder.layers, teacher.decoder.layers
    parts = torch.arange(len(theirs)).tensor_split(len(ours))
    for layer, part in zip(ours, parts, strict=True):
        for name, weight in layer.named_parameters():
            weight.copy_(torch.stack([theirs[int(i)].get_parameter(name) for i in part]).mean(0))
    return student


def _low_rank(student: LanguageModel, batches: Sequence[Batch]) -> LanguageModel:
    return low_rank(student, batches, budget=Budget(KEEP), dense=True)
