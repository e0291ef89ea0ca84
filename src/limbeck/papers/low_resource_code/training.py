"""Trainings of the recipe low-resource-code: bases that write programs, and tunings of them on few pairs of another language.

A base learns descriptions with programs in the rich language, and episodes: some pairs of a language that is drawn for each, and
then a description. Tunings of a seed and a size begin with its base, have the same pairs, and keep the weights that are best on
a fifth of these, which none learns from. Test descriptions are the same for all, and in no training.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from limbeck.corpora.tasks.small_languages import POOR, RICH, WORDS, Language, descriptions, drawn_language, passes
from limbeck.corpora.tasks.spelled import Question
from limbeck.models.language_model import LanguageModel
from limbeck.models.load import load
from limbeck.models.save import save
from limbeck.papers.lab import lines
from limbeck.papers.lab.loop import Trained, cosine, train_steps
from limbeck.papers.lab.recall import optimizer_of

TUNED, TRANSLATED, REPLAYED = "tuned", "translated, then tuned", "tuned with replay"
ARMS = (TUNED, TRANSLATED, REPLAYED)
SHOTS = 3  # pairs before the description of an episode
REPLAY = 0.1  # share of a step's lines that are of the rich language
_EPISODES = 0.5  # share of a base's lines
_DEV = 0.2  # share of the pairs that choose a tuning's weights
_LOOKS = 8  # times that a tuning is measured on them
_ASKS, _NEXT = ">", ";"
_RICH, _POOR, _EPISODE, _TRANSLATION = "R", "P", "E", "T"
_TEST, _TEXT, _PAIRS, _SHOTS, _ORDER, _OLD = range(6)  # uses of random numbers


@dataclass(frozen=True)
class Size:
    """The shape of a decoder."""

    width: int
    layers: int
    heads: int


@dataclass(frozen=True)
class Budget:
    """How long bases and tunings train, in steps of about so many tokens, and how many descriptions of how many operations."""

    base_lines: int
    base_steps: int
    base_tokens: int
    base_rate: float
    steps: int
    tokens: int
    rate: float
    operations: int
    tested: int


@dataclass(frozen=True)
class Cell:
    """A base (``arm`` empty), or a tuning of one on ``pairs`` pairs, at most as many as ``most``."""

    name: str
    seed: int
    size: Size
    budget: Budget
    base: str = ""
    arm: str = ""
    pairs: int = 0
    most: int = 0

    @property
    def width(self) -> int:
        return self.size.width

    @property
    def layers(self) -> int:
        return self.size.layers

    @property
    def heads(self) -> int:
        return self.size.heads


def train_cell(cell: Cell, device: str, *, folder: Path) -> dict[str, Any]:
    """Trains a cell. ``rich`` and ``poor`` have 1 for each test description whose greedy program is right.

    The ``poor`` of a base are written in context, after some pairs. A tuning also gives the share ``dev`` of its kept pairs that
    it writes as they are, and the ``kept`` step. ``tokens`` are those that were read. ``failed`` is true if a loss was not
    finite, which ends the training.
    """
    return _tune(cell, device, folder) if cell.arm else _pretrain(cell, device, folder)


def _pretrain(cell: Cell, device: str, folder: Path) -> dict[str, Any]:
    budget = cell.budget
    model = lines.new_decoder(cell)
    network = model.model.to(device).train()
    text = base_text(cell.seed, budget.base_lines, budget.operations, held_out(budget))
    batch, rows = lines.lines_of(text).to(device), _rows(text, budget.base_tokens)
    batches = lines.batches_of(len(text), rows, np.random.default_rng([cell.seed, _TEXT, _ORDER]))

    def loss(_: int) -> Tensor:
        return lines.line_loss(model, batch.rows(next(batches).to(device)))

    steps = budget.base_steps
    trained = train_steps(network, optimizer_of(network, budget.base_rate), loss, cosine(steps), steps=steps)
    network.eval()
    save(model, folder / cell.name)
    tests, pairs = held_out(budget), pairs_of(cell.seed, cell.most, budget)
    in_context = [shown(POOR, one, shots_of(pairs, one, [cell.seed, number])) for number, one in enumerate(tests)]
    return {
        "failed": trained.failed,
        "trained_steps": trained.steps,
        "tokens": round(trained.steps * rows * lines.tokens_of(text) / len(text)),
        "parameters": model.parameters_count,
        "rich": _right(model, [_RICH + one + _ASKS for one in tests], RICH, tests),
        "poor": _right(model, in_context, POOR, tests),
    }


def _tune(cell: Cell, device: str, folder: Path) -> dict[str, Any]:
    budget = cell.budget
    pairs = pairs_of(cell.seed, cell.most, budget)[: cell.pairs]
    dev, known = np.split(np.array(pairs), [max(1, round(_DEV * len(pairs)))])
    model = load(folder / cell.base, device=device, train=True)
    order, half = _order(cell, known.tolist()), budget.steps // 2
    checked = lines.lines_of([_line(POOR, one) for one in dev.tolist()]).to(device)
    best: tuple[float, int, dict[str, Tensor]] = (-1.0, 0, {})
    looks = {round(budget.steps * (number + 1) / _LOOKS) for number in range(_LOOKS)}
    read = 0

    def loss(step: int) -> Tensor:
        nonlocal read
        questions = next(order)
        read += lines.tokens_of(questions)
        return lines.line_loss(model, lines.lines_of(questions).to(device))

    def look(step: int, failed: bool) -> bool:
        nonlocal best
        if step in looks and not failed and (cell.arm != TRANSLATED or step > half):
            share, _ = lines.correct_answers(model, checked)
            if share > best[0]:
                best = share, step, {name: one.clone() for name, one in model.model.state_dict().items()}
        return False

    trained = train_steps(
        model.model, optimizer_of(model.model, budget.rate), loss, cosine(budget.steps), steps=budget.steps, look=look
    )
    return _measured(cell, model, trained, best) | {"tokens": read}


def _measured(
    cell: Cell, model: LanguageModel, trained: Trained, best: tuple[float, int, dict[str, Tensor]]
) -> dict[str, Any]:
    """What a tuning comes to with the weights that are best on the kept pairs."""
    dev, step, weights = best
    if weights:
        model.model.load_state_dict(weights)
    model.model.eval()
    tests = held_out(cell.budget)
    return {
        "failed": trained.failed,
        "trained_steps": trained.steps,
        "dev": dev,
        "kept": step,
        "rich": _right(model, [_RICH + one + _ASKS for one in tests], RICH, tests),
        "poor": _right(model, [_POOR + one + _ASKS for one in tests], POOR, tests),
    }


def _order(cell: Cell, known: Sequence[str]) -> Iterator[list[Question]]:
    """The lines of each step: pairs; or first translations of their programs; or with some lines of the rich language."""
    budget, generator = cell.budget, np.random.default_rng([cell.seed, _ORDER, cell.pairs])
    pairs = [_line(POOR, one) for one in known]
    between = [Question(_TRANSLATION + RICH.program(one) + _ASKS, POOR.program(one)) for one in known]
    old = np.random.default_rng([cell.seed, _OLD])
    half = budget.steps // 2 if cell.arm == TRANSLATED else 0
    for text, steps in ((between, half), (pairs, budget.steps - half)):
        rows = _rows(text, budget.tokens)
        replayed = round(REPLAY * rows) if cell.arm == REPLAYED else 0
        batches = lines.batches_of(len(text), rows - replayed, generator)
        but = frozenset(held_out(budget))
        for _ in range(steps):
            extra = descriptions(old, replayed, budget.operations, but) if replayed else []
            yield [text[i] for i in next(batches).tolist()] + [_line(RICH, one) for one in extra]


def held_out(budget: Budget) -> list[str]:
    """The test descriptions, the same for all seeds and sizes."""
    return descriptions(np.random.default_rng(_TEST), budget.tested, budget.operations)


def pairs_of(seed: int, most: int, budget: Budget) -> list[str]:
    """The descriptions of a seed's pairs; fewer pairs are the first of these."""
    return descriptions(np.random.default_rng([seed, _PAIRS]), most, budget.operations, frozenset(held_out(budget)))


def base_text(seed: int, n: int, operations: int, tests: Sequence[str]) -> list[Question]:
    """The lines of a base: programs of the rich language, and episodes in languages that are drawn. None has a test's."""
    generator, but = np.random.default_rng([seed, _TEXT]), frozenset(tests)
    found, episodes = list[Question](), round(_EPISODES * n)
    drawn = descriptions(generator, n, operations, but)
    for one in drawn[episodes:]:
        found.append(_line(RICH, one))
    for number, one in enumerate(drawn[:episodes]):
        language = drawn_language(generator)
        shots = shots_of(drawn[:episodes], one, [seed, number])
        found.append(Question(shown(language, one, shots), language.program(one)))
    return found


def shots_of(pairs: Sequence[str], description: str, seed: Sequence[int]) -> list[str]:
    """Other pairs that stand before a description: drawn again until each operation is in one."""
    generator = np.random.default_rng([*seed, _SHOTS])
    shots: list[str] = []
    for _ in range(100):
        chosen = [pairs[i] for i in generator.choice(len(pairs), SHOTS + 1, replace=False)]
        shots = [one for one in chosen if one != description][:SHOTS]
        if {word for one in shots for word in one[1::2]} == set(WORDS):
            break
    return shots


def shown(language: Language, description: str, shots: Sequence[str]) -> str:
    """An episode up to its last program."""
    before = "".join(f"{one}{_ASKS}{language.program(one)}{_NEXT}" for one in shots)
    return f"{_EPISODE}{before}{description}{_ASKS}"


def _line(language: Language, description: str) -> Question:
    """A description and its program in the rich or the poor language, which a letter names."""
    return Question((_RICH if language == RICH else _POOR) + description + _ASKS, language.program(description))


def _rows(questions: Sequence[Question], tokens: int) -> int:
    """How many lines have about so many tokens."""
    return max(2, round(tokens * len(questions) / lines.tokens_of(questions)))


def _right(model: LanguageModel, prompts: Sequence[str], language: Language, tests: Sequence[str]) -> list[int]:
    """1 for each description whose greedy program is right."""
    longest = max(len(language.program(one)) for one in tests) + 1
    texts = lines.greedy(model, prompts, most=longest)
    return [int(passes(text, one, language)) for text, one in zip(texts, tests, strict=True)]
