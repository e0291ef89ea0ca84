"""A family of students of the built-in teacher: of shared layers, of layers of the teacher, or from random weights."""

from __future__ import annotations

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
from limbeck.planning.cost.size import Size
from limbeck.students.prune import prune
from limbeck.students.score import score
from limbeck.students.shape import Shape, config_of
from limbeck.students.share import Sharing, expand, from_teacher, share

STAGES, LINEAR, FROM_TEACHER = "stages from random", "linear from random", "stages from the teacher"
LAYERS, RANDOM = "layers of the teacher", "random"
SHARED = (STAGES, LINEAR, FROM_TEACHER)
DECAY = 0.1  # weight decay of matrices
_CALIBRATION = 32  # rows


@dataclass(frozen=True)
class FamilyCell:
    """Students of each of ``depths`` by one arm, each trained for the ``steps`` at its place, of ``rows`` rows.

    ``shared`` are the steps of the auxiliary before, which is as deep as the deepest and has so many ``stages``; 0 in arms that
    share nothing. A ``tuning`` chooses a rate: it is measured on documents of the training text that it does not read.
    """

    name: str
    arm: str
    depths: tuple[int, ...]
    steps: tuple[int, ...]
    shared: int
    stages: int
    seed: int
    rate: float
    rows: int
    length: int
    measured: int
    tuning: bool = False


def train_family(cell: FamilyCell, device: str, *, folder: Path) -> dict[str, Any]:
    """Nats and tokens of each held-out document of each student, the shallowest first as its ``depths`` are.

    ``failed`` is true if a loss of one training was not finite, which ends that training.
    """
    rows = rows_of_tuning if cell.tuning else rows_of_training
    corpus, held_out, chosen = rows(folder, length=cell.length, seed=cell.seed, measured=cell.measured)
    teacher, measured = teacher_on(device), in_batches(held_out.rows_of(chosen).to(device))
    failed = False

    def trained(model: LanguageModel, steps: int) -> None:
        nonlocal failed
        model.model.train()
        optimizer = adamw_of(model.model, rate=cell.rate, weight_decay=DECAY)
        ended = train_steps(
            model.model,
            optimizer,
            lambda step: divergence(teacher, model, corpus.take(cell.rows).to(device)),
            cosine(steps),
            steps=steps,
        )
        failed = failed or ended.failed

    sharing = Sharing(max(cell.depths), None if cell.arm == LINEAR else cell.stages)
    auxiliary = None
    if cell.arm in SHARED:
        auxiliary = auxiliary_of(cell, teacher, sharing)
        trained(auxiliary, cell.shared)
    position, students = corpus.state_dict(), []
    for depth, steps in zip(cell.depths, cell.steps, strict=True):
        corpus.load_state_dict(position)
        student = start_of(cell, depth, teacher, corpus) if auxiliary is None else expand(auxiliary, sharing, depth)
        trained(student, steps)
        nats, tokens = by_document(student, measured, held_out.store.documents)
        students.append(
            {
                "parameters": student.parameters_count,
                "nats": nats[tokens > 0].tolist(),
                "tokens": tokens[tokens > 0].tolist(),
            }
        )
    stored = auxiliary.parameters_count if auxiliary else sum(one["parameters"] for one in students)
    return {"failed": failed, "stored": stored, "students": students}


def auxiliary_of(cell: FamilyCell, teacher: LanguageModel, sharing: Sharing) -> LanguageModel:
    """The auxiliary before its training: of layers of the teacher, or random, its layers sharing weights."""
    found = from_teacher(teacher, sharing) if cell.arm == FROM_TEACHER else _random(teacher, sharing.layers, cell.seed)
    share(found, sharing)
    return found


@torch.no_grad()
def start_of(cell: FamilyCell, depth: int, teacher: LanguageModel, corpus: Rows) -> LanguageModel:
    """A student that shares nothing, before its training. Scores have the first rows of the corpus, which moves no position."""
    if cell.arm == RANDOM:
        return _random(teacher, depth, cell.seed)
    position = corpus.state_dict()
    sample = corpus.take(_CALIBRATION).to(teacher.device)
    corpus.load_state_dict(position)
    return prune(teacher, shape=_shape(teacher, depth), scores=score(teacher, in_batches(sample)))


def flops_a_token(depth: int, length: int) -> tuple[float, float]:
    """(FLOPs of a training step of a student of so many layers, of the teacher's forward pass beside it), per token."""
    teacher = teacher_on("cpu")
    own = Size.of(config_of(_shape(teacher, depth), teacher.config))
    return 3 * own.forward_flops(length), Size.of(teacher.config).forward_flops(length)


def _random(teacher: LanguageModel, depth: int, seed: int) -> LanguageModel:
    model = new_model(config_of(_shape(teacher, depth), teacher.config), teacher.tokenizer, seed)
    model.model.to(teacher.device)
    return model


def _shape(teacher: LanguageModel, depth: int) -> Shape:
    full = Shape.of(teacher.config)
    return Shape(depth, full.hidden, full.heads, full.kv_heads, full.ffn)
