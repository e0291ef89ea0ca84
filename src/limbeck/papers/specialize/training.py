"""Trainings of the recipe specialize: a decoder with four skills and some text, and its specialisations in arithmetic.

A base learns three skills (`corpora.tasks.strategies`) in all four formats, single operations, and Python source as text. Each
specialisation begins with the base of its seed and reads as many tokens, of problems in some formats. A step has lines of one
format. Test problems are the same for all seeds, and are in no training.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import count, cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from limbeck.corpora.document import is_held_out
from limbeck.corpora.problem_formats import KINDS, Example, Problem, Wording, examples
from limbeck.corpora.source import standard_library
from limbeck.corpora.tasks.spelled import Question
from limbeck.corpora.tasks.strategies import ASKS, MARKER, Item, items_of
from limbeck.models.language_model import LanguageModel
from limbeck.models.load import load
from limbeck.models.save import save
from limbeck.papers.lab import lines
from limbeck.papers.lab.loop import cosine, train_steps
from limbeck.papers.lab.recall import optimizer_of, question_logits
from limbeck.papers.specialize.teacher import Expression, expressions, next_characters, operations
from limbeck.planning.cost.size import Size
from limbeck.types import Batch

WORDING = Wording(asks="", answers=ASKS, thinks="~", gap="", between="\n")
SKILLS = ("last digit", "cell", "hop")  # what a base knows, and a specialisation may lose
EVERY = 10  # of so many steps of a specialisation with replay, one is of the base's lines
BASE = "base"
_SNIPPET, _FROM = 80, 3000  # characters of a line of text, and of how many lines at least some are taken
_TEXT_TESTED = 300  # lines
_CHOICE, _DRAWN, _BASE, _ORDER, _SHOTS = range(5)  # uses of random numbers


@dataclass(frozen=True)
class Arm:
    """A specialisation: the formats of its lines, and whether those with solutions learn the teacher's distribution.

    ``replay``: a tenth of its steps have lines of the base instead. ``flops_of``: it has the FLOPs of an arm of this format,
    None for equal tokens.
    """

    kinds: tuple[str, ...]
    soft: bool = False
    replay: bool = False
    flops_of: str | None = None


AO, NLL, KL = "zs-AO", "zs-CoT NLL", "zs-CoT KL"
IC_NLL, IC_KL, ALL_NLL, ALL_KL = "ic-CoT NLL", "ic-CoT KL", "all NLL", "all KL"
REPLAY, DEARER = "all KL, replay", "zs-CoT NLL, equal FLOPs"
ARMS = {
    AO: Arm(("zs_ao",)),
    NLL: Arm(("zs_cot",)),
    KL: Arm(("zs_cot",), soft=True),
    IC_NLL: Arm(("ic_cot",)),
    IC_KL: Arm(("ic_cot",), soft=True),
    ALL_NLL: Arm(KINDS),
    ALL_KL: Arm(KINDS, soft=True),
    REPLAY: Arm(KINDS, soft=True, replay=True),
    DEARER: Arm(("zs_cot",), flops_of="ic_cot"),
}


@dataclass(frozen=True)
class Cell:
    """The pretraining of a base (``arm`` `BASE`) or a specialisation: ``steps`` of about ``step_tokens`` tokens.

    A base learns ``base_items`` problems of its skills. ``questions`` are specialised on, with ``solutions`` of each; lines in
    context have ``shots``. ``tested`` problems of arithmetic and as many of the skills measure.
    """

    name: str
    arm: str
    seed: int
    rate: float
    steps: int
    step_tokens: int
    base_items: int
    questions: int
    solutions: int
    shots: int
    tested: int
    width: int
    layers: int
    heads: int

    def examples(self, problems: Sequence[Problem], kind: str, pool: Sequence[Problem]) -> list[Example]:
        """Problems in a format, with shots of a pool."""
        return list(examples(problems, (kind,), shots=self.shots, seed=self.seed + _SHOTS, pool=pool, wording=WORDING))


@dataclass(frozen=True)
class Lines:
    """Lines of one format, their mean ``tokens``, and for soft targets ``ids`` and ``shares`` of next characters (n, T, k)."""

    rows: Batch
    tokens: float
    ids: Tensor | None = None
    shares: Tensor | None = None

    @classmethod
    def of(cls, questions: Sequence[Question], *, whole_line: bool = False) -> Lines:
        """Lines that are learned as they are."""
        return cls(lines.lines_of(questions, whole_line=whole_line), lines.tokens_of(questions) / len(questions))

    @classmethod
    def soft(cls, questions: Sequence[Question], derivations: Sequence[dict[str, float]]) -> Lines:
        """Lines whose answers are ``derivations`` of a distribution, which is learned at each place."""
        found = cls.of(questions)
        shape = (*found.rows.tokens.shape, lines.VOCAB)
        dense = np.zeros(shape, dtype=np.float32)
        for row, (question, many) in enumerate(zip(questions, derivations, strict=True)):
            for place, after in enumerate(next_characters(many, question.answer), len(question.prompt) - 1):
                for character, share in after.items():
                    dense[row, place, ord(character)] = share
        shares, ids = torch.from_numpy(dense).topk(int((dense > 0).sum(-1).max()))
        return cls(found.rows, found.tokens, ids, shares)

    def loss(self, model: LanguageModel, chosen: Tensor, device: str) -> Tensor:
        """The mean loss of some lines in nats per learned token: the cross-entropy, of soft targets that with them."""
        rows = self.rows.rows(chosen).to(device)
        if self.ids is None or self.shares is None:
            return lines.line_loss(model, rows)
        logits, _ = question_logits(lines.network_of(model), rows)
        learned = rows.weight > 0
        ids, shares = self.ids[chosen].to(device)[learned], self.shares[chosen].to(device)[learned]
        return -(shares * logits.log_softmax(-1).gather(-1, ids)).sum(-1).mean()


@dataclass(frozen=True)
class Sets:
    """Problems that no training has: tests, whose shots are others (``shown``), and the text of held-out modules."""

    target: list[Problem]
    skills: list[Problem]
    shown: list[Problem]
    text: tuple[Question, ...]

    @classmethod
    def of(cls, cell: Cell) -> Sets:
        """The same for all seeds."""
        generator = np.random.default_rng(_CHOICE)
        drawn = expressions(generator, cell.tested + 4 * cell.shots)
        problems = [one.problem(generator, 1) for one in drawn]
        skills = [_problem(item) for item in items_of(generator, cell.tested, kinds=SKILLS)]
        text = _text(held_out=True, n=_TEXT_TESTED)
        return cls(problems[: cell.tested], skills, problems[cell.tested :], text)

    @property
    def questions(self) -> frozenset[str]:
        """All questions that may be in no training."""
        return frozenset(one.question for one in (*self.target, *self.skills, *self.shown))


def train_cell(cell: Cell, device: str, *, folder: Path) -> dict[str, Any]:
    """Trains a cell, and measures it (`_measured`). A base is saved in the folder for those that begin with it.

    ``learned`` are the tokens with a loss, ``tokens`` all that were read, ``flops`` those of reading and learning them.
    ``failed`` is true if a loss was not finite, which ends the training.
    """
    sets = Sets.of(cell)
    is_base = cell.arm == BASE
    model = lines.new_decoder(cell) if is_base else load(folder / f"{BASE}-seed{cell.seed}", device=device, train=True)
    network = model.model.to(device).train()
    formats = base_lines(cell, sets) if is_base else special_lines(cell, sets)
    arm = None if is_base else ARMS[cell.arm]
    pools = _pools(formats, base_lines(cell, sets) if arm is not None and arm.replay else [])
    steps, size = cell.steps, Size.of(model.model.config)
    if arm is not None and arm.flops_of is not None:
        steps = round(steps * _price(size, _lines(cell, sets, arm.flops_of)) / _price(size, formats[0]))
    order = _order(cell, pools)
    read = flops = learned = 0.0

    def loss(_: int) -> Tensor:
        nonlocal read, flops, learned
        pool, chosen = next(order)
        tokens = len(chosen) * pool.tokens
        read, flops = read + tokens, flops + tokens * _price(size, pool)
        learned += float((pool.rows.weight[chosen] > 0).sum())
        return pool.loss(model, chosen, device)

    trained = train_steps(network, optimizer_of(network, cell.rate), loss, cosine(steps), steps=steps)
    network.eval()
    if is_base:
        save(model, folder / cell.name)
    counts = {"tokens": round(read), "learned": round(learned), "flops": flops}
    answer = "ao" if arm is not None and arm.kinds == ("zs_ao",) else "cot"
    measured = _measured(cell, model, sets, answer, device)
    return {"failed": trained.failed, "trained_steps": trained.steps, **counts, **measured}


def base_lines(cell: Cell, sets: Sets) -> list[Lines]:
    """The lines of a base in the order of its steps: its skills and single operations without shots, twice as often as its skills
    with shots and as text.
    """
    generator = np.random.default_rng([cell.seed, _BASE])
    tested = frozenset(question + ASKS for question in sets.questions)  # as items have them
    skills = [_problem(item) for item in items_of(generator, cell.base_items, tested, kinds=SKILLS)]
    single = operations(generator, max(1, cell.base_items // 4))

    def of(kind: str, *sources: Sequence[Problem]) -> Lines:
        return Lines.of(_questions([one for some in sources for one in cell.examples(some, kind, some)]))

    often = [of(kind, skills, single) for kind in KINDS[:2]]
    text = Lines.of(_text(held_out=False, n=cell.base_items), whole_line=True)
    return [*often, of("ic_ao", skills), *often, of("ic_cot", skills), text]


def special_lines(cell: Cell, sets: Sets) -> list[Lines]:
    """The lines of a specialisation, of each of its formats."""
    return [_lines(cell, sets, kind) for kind in ARMS[cell.arm].kinds]


def _lines(cell: Cell, sets: Sets, kind: str) -> Lines:
    """Problems of arithmetic in a format, those with solutions with the teacher's distribution where the arm learns it."""
    generator = np.random.default_rng([cell.seed, _DRAWN])
    known = expressions(generator, cell.questions, sets.questions)
    problems = [one.problem(generator, cell.solutions) for one in known]
    found = cell.examples(problems, kind, problems)
    if not (ARMS[cell.arm].soft and kind.endswith("cot")):
        return Lines.of(_questions(found))
    of: dict[str, Expression] = {one.question: one for one in known}
    derivations = {question: one.derivations() for question, one in of.items()}
    return Lines.soft(_questions(found), [derivations[one.question] for one in found])


def _pools(formats: Sequence[Lines], replayed: Sequence[Lines]) -> Iterator[Lines]:
    """The lines of each step: all formats in turn, with replay one step of so many (`EVERY`) of the base's lines in turn."""
    own, others = cycle(formats), cycle(replayed)
    for number in count(1):
        yield next(others) if replayed and number % EVERY == 0 else next(own)


def _order(cell: Cell, pools: Iterator[Lines]) -> Iterator[tuple[Lines, Tensor]]:
    """The lines of each step, and the numbers of those that it has: of each format in a new order each epoch."""
    generator = np.random.default_rng([cell.seed, _ORDER])
    orders: dict[int, Iterator[Tensor]] = {}
    for pool in pools:
        rows = max(1, round(cell.step_tokens / pool.tokens))
        numbers = orders.setdefault(id(pool), lines.batches_of(len(pool.rows.tokens), rows, generator))
        yield pool, next(numbers)


def _price(size: Size, pool: Lines) -> float:
    """FLOPs of reading and learning a token of such lines."""
    length = pool.rows.tokens.shape[1]
    return size.forward_flops(length) + size.backward_flops(length)


def _problem(item: Item) -> Problem:
    """A task of a skill as a problem, whose solution has all steps."""
    return Problem(item.prompt.removesuffix(ASKS), item.right, (item.answer("steps"),))


def _questions(found: Sequence[Example]) -> list[Question]:
    return [Question(one.prompt(WORDING), one.completion(WORDING)) for one in found]


@cache
def _text(*, held_out: bool, n: int) -> tuple[Question, ...]:
    """Pieces of Python's library, of the modules that are always held out or of others, without those of other characters."""
    found: list[Question] = []
    for document in standard_library():
        text = (document.text or "") if is_held_out(document) == held_out else ""
        pieces = (text[at : at + _SNIPPET] for at in range(0, len(text) - _SNIPPET, _SNIPPET))
        found += [Question("", piece) for piece in pieces if piece.isascii() and "\0" not in piece]
        if len(found) >= max(2 * n, _FROM):
            break
    return tuple(found[:: max(1, len(found) // n)][:n])


def is_right(problem: Problem, kind: str, text: str) -> bool:
    """Whether a text in a format has the right answer, for any text."""
    answer = text.rpartition(MARKER)[2] if kind.endswith("cot") and MARKER in text else text
    return answer == problem.answer


@torch.no_grad()
def _measured(cell: Cell, model: LanguageModel, sets: Sets, answer: str, device: str) -> dict[str, Any]:
    """What greedy answers a model gives: 1 for each right one.

    ``target`` and ``in_context``: problems of arithmetic, asked as the model was trained, without shots and with; ``answer``: ao
    or cot. ``skills``: the base's skills, answered alone and then with solutions. ``text_nats`` are those per token of text.
    """

    def right(problems: Sequence[Problem], kind: str, pool: Sequence[Problem]) -> list[int]:
        asked = cell.examples(problems, kind, pool)
        most = max(len(one.target) for one in asked) + 2
        texts = lines.greedy(model, [one.prompt(WORDING) for one in asked], most=most)
        return [int(is_right(problem, kind, text)) for problem, text in zip(problems, texts, strict=True)]

    text = lines.lines_of(sets.text, whole_line=True).to(device)
    return {
        "target": right(sets.target, f"zs_{answer}", sets.shown),
        "in_context": right(sets.target, f"ic_{answer}", sets.shown),
        "skills": [*right(sets.skills, "zs_ao", sets.skills), *right(sets.skills, "zs_cot", sets.skills)],
        "text_nats": lines.correct_answers(model, text)[1],
    }
