"""Trainings of the recipe open-mopd: a start that knows a little of two domains, a specialist for each, and distillations.

Domains are tasks whose answers are of very unlike length and are checked. A specialist is the start tuned on its own domain. A
distillation trains the start on answers that it samples, or that the specialists sample, each judged by its domain's specialist.
Test items are the same for all seeds and in no training.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain, pairwise
from pathlib import Path
from string import ascii_lowercase
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from limbeck.corpora.tasks.chains import Chains
from limbeck.corpora.tasks.spelled import Question
from limbeck.corpora.tasks.strategies import Item, Style
from limbeck.generation.generators import Sampling
from limbeck.generation.local import Continuation
from limbeck.models.language_model import LanguageModel
from limbeck.models.load import load
from limbeck.models.save import save
from limbeck.papers.lab import lines
from limbeck.papers.lab.loop import Trained, cosine, train_steps
from limbeck.papers.lab.on_policy import (
    OFF,
    ON,
    divergence,
    fixed_log_probs,
    flops_a_token,
    log_probs,
    rows_of,
    train_to_marks,
)
from limbeck.papers.lab.recall import optimizer_of
from limbeck.run.routed import domain_weights
from limbeck.types import Batch

CHAIN, SHORT = "chain", "letters"
DOMAINS: Mapping[str, Style] = {CHAIN: "steps", SHORT: "direct"}  # and how each is answered
START, SPECIALIST = "start", "specialist"
NAIVE, SHARES, GAPS, ALL = "naive", "shares", "shares and gaps", "shares, gaps, refreshed"
NAIVE_EACH, SHARES_EACH = "naive, new answers", "shares, new answers"
ONE, SEPARATE, TAUGHT, TUNED = "one teacher", "separate", "off-policy", "tuned on answers"
CLIP = (0.05, 20.0)  # of the factor of the remaining gap, as in the released code
INNER = 4  # updates of a batch of rollouts
LETTERS = 8  # of a prompt whose answer is the last of them in the alphabet
_SELECTION = 200  # items of a domain
_CHOICE, _LEARNED, _ASKED = 0, 1, 2  # uses of random numbers


@dataclass(frozen=True)
class Arm:
    """What differs between distillations.

    ``kind``: whose answers are learned. ``weights`` of domains: each token counts alike, each domain does, or each by its
    divergence from its teacher. ``inner``: updates of a batch of answers. The student's log-probabilities in the reward are those
    of the sampling unless ``refreshed``. ``routed``: each domain has its own teacher, and not the first for all. ``hard``: the
    answers' tokens alone are learned.
    """

    kind: str = ON
    weights: Literal["tokens", "shares", "gaps"] = "tokens"
    inner: int = 1
    refreshed: bool = True
    routed: bool = True
    hard: bool = False


ARMS: Mapping[str, Arm] = {
    NAIVE: Arm(inner=INNER, refreshed=False),
    SHARES: Arm(weights="shares", inner=INNER, refreshed=False),
    GAPS: Arm(weights="gaps", inner=INNER, refreshed=False),
    ALL: Arm(weights="gaps", inner=INNER),
    NAIVE_EACH: Arm(),
    SHARES_EACH: Arm(weights="shares"),
    ONE: Arm(inner=INNER, refreshed=False, routed=False),
    SEPARATE: Arm(inner=INNER, refreshed=False),
    TAUGHT: Arm(OFF, "shares", INNER),
    TUNED: Arm(OFF, "shares", INNER, hard=True),
}


@dataclass(frozen=True)
class Cell:
    """A training on ``domains`` with ``rows`` new items of each in an update, at one ``rate``.

    One of the arm `START` learns answers in ``steps`` steps, and so does a `SPECIALIST` from ``start``. A distillation learns
    ``tokens`` of the answers of an arm, from ``teachers``, names of such cells by domain. A ``tuning`` chooses a rate, and is
    measured on selection items. ``length``: operations of a chain.
    """

    name: str
    arm: str
    seed: int
    rate: float
    domains: tuple[str, ...]
    rows: tuple[int, ...]
    length: int
    width: int
    layers: int
    heads: int
    tested: int
    steps: int = 0
    start: str = ""
    teachers: tuple[str, ...] = ()
    tokens: int = 0
    tuning: bool = False

    @property
    def most(self) -> int:
        """The most tokens of an answer: those of the longest, and a step more."""
        return 12 * (self.length + 1) + 3


def train_cell(cell: Cell, device: str, *, folder: Path) -> dict[str, Any]:
    """Trains a cell. Starts and specialists are saved in the folder for those that need them.

    ``right`` has what `answered` gives for each mark: at the end, and off-policy also at the FLOPs of on-policy.
    """
    if cell.arm in (START, SPECIALIST):
        model = lines.new_decoder(cell) if cell.arm == START else load(folder / cell.start, device=device, train=True)
        trained = _learn(cell, model, device)
        save(model, folder / cell.name)
        return {
            "failed": trained.failed,
            "trained_steps": trained.steps,
            "parameters": model.parameters_count,
            "right": [answered(cell, model)],
        }
    student = load(folder / cell.start, device=device, train=True)
    return _distil(cell, student, [load(folder / name, device=device) for name in cell.teachers])


@cache
def held_out(domain: str, length: int, tested: int) -> tuple[Sequence[Item], Sequence[Item]]:
    """The items of a domain that test, and those that select, without an equal in any training."""
    found = _items(domain, length, np.random.default_rng(_CHOICE), tested + _SELECTION)
    return found[:tested], found[tested:]


def answered(cell: Cell, model: LanguageModel) -> list[int]:
    """1 for each item, of the cell's domains in turn, with a right greedy answer, else 0."""
    found = []
    for domain in cell.domains:
        items = held_out(domain, cell.length, cell.tested)[cell.tuning]
        texts = lines.greedy(model, [item.prompt for item in items], most=cell.most)
        found += [int(item.passes(text)) for item, text in zip(items, texts, strict=True)]
    return found


def asked(cell: Cell, use: int, number: int, times: int = 1) -> list[list[Item]]:
    """The new items of a step or a batch by domain, ``times`` its rows: the same for all arms."""
    return [
        _items(
            domain, cell.length, np.random.default_rng([cell.seed, use, number, at]), times * rows, _known(cell, domain)
        )
        for at, (domain, rows) in enumerate(zip(cell.domains, cell.rows, strict=True))
    ]


def question(item: Item) -> Question:
    """An item with its answer as its domain is answered."""
    return Question(item.prompt, item.answer(DOMAINS[item.kind]))


def answer_tokens(domain: str, length: int) -> int:
    """The tokens of a right answer of a domain with its end; all have as many."""
    (item,) = _items(domain, length, np.random.default_rng(_CHOICE), 1)
    return len(question(item).answer) + 1


def _known(cell: Cell, domain: str) -> frozenset[str]:
    return frozenset(item.prompt for part in held_out(domain, cell.length, cell.tested) for item in part)


def _items(
    domain: str, length: int, generator: np.random.Generator, n: int, but: frozenset[str] = frozenset()
) -> list[Item]:
    """Draws n items of a domain, no two of one prompt and none with one of ``but``."""
    found: dict[str, Item] = {}
    while len(found) < n:
        drawn = _chains(length, generator, n) if domain == CHAIN else _letters(generator, n)
        found |= {item.prompt: item for item in drawn if item.prompt not in but}
    return list(found.values())[:n]


def _chains(length: int, generator: np.random.Generator, n: int) -> list[Item]:
    """Chains whose derivation has each result twice, so that answers are long: C7+5>7+5=2, so 2;#2"""
    return [
        Item(CHAIN, f"C{one.prompt}", one.answer, (("steps", one.derivation(twice=True)),))
        for one in Chains(length).chains(generator, n)
    ]


def _letters(generator: np.random.Generator, n: int) -> list[Item]:
    """Letters, of which the last in the alphabet is the answer, at once: Lgbkqacfd>#q"""
    rows = generator.integers(len(ascii_lowercase), size=(n, LETTERS))
    texts = ["".join(ascii_lowercase[i] for i in row) for row in rows.tolist()]
    return [Item(SHORT, f"L{text}>", max(text), (("direct", ""),)) for text in texts]


def _learn(cell: Cell, model: LanguageModel, device: str) -> Trained:
    """Trains a model on new items with their answers. Each token counts alike, as in most tunings on a mixture."""
    network = model.model.to(device).train()

    def loss(step: int) -> Tensor:
        rows = lines.lines_of([question(item) for items in asked(cell, _LEARNED, step) for item in items])
        return lines.line_loss(model, rows.to(device))

    return train_steps(network, optimizer_of(network, cell.rate), loss, cosine(cell.steps), steps=cell.steps)


@dataclass(frozen=True)
class _Part:
    """What an update learns: rows in the order of their domains, and for each of its n tokens the domain's number.

    ``teacher`` and ``before`` are log-probabilities of the teacher, and of the student when the answers were sampled.
    """

    rows: Batch
    domain: Int[Tensor, " n"]
    teacher: Float[Tensor, "n V"]
    before: Float[Tensor, "n V"]


def _distil(cell: Cell, student: LanguageModel, teachers: Sequence[LanguageModel]) -> dict[str, Any]:
    """Distils, and measures after ``tokens``, and off-policy after on-policy's FLOPs too.

    ``shares`` are those of the learned tokens by domain, and ``weights`` the mean weight of a batch's tokens by domain.
    """
    arm = ARMS[cell.arm]
    marks = [float(cell.tokens)]
    if arm.kind == OFF:
        marks.append(cell.tokens * flops_a_token(ON, student, teachers[0]) / flops_a_token(OFF, student, teachers[0]))
    tokens, weights = [], []

    def updates() -> Iterator[tuple[_Part, Tensor]]:
        number = 0
        while True:
            parts = _parts(cell, student, teachers, number)
            counted, weight = weights_of(arm, parts, len(cell.domains))
            tokens.append(counted.tolist())
            weights.append(weight.tolist())
            yield from ((part, weight) for part in parts)
            number += 1

    waiting = updates()

    def loss(_: int) -> tuple[Tensor, float]:
        part, weight = next(waiting)
        return part_loss(arm, student, part, weight), float(part.rows.weight.sum())

    trained, right, spent = train_to_marks(student, cell.rate, loss, marks, lambda: answered(cell, student))
    total = np.sum(tokens, 0)
    return {
        "failed": trained.failed,
        "trained_steps": trained.steps,
        "right": right,
        "tokens": spent,
        "flops": [one * flops_a_token(arm.kind, student, teachers[0]) for one in spent],
        "shares": dict(zip(cell.domains, (total / total.sum()).tolist(), strict=True)),
        "weights": dict(zip(cell.domains, np.mean(weights, 0).tolist(), strict=True)),
    }


def _parts(cell: Cell, student: LanguageModel, teachers: Sequence[LanguageModel], number: int) -> list[_Part]:
    """A batch of new answers, sampled at temperature 1, in a part for each update."""
    arm = ARMS[cell.arm]
    items = asked(cell, _ASKED, number, arm.inner)
    prompts = [[item.prompt for item in some] for some in items]
    how = Sampling(cell.most, seed=cell.seed * 2**20 + number)
    if arm.kind == ON:
        together = iter(lines.sampled(student, [prompt for some in prompts for prompt in some], how))
        answers = [[next(together)[0] for _ in some] for some in prompts]
    else:
        answers = [
            [one[0] for one in lines.sampled(teacher, some, how.apart(domain))]
            for domain, teacher, some in zip(cell.domains, teachers, prompts, strict=True)
        ]
    judges = teachers if arm.routed else [teachers[0]] * len(teachers)
    return [
        _part(
            [rows[part :: arm.inner] for rows in prompts],
            [rows[part :: arm.inner] for rows in answers],
            student,
            judges,
        )
        for part in range(arm.inner)
    ]


def _part(
    prompts: Sequence[Sequence[str]],
    answers: Sequence[Sequence[Continuation]],
    student: LanguageModel,
    teachers: Sequence[LanguageModel],
) -> _Part:
    """The rows of an update, from prompts and answers by domain."""
    rows = rows_of(list(chain(*prompts)), list(chain(*answers)))
    ends = np.cumsum([0, *map(len, prompts)]).tolist()
    by_domain = [rows.rows(slice(*pair)) for pair in pairwise(ends)]
    counts = torch.tensor([int(some.weight.sum()) for some in by_domain])
    judged = [fixed_log_probs(judge, some.to(judge.device)) for judge, some in zip(teachers, by_domain, strict=True)]
    rows = rows.to(student.device)
    domain = torch.arange(len(counts)).repeat_interleave(counts).to(student.device)
    return _Part(rows, domain, torch.cat(judged), fixed_log_probs(student, rows))


def weights_of(arm: Arm, parts: Sequence[_Part], domains: int) -> tuple[Tensor, Tensor]:
    """The tokens of a batch by domain, and the weight of a token of each, whose mean over the tokens is 1.

    With "shares" a domain's weight is its target share, the same for all, over its share of the tokens. With "gaps" this is times
    its mean divergence from its teacher over the mean by these weights, clipped: the domain that is far has more.
    """
    domain = torch.cat([part.domain for part in parts])
    tokens = torch.bincount(domain, minlength=domains).float()
    targets = torch.ones_like(tokens)
    if arm.weights == "tokens":
        return tokens, targets
    weight = domain_weights(tokens, targets)
    if arm.weights == "gaps":
        nats = torch.cat([divergence(part.before, part.teacher) for part in parts])
        gap = torch.bincount(domain, nats, minlength=domains) / tokens.clamp_min(1)
        mean = ((weight * gap).sum() / weight.sum()).clamp_min(1e-12)
        weight = domain_weights(tokens, targets * (gap / mean).clamp(*CLIP))
    return tokens, weight


def part_loss(arm: Arm, student: LanguageModel, part: _Part, weight: Float[Tensor, " domains"]) -> Tensor:
    """The mean over the tokens of an update of weight x loss, in nats.

    On-policy the loss is the policy gradient's, with the reward log p(v) - log q(v) of every token v that the student might
    choose. With the student's log q of now its gradient is that of KL(student || teacher).
    """
    q = log_probs(student, part.rows)
    if arm.hard:
        nats = F.nll_loss(q, part.rows.targets[part.rows.weight > 0], reduction="none")
    elif arm.kind == OFF:
        nats = divergence(part.teacher, q)
    elif arm.refreshed:
        nats = divergence(q, part.teacher)
    else:
        nats = (q.exp() * (part.before - part.teacher)).sum(-1)
    return (weight[part.domain] * nats).mean()
