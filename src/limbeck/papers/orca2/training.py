"""Trainings of the recipe orca2: small decoders on a teacher's answers in some style, with its instructions or without.

All arms of a seed have the same tasks in the same order, the same steps, and as many tokens a step, instructions counted; one has
as many answers a step as with instructions instead. Test and selection tasks are the same for all seeds, and are in no training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from limbeck.corpora.tasks.spelled import Question
from limbeck.corpora.tasks.strategies import STYLES, Item, Style, fitting, items_of, style_of
from limbeck.models.language_model import LanguageModel
from limbeck.papers.lab import lines
from limbeck.papers.lab.loop import cosine, train_steps
from limbeck.papers.lab.recall import optimizer_of

# The teacher's instruction for each style. The student of some arms reads it too, before the prompt.
INSTRUCTIONS: Mapping[Style, str] = {
    "direct": "answer alone: ",
    "look up": "look up first: ",
    "steps": "step by step: ",
}
_SELECTION = 300
_CHOICE, _KNOWN, _ORDER, _STYLE = 0, 1, 2, 3  # uses of random numbers


@dataclass(frozen=True)
class Arm:
    """What differs between trainings: the ``style`` of the answers, and the ``kept`` share of lines with the instruction.

    ``equal_answers``: a step has as many lines as with all instructions kept, and so fewer tokens.
    """

    style: Style | Literal["fitting", "random"] = "fitting"
    kept: float = 0.0
    equal_answers: bool = False


ERASED, KEPT, RANDOM, INSTRUCTED = "erased", "kept", "random style", "kept, instructed"
FEWER = "erased, equal answers"
ARMS = {
    ERASED: Arm(),
    FEWER: Arm(equal_answers=True),
    "half kept": Arm(kept=0.5),
    KEPT: Arm(kept=1.0),
    RANDOM: Arm("random"),
    "always steps": Arm("steps"),
    "always look up": Arm("look up"),
    "always direct": Arm("direct"),
}
SINGLE = tuple(name for name, arm in ARMS.items() if arm.style in STYLES)


@dataclass(frozen=True)
class Cell:
    """A training of one arm: ``steps`` of about ``step_tokens`` tokens, of ``known`` tasks; measured on ``tested`` ones."""

    name: str
    arm: str
    seed: int
    rate: float
    steps: int
    step_tokens: int
    known: int
    tested: int
    width: int
    layers: int
    heads: int


@dataclass(frozen=True)
class Sets:
    """The tasks of a cell: for the test, for the choice between arms, and for training."""

    test: list[Item]
    selection: list[Item]
    known: list[Item]

    @classmethod
    def of(cls, cell: Cell) -> Sets:
        """Draws them; those for test and selection do not depend on the cell's seed."""
        held_out = items_of(np.random.default_rng(_CHOICE), cell.tested + _SELECTION)
        prompts = frozenset(item.prompt for item in held_out)
        known = items_of(np.random.default_rng([cell.seed, _KNOWN]), cell.known, prompts)
        return cls(held_out[: cell.tested], held_out[cell.tested :], known)


def train_cell(cell: Cell, device: str) -> dict[str, Any]:
    """Trains a cell, and measures it on tasks without an instruction, and with one too if it read instructions alone.

    ``readings`` has for each way of asking, for each task, whether the greedy answer is ``right``, its ``tokens`` with the end,
    and the number of its ``style``. ``validation`` is the share of right answers to selection tasks, without an instruction.
    ``tokens`` are those that were read, of prompts, instructions and answers. ``failed`` is true if a loss was not finite, which
    ends the training.
    """
    sets, arm = Sets.of(cell), ARMS[cell.arm]
    questions = questions_of(arm, sets.known, cell.seed)
    model = lines.new_decoder(cell)
    network = model.model.to(device).train()
    batch = lines.lines_of(questions).to(device)
    counted = questions_of(ARMS[KEPT], sets.known, cell.seed) if arm.equal_answers else questions
    rows = max(1, round(cell.step_tokens * len(questions) / lines.tokens_of(counted)))
    order = lines.batches_of(len(questions), rows, np.random.default_rng([cell.seed, _ORDER]))

    def loss(_: int) -> Tensor:
        return lines.line_loss(model, batch.rows(next(order).to(device)))

    trained = train_steps(network, optimizer_of(network, cell.rate), loss, cosine(cell.steps), steps=cell.steps)
    network.eval()
    again = {INSTRUCTED: _read(model, sets.test, instructed=True)} if arm.kept == 1 else {}
    return {
        "failed": trained.failed,
        "trained_steps": trained.steps,
        "rows": rows,
        "tokens": round(trained.steps * rows * lines.tokens_of(questions) / len(questions)),
        "validation": float(np.mean(_read(model, sets.selection)["right"])),
        "readings": {cell.arm: _read(model, sets.test), **again},
    }


def questions_of(arm: Arm, items: Sequence[Item], seed: int) -> list[Question]:
    """The lines of an arm: prompts, with the instruction or without, and the teacher's answers."""
    drawn = np.random.default_rng([seed, _STYLE])
    styles, draws = drawn.integers(len(STYLES), size=len(items)), drawn.random(len(items))
    found = []
    for item, number, draw in zip(items, styles.tolist(), draws.tolist(), strict=True):
        style = {"fitting": fitting(item), "random": STYLES[number]}.get(arm.style, arm.style)
        instruction = INSTRUCTIONS[style] if draw < arm.kept else ""
        found.append(Question(instruction + item.prompt, item.answer(style)))
    return found


def _read(model: LanguageModel, items: Sequence[Item], *, instructed: bool = False) -> dict[str, list[int]]:
    """What a model's greedy answers to some tasks are."""
    prompts = [(INSTRUCTIONS[fitting(item)] if instructed else "") + item.prompt for item in items]
    longest = max(len(item.answer(style)) for item in items for style in STYLES) + 1
    with torch.no_grad():
        texts = lines.greedy(model, prompts, most=longest)
    return {
        "right": [int(item.passes(text)) for item, text in zip(items, texts, strict=True)],
        "tokens": [len(text) + 1 for text in texts],
        "style": [STYLES.index(style_of(text)) for text in texts],
    }
