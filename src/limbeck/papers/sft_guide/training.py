"""Trainings of the recipe sft-guide: a small decoder is pretrained on toy tasks, and tuned on skills and facts in some setting.

The tasks are those of `corpora.tasks.strategies`. A base learns answers of all kinds in all styles, but no tested one. Skills
are some of the kinds in one style each, and facts are names with numbers that no base knows. All tunings of a seed begin with its
base and have the same samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from limbeck.corpora.tasks.spelled import Question
from limbeck.corpora.tasks.strategies import ASKS, DIGITS, LETTERS, STYLES, Item, Style, items_of
from limbeck.models.language_model import LanguageModel
from limbeck.models.load import load
from limbeck.models.save import save
from limbeck.papers.lab import lines
from limbeck.papers.lab.loop import Rate, cosine, train_steps
from limbeck.papers.lab.recall import optimizer_of

EARLY = 0.1  # share of the steps that are early, two steps at least
SKILLS: dict[str, Style] = {"cell": "direct", "hop": "look up", "sum": "look up", "chain": "steps"}
_NAME = 5  # letters of the name of a fact
_REPLAY = 0.01  # share of short samples in the phase of long ones
_SELECTION = 200  # skills for the choice of settings
_KEPT = 200  # answers that measure what is forgotten
_OTHER = 2**31  # stands for a seed: that of answers which no base learns
_DRAWN, _HELD_OUT, _BASE, _ORDER, _FACTS, _STYLES = range(6)  # uses of random numbers

Schedule = Literal["constant", "decay"]


@dataclass(frozen=True)
class Tuning:
    """A setting: ``batch`` samples a step at a ``rate``, ``samples`` in all.

    ``schedule``: a constant rate, or one with warm-up and a cosine. ``phased``: short answers before long ones.
    """

    batch: int
    rate: float
    samples: int
    schedule: Schedule = "constant"
    phased: bool = False

    @property
    def steps(self) -> int:
        """The optimiser steps."""
        return max(1, self.samples // self.batch)

    @property
    def name(self) -> str:
        """A name of all that it sets."""
        how = f"{self.schedule}-phased" if self.phased else self.schedule
        return f"batch{self.batch}-rate{self.rate:g}-samples{self.samples}-{how}"


@dataclass(frozen=True)
class Size:
    """The shape of a decoder, its pretraining, and the number of skills, facts and tested questions.

    A base learns ``base_lines`` answers in ``base_steps`` of ``base_rows``; a fact is among the samples ``repeats`` times.
    """

    width: int
    layers: int
    heads: int
    base_lines: int
    base_steps: int
    base_rows: int
    base_rate: float
    skills: int
    facts: int
    repeats: int
    tested: int


@dataclass(frozen=True)
class Cell:
    """A pretraining (``tuning`` None) or a tuning in one ``order`` of its samples."""

    name: str
    seed: int
    size: Size
    tuning: Tuning | None = None
    order: int = 0

    @property
    def width(self) -> int:
        return self.size.width

    @property
    def layers(self) -> int:
        return self.size.layers

    @property
    def heads(self) -> int:
        return self.size.heads


@dataclass(frozen=True)
class Sets:
    """The questions of a cell: what it is tested on, what selects a setting, facts, and the samples of a tuning."""

    test: list[Item]
    selection: list[Item]
    facts: list[Item]
    known: list[Question]

    @classmethod
    def of(cls, cell: Cell) -> Sets:
        """Draws them; test and selection are the same for all seeds."""
        size, held_out = cell.size, _held_out(cell.size)
        drawn = items_of(
            np.random.default_rng([cell.seed, _DRAWN]), size.skills, _prompts(held_out), kinds=tuple(SKILLS)
        )
        generator, facts = np.random.default_rng([cell.seed, _FACTS]), dict[str, Item]()
        while len(facts) < size.facts:
            fact = _fact(generator)
            facts.setdefault(fact.prompt, fact)
        known = [Question(item.prompt, item.answer(SKILLS[item.kind])) for item in drawn]
        known += [Question(fact.prompt, fact.answer("direct")) for fact in facts.values()] * size.repeats
        return cls(held_out[: size.tested], held_out[size.tested :], list(facts.values()), known)


def train_cell(cell: Cell, device: str, *, folder: Path) -> dict[str, Any]:
    """Trains a cell. A base is saved in the folder, and gives ``kept``, its nats per token on other answers in all styles.

    A tuning also gives ``right`` and ``facts`` (1 for each greedy answer that is right), ``validation`` (that share of the
    selection skills), ``early_norm`` and ``early_loss`` (means over the early steps, the norm before clipping),
    ``early_validation`` (nats on the selection skills after them), and its ``steps``, ``samples`` and learned ``tokens``.
    ``failed`` is true if a loss was not finite, which ends the training.
    """
    return _pretrain(cell, device, folder) if cell.tuning is None else _tune(cell, cell.tuning, device, folder)


def _pretrain(cell: Cell, device: str, folder: Path) -> dict[str, Any]:
    """Trains a base on answers in all styles, and saves it."""
    size = cell.size
    model = lines.new_decoder(cell)
    network = model.model.to(device).train()
    but = _prompts(_held_out(size)) | {question.prompt for question in base_text(_OTHER, _KEPT)}
    text = lines.lines_of(base_text(cell.seed, size.base_lines, but)).to(device)
    batches = lines.batches_of(size.base_lines, size.base_rows, np.random.default_rng([cell.seed, _BASE, _ORDER]))

    def loss(_: int) -> Tensor:
        return lines.line_loss(model, text.rows(next(batches).to(device)))

    steps = size.base_steps
    trained = train_steps(network, optimizer_of(network, size.base_rate), loss, cosine(steps), steps=steps)
    network.eval()
    save(model, folder / cell.name)
    return {"failed": trained.failed, "trained_steps": trained.steps, "kept": _kept(model, device)}


def _tune(cell: Cell, tuning: Tuning, device: str, folder: Path) -> dict[str, Any]:
    """Tunes the base of the seed."""
    sets = Sets.of(cell)
    model = load(folder / f"base-seed{cell.seed}", device=device, train=True)
    batch = lines.lines_of(sets.known).to(device)
    order = _order(cell, tuning, sets.known)
    early, losses, after = max(2, round(EARLY * tuning.steps)), list[float](), math.nan
    selection = lines.lines_of([Question(item.prompt, item.answer(SKILLS[item.kind])) for item in sets.selection]).to(
        device
    )
    learned = 0

    def loss(_: int) -> Tensor:
        nonlocal learned
        rows = batch.rows(next(order).to(device))
        learned += int((rows.weight > 0).sum())
        found = lines.line_loss(model, rows)
        losses.append(float(found.detach()))
        return found

    def look(step: int, failed: bool) -> bool:
        nonlocal after
        if step == early and not failed:
            _, after = lines.correct_answers(model, selection)
        return False

    optimizer = optimizer_of(model.model, tuning.rate)
    trained = train_steps(model.model, optimizer, loss, _rate(tuning), steps=tuning.steps, look=look)
    model.model.eval()
    return {
        "failed": trained.failed,
        "trained_steps": trained.steps,
        "steps": tuning.steps,
        "samples": tuning.steps * tuning.batch,
        "tokens": learned,
        "right": _right(model, sets.test),
        "facts": _right(model, sets.facts),
        "validation": float(np.mean(_right(model, sets.selection))),
        "early_norm": float(np.mean(trained.norms[:early])),
        "early_loss": float(np.mean(losses[:early])),
        "early_validation": after,
        "kept": _kept(model, device),
    }


def _rate(tuning: Tuning) -> Rate:
    """The schedule of a tuning: constant from the first step, or a warm-up and a cosine."""
    return cosine(tuning.steps) if tuning.schedule == "decay" else lambda step, peak: peak


def _order(cell: Cell, tuning: Tuning, known: Sequence[Question]) -> Iterator[Tensor]:
    """Batches of sample numbers: all in a new order each epoch, or in two phases with half of the samples each.

    The first phase has the shorter half of the answers, the second the longer one and a little of the first (`_REPLAY`).
    """
    setting = [tuning.batch, round(tuning.rate * 1e6), tuning.samples]  # else all would begin with the same samples
    generator = np.random.default_rng([cell.seed, _ORDER, cell.order, *setting])
    if not tuning.phased:
        yield from lines.batches_of(len(known), tuning.batch, generator)
    by_length = np.argsort([len(question.answer) for question in known], kind="stable")
    short, long = np.array_split(by_length, 2)
    mixed = np.concatenate([long, short[generator.permutation(len(short))[: max(1, round(_REPLAY * len(short)))]]])
    for phase, steps in ((short, (tuning.steps + 1) // 2), (mixed, tuning.steps // 2)):
        batches = lines.batches_of(len(phase), tuning.batch, generator)
        for _ in range(steps):
            yield torch.from_numpy(phase)[next(batches)]


def _fact(generator: np.random.Generator) -> Item:
    """A name with two digits, whatever the style."""
    name = "".join(LETTERS[i] for i in generator.integers(len(LETTERS), size=_NAME))
    digits = "".join(DIGITS[i] for i in generator.integers(len(DIGITS), size=2))
    return Item("fact", f"F{name}{ASKS}", digits, tuple((style, "") for style in STYLES))


def _held_out(size: Size) -> list[Item]:
    """The skills of the test, and then those of the selection: the same for all seeds."""
    return items_of(np.random.default_rng(_HELD_OUT), size.tested + _SELECTION, kinds=tuple(SKILLS))


def _prompts(items: Sequence[Item]) -> frozenset[str]:
    return frozenset(item.prompt for item in items)


def base_text(seed: int, n: int, but: frozenset[str] = frozenset()) -> list[Question]:
    """The lines of a base's text: tasks of all kinds but some prompts, each in a style that is drawn."""
    items = items_of(np.random.default_rng([seed, _BASE]), n, but)
    styles = np.random.default_rng([seed, _STYLES]).integers(len(STYLES), size=n).tolist()
    return [Question(item.prompt, item.answer(STYLES[style])) for item, style in zip(items, styles, strict=True)]


def _kept(model: LanguageModel, device: str) -> float:
    """Nats per token on answers like those of a base's text, the same for all."""
    text = base_text(_OTHER, _KEPT)
    _, nats = lines.correct_answers(model, lines.lines_of(text).to(device))
    return nats


def _right(model: LanguageModel, items: Sequence[Item]) -> list[int]:
    """1 for each item whose greedy answer is right."""
    longest = max(len(item.answer(style)) for item in items for style in STYLES) + 1
    texts = lines.greedy(model, [item.prompt for item in items], most=longest)
    return [int(item.passes(text)) for item, text in zip(items, texts, strict=True)]
