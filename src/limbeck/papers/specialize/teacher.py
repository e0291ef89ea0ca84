"""The teacher of the recipe specialize: an exact solver of arithmetic in three steps, as a distribution over derivations.

(3+8)*(5-9) modulo 10 is solved as 3+8=1;5-9=6;1*6=6;#6. Either inner step may come first, and the numbers of a sum or a product
may be swapped, so that up to sixteen derivations are right. Their probabilities are known, and with them those of each next
character.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from limbeck.corpora.problem_formats import Problem
from limbeck.corpora.tasks.chains import OPERATORS, Chain
from limbeck.corpora.tasks.strategies import MARKER

END = "\0"  # of a derivation
FIRST, AS_GIVEN = 0.6, 0.7  # probabilities of the left inner step first, and of numbers in the order of the question
_BASE = 10


@dataclass(frozen=True)
class Expression:
    """Two operations on four digits, the ``numbers``, and one on their results: ``operators`` left, right and outer."""

    numbers: tuple[int, int, int, int]
    operators: tuple[str, str, str]

    @property
    def question(self) -> str:
        """The expression as it is written."""
        a, b, c, d = self.numbers
        left, right, outer = self.operators
        return f"({a}{left}{b}){outer}({c}{right}{d})"

    @property
    def answer(self) -> str:
        """The value, a digit."""
        return str(self._values[2])

    def derivations(self) -> dict[str, float]:
        """The probability of each right derivation."""
        a, b, c, d = self.numbers
        left, right, _ = self._values
        steps = [(a, b), (c, d), (left, right)]
        found: dict[str, float] = {}
        for left_first, *given in product((True, False), repeat=4):
            texts, chance = [], FIRST if left_first else 1 - FIRST
            for (one, other), operator, as_given in zip(steps, self.operators, given, strict=True):
                texts.append(_step(one, operator, other, swapped=not as_given))
                chance *= AS_GIVEN if as_given else 1 - AS_GIVEN
            inner = texts[:2] if left_first else texts[1::-1]
            text = "".join([*inner, texts[2], MARKER, self.answer])
            found[text] = found.get(text, 0.0) + chance
        return found

    def problem(self, generator: np.random.Generator, solutions: int) -> Problem:
        """The expression with so many derivations, drawn from the teacher's."""
        found = self.derivations()
        drawn = generator.choice(len(found), size=solutions, p=[*found.values()]).tolist()
        texts = [*found]
        return Problem(self.question, self.answer, tuple(texts[i] for i in drawn))

    @property
    def _values(self) -> tuple[int, int, int]:
        """The results of the left, the right and the outer operation."""
        a, b, c, d = self.numbers
        one, other, outer = self.operators
        left, right = _applied(a, one, b), _applied(c, other, d)
        return left, right, _applied(left, outer, right)


def expressions(generator: np.random.Generator, n: int, but: frozenset[str] = frozenset()) -> list[Expression]:
    """Draws n expressions that differ. None has a question among ``but``."""
    found: dict[str, Expression] = {}
    while len(found) < n:
        a, b, c, d = generator.integers(_BASE, size=4).tolist()
        left, right, outer = (OPERATORS[i] for i in generator.integers(len(OPERATORS), size=3).tolist())
        one = Expression((a, b, c, d), (left, right, outer))
        if one.question not in but:
            found.setdefault(one.question, one)
    return list(found.values())


def next_characters(derivations: Mapping[str, float], text: str) -> Iterator[dict[str, float]]:
    """The teacher's probability of each next character, at every place of a derivation and at its end (`END`).

    Given what was written before, it is that of the derivations that begin so.
    """
    for place in range(len(text) + 1):
        after: dict[str, float] = {}
        for other, chance in derivations.items():
            if other.startswith(text[:place]):
                following = other[place : place + 1] or END
                after[following] = after.get(following, 0.0) + chance
        total = sum(after.values())
        yield {character: chance / total for character, chance in after.items()}


def operations(generator: np.random.Generator, n: int) -> list[Problem]:
    """Single operations with their results, such as 3+8 with 1: what a base knows of arithmetic."""
    a, b = generator.integers(_BASE, size=(2, n)).tolist()
    signs: Sequence[int] = generator.integers(len(OPERATORS), size=n).tolist()
    found = [Chain(one, ((OPERATORS[sign], other),)) for one, other, sign in zip(a, b, signs, strict=True)]
    return [Problem(one.text, one.answer, (f"{one.derivation()}{MARKER}{one.answer}",)) for one in found]


def _step(one: int, operator: str, other: int, *, swapped: bool) -> str:
    """A step with its result. Numbers of a difference are never swapped."""
    a, b = (other, one) if swapped and operator != "-" else (one, other)
    return f"{a}{operator}{b}={_applied(one, operator, other)};"


def _applied(a: int, operator: str, b: int) -> int:
    return Chain(a, ((operator, b),)).values[-1]
