"""Sums in one format as lines of text on which small decoders are trained: the cells of the recipe arithmetic.

Selection sums end a training, and the reported test sums are others. Neither are in the training set, in either order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int64

from limbeck.corpora.tasks.arithmetic import Arithmetic, Sum, question
from limbeck.corpora.tasks.spelled import Question
from limbeck.models.language_model import LanguageModel
from limbeck.papers.lab import lines

_TRAIN, _TEST = 0, 1  # uses of a seed's random numbers

Pairs = Int64[np.ndarray, "n 2"]


@dataclass(frozen=True)
class Cell:
    """A training (`lines.Cell`) on ``samples`` distinct sums, measured after each of ``steps``.

    ``padded``: numbers have leading zeros. ``whole_line``: the question is learned too, as in the paper.
    """

    name: str
    form: str
    samples: int
    steps: tuple[int, ...]
    rate: float
    seed: int
    width: int = 96
    layers: int = 2
    heads: int = 4
    step_tokens: int = 900
    digits: int = 3
    padded: bool = True
    tested: int = 1000
    whole_line: bool = False


def train(cell: Cell, device: str = "cpu") -> dict[str, Any]:
    """Trains a decoder from scratch (`lines.train`); gives the correct unseen sums, and longer ones, after each of the steps."""
    known = training_pairs(cell.seed, cell.samples, digits=cell.digits)
    unseen = unseen_pairs(cell.seed, known, digits=cell.digits, n=cell.tested + cell.tested // 2)
    test, stop = unseen[: cell.tested], unseen[cell.tested :]
    return lines.train(
        cell,
        questions_of(known, cell),
        questions_of(stop, cell),
        lambda model: _tested(model, test, cell),
        generator=np.random.default_rng([cell.seed, _TRAIN, 1]),
        device=device,
    )


def training_pairs(seed: int, samples: int, *, digits: int) -> Pairs:
    """Distinct sums, balanced in digits and carries. For one seed, a smaller set is the beginning of a larger one."""
    generator, task = np.random.default_rng([seed, _TRAIN]), Arithmetic(digits=digits)
    found = np.zeros((0, 2), dtype=np.int64)
    while len(found) < samples:
        found = np.concatenate([found, np.stack(task.sums(generator, 4096), -1)])
        found = found[np.sort(np.unique(found, axis=0, return_index=True)[1])]
    return found[:samples]


def unseen_pairs(seed: int, known: Pairs, *, digits: int, n: int) -> Pairs:
    """Distinct sums of uniform numbers that are not known in either order."""
    most = 10**digits
    codes = np.unique(np.concatenate([known @ [most, 1], known @ [1, most]]))
    free = np.random.default_rng([seed, _TEST]).permutation(most**2)
    free = free[~np.isin(free, codes)][:n]
    return np.stack(np.divmod(free, most), -1)


def longer_pairs(seed: int, *, digits: int, n: int) -> Pairs:
    """Sums of two numbers with one more digit than in training."""
    return np.random.default_rng([seed, _TEST, 1]).integers(10**digits, 10 ** (digits + 1), size=(n, 2))


def questions_of(pairs: Pairs, cell: Cell) -> list[Question]:
    """Sums in the format of a cell."""
    width = cell.digits if cell.padded else 1
    return [question(Sum(a, b, width), cell.form) for a, b in pairs.tolist()]


def answered(model: LanguageModel, pairs: Pairs, cell: Cell) -> int:
    """The number of sums that are correct by greedy generation."""
    questions = questions_of(pairs, cell)
    texts = lines.greedy(model, [q.prompt for q in questions], most=max(len(q.answer) for q in questions) + 1)
    return sum(answer_of(text, cell.form) == total for text, total in zip(texts, pairs.sum(1).tolist(), strict=True))


def answer_of(text: str, form: str) -> int | None:
    """The number on the last line of a generated answer; None if there is none."""
    last = text.rstrip("\n").rpartition("\n")[2]
    if form == "reverse":
        last = last.removesuffix("$")[::-1]
    if form == "detailed":
        last = last.replace(" ", "")
    return int(last) if last.isascii() and last.isdecimal() else None


def _tested(model: LanguageModel, test: Pairs, cell: Cell) -> dict[str, int]:
    longer = longer_pairs(cell.seed, digits=cell.digits, n=len(test))
    return {
        "right": answered(model, test, cell),
        "longer_right": answered(model, longer, cell),
        "n": len(test),
    }
