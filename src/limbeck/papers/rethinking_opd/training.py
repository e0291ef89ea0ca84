"""Trainings of the recipe rethinking-opd: students and teachers of chains modulo 10, and distillations of one into the other.

A student learns few chains with their derivations, to the end. A teacher learns the same chains, or others too, and writes
derivations as the student does or otherwise. A distillation trains the student on its own answers (reverse KL) or on those of the
teacher (forward KL), for a number of learned tokens. Test chains are the same for all seeds and in no training.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from limbeck.corpora.tasks.chains import Chain, Chains
from limbeck.generation.generators import Sampling
from limbeck.models.language_model import LanguageModel
from limbeck.models.load import load
from limbeck.models.save import save
from limbeck.papers.lab import lines
from limbeck.papers.lab.loop import cosine, train_steps
from limbeck.papers.lab.on_policy import (
    OFF,
    ON,
    divergence,
    fixed_log_probs,
    flops_a_token,
    log_probs,
    logits_of,
    rows_of,
    train_to_marks,
)
from limbeck.papers.lab.recall import optimizer_of
from limbeck.probes.overlap import compared
from limbeck.types import Batch

START = "start"  # what is trained on chains: a student or a teacher
PATTERNS: Mapping[str, float] = {"same": 0.0, "mixed": 0.5, "other": 1.0}  # share of derivations with each result twice
TOP = 4  # most probable tokens that are compared: chains have 17 characters in all
_SELECTION = 200
_COMPARED = 200  # chains on which student and teacher are compared before
_CHOICE, _LEARNED, _ASKED, _ORDER = 0, 1, 2, 3  # uses of random numbers


@dataclass(frozen=True)
class Cell:
    """A training. One of the kind `START` learns ``examples`` chains of ``length`` operations in ``steps`` steps.

    The others distil ``teacher`` into ``start``, both names of such cells, with ``rows`` new chains a step, until ``tokens`` were
    learned; off-policy then goes on until its FLOPs are those of on-policy. ``pattern`` is that of the teacher. A ``tuning``
    chooses a rate, and is measured on selection chains.
    """

    name: str
    kind: str
    seed: int
    rate: float
    steps: int
    length: int
    examples: int
    pattern: str
    width: int
    layers: int
    heads: int
    rows: int
    tested: int
    start: str = ""
    teacher: str = ""
    tokens: int = 0
    tuning: bool = False

    @property
    def most(self) -> int:
        """The most tokens of an answer: those of the longest pattern, and a step more."""
        return 12 * (self.length + 1) + 3


@cache
def held_out(cell: Cell) -> tuple[Sequence[Chain], Sequence[Chain]]:
    """The chains that test, and those that select, without an equal in any training."""
    n = cell.tested + _SELECTION
    found = list(dict.fromkeys(Chains(cell.length).chains(np.random.default_rng(_CHOICE), 2 * n)))[:n]
    return found[: cell.tested], found[cell.tested :]


def train_cell(cell: Cell, device: str, *, folder: Path) -> dict[str, Any]:
    """Trains a cell. Students and teachers are saved in the folder for the distillations, which `_distil` measures."""
    if cell.kind == START:
        model = lines.new_decoder(cell)
        trained = _learn(cell, model, device)
        save(model, folder / cell.name)
        test, selection = held_out(cell)
        return {
            "failed": trained.failed,
            "trained_steps": trained.steps,
            "parameters": model.parameters_count,
            "right": answered(cell, model, selection if cell.tuning else test),
        }
    student, teacher = load(folder / cell.start, device=device, train=True), load(folder / cell.teacher, device=device)
    return _distil(cell, student, teacher)


def learned_chains(cell: Cell, use: int = _LEARNED) -> list[Chain]:
    """The chains that a student or teacher learns. Those of a smaller set begin those of a larger one of the same seed."""
    drawn = dict.fromkeys(Chains(cell.length).chains(np.random.default_rng([cell.seed, use]), 2 * cell.examples))
    return _unknown(cell, drawn)[: cell.examples]


def answered(cell: Cell, model: LanguageModel, chains: Sequence[Chain]) -> list[int]:
    """1 for each chain with a right greedy answer, whatever its derivation, else 0."""
    texts = lines.greedy(model, [chain.prompt for chain in chains], most=cell.most)
    return [int(chain.checked().check(text)[0]) for chain, text in zip(chains, texts, strict=True)]


def _learn(cell: Cell, model: LanguageModel, device: str) -> Any:
    """Trains a decoder on chains with derivations. A share of them has each result twice, by the pattern."""
    network = model.model.to(device).train()
    chains, generator = learned_chains(cell), np.random.default_rng([cell.seed, _ORDER])
    twice = np.arange(len(chains)) < round(PATTERNS[cell.pattern] * len(chains))
    twice = generator.permutation(twice)
    known = lines.lines_of([chain.question(twice=bool(one)) for chain, one in zip(chains, twice, strict=True)])
    batches = lines.batches_of(len(chains), cell.rows, generator)
    known = known.to(device)

    def loss(_: int) -> Tensor:
        return lines.line_loss(model, known.rows(next(batches).to(device)))

    return train_steps(network, optimizer_of(network, cell.rate), loss, cosine(cell.steps), steps=cell.steps)


def _distil(cell: Cell, student: LanguageModel, teacher: LanguageModel) -> dict[str, Any]:
    """Distils, and measures the student before, after ``tokens``, and off-policy after on-policy's FLOPs too.

    ``before`` compares student and teacher on answers that the student samples. ``right`` has the right greedy answers after each
    mark, ``tokens`` and ``flops`` what was spent by then.
    """
    test, selection = held_out(cell)
    chains = selection if cell.tuning else test
    marks = [float(cell.tokens)]
    if cell.kind == OFF:
        marks.append(cell.tokens * flops_a_token(ON, student, teacher) / flops_a_token(OFF, student, teacher))
    before = _before(cell, student, teacher, selection[:_COMPARED])

    def loss(step: int) -> tuple[Tensor, float]:
        rows = _answers(cell, student if cell.kind == ON else teacher, asked(cell, step), step).to(student.device)
        return distillation_loss(cell.kind, student, teacher, rows), float(rows.weight.sum())

    trained, right, spent = train_to_marks(student, cell.rate, loss, marks, lambda: answered(cell, student, chains))
    return {
        "failed": trained.failed,
        "trained_steps": trained.steps,
        "before": before,
        "right": right,
        "tokens": spent,
        "flops": [one * flops_a_token(cell.kind, student, teacher) for one in spent],
    }


def asked(cell: Cell, step: int) -> list[Chain]:
    """The chains that a distillation asks for in a step: new ones each time, the same for all kinds and teachers."""
    drawn = Chains(cell.length).chains(np.random.default_rng([cell.seed, _ASKED, step]), cell.rows + 20)
    return _unknown(cell, drawn)[: cell.rows]


def _unknown(cell: Cell, chains: Iterable[Chain]) -> list[Chain]:
    """The chains that neither test nor select."""
    known = {chain for part in held_out(cell) for chain in part}
    return [chain for chain in chains if chain not in known]


def _answers(cell: Cell, model: LanguageModel, chains: Sequence[Chain], step: int) -> Batch:
    """Rows of chains with an answer that the model samples at temperature 1."""
    how = Sampling(cell.most, seed=cell.seed * 2**20 + step)
    found = lines.sampled(model, [chain.prompt for chain in chains], how)
    return rows_of([chain.prompt for chain in chains], [one[0] for one in found])


def distillation_loss(kind: str, student: LanguageModel, teacher: LanguageModel, rows: Batch) -> Tensor:
    """The mean over the answers' tokens, in nats: KL(student || teacher) on-policy, KL(teacher || student) off-policy."""
    q, p = log_probs(student, rows), fixed_log_probs(teacher, rows)
    return (divergence(q, p) if kind == ON else divergence(p, q)).mean()


@torch.no_grad()
def _before(cell: Cell, student: LanguageModel, teacher: LanguageModel, chains: Sequence[Chain]) -> dict[str, float]:
    """Student and teacher on answers that the student samples, means over their tokens (`probes.overlap`)."""
    rows = _answers(cell, student, chains, 0).to(student.device)
    _, shared, mass, teachers_mass, kl, entropy, teachers_entropy = (
        float(value.mean()) for value in compared(logits_of(student, rows), logits_of(teacher, rows), top=TOP)
    )
    return {
        "overlap": shared,
        "mass": mass,
        "teachers_mass": teachers_mass,
        "kl": kl,
        "entropy": entropy,
        "teachers_entropy": teachers_entropy,
    }
