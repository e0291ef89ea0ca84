"""Chains of operations modulo 10, with a derivation that writes out every step: a toy for what a rationale does.

The prompt 7+5-3*2> is computed from left to right, and each result is a digit: 7+5 is 2, 2-3 is 9, 9*2 is 8. The derivation
7+5=2;2-3=9;9*2=8; copies the operator and the number of each step; then #8 is the answer. A ``clause`` in brackets,
7+5[4*6]-3*2>, belongs to nothing and is to be left out (as in GSM-IC, arXiv 2302.00093). All functions that read text are
total: a string that is no chain, or no derivation, has no value, and nothing is executed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from limbeck.corpora.tasks.checked import Checked
from limbeck.corpora.tasks.spelled import Question
from limbeck.errors import BadTask

OPERATORS = "+-*"
ASKS, MARKER = ">", "#"  # the end of a prompt; what the answer follows
PARTS = ("answer", "steps", "derivation")
_BASE = 10
_OPERATION = r"[-+*][0-9]"
_CHAIN = re.compile(rf"([0-9])((?:{_OPERATION})+)(\[[0-9]{_OPERATION}\])?((?:{_OPERATION})*)", re.ASCII)
_STEP = re.compile(r"([0-9])([-+*])([0-9])=([0-9])(?:, so ([0-9]))?;", re.ASCII)


@dataclass(frozen=True)
class Chain:
    """A first digit, and operations on it: operators with digits. A ``clause`` stands after the first ``before`` of them."""

    first: int
    operations: tuple[tuple[str, int], ...]
    clause: str = ""
    before: int = 1

    @property
    def values(self) -> tuple[int, ...]:
        """The first digit, and the result of each operation."""
        found = [self.first]
        for operator, number in self.operations:
            found.append(_applied(found[-1], operator, number))
        return tuple(found)

    @property
    def text(self) -> str:
        """The chain as it is written, with its clause."""
        written = [f"{operator}{number}" for operator, number in self.operations]
        clause = f"[{self.clause}]" if self.clause else ""
        return "".join([str(self.first), *written[: self.before], clause, *written[self.before :]])

    @property
    def prompt(self) -> str:
        """The chain with the sign that asks for its value."""
        return self.text + ASKS

    @property
    def answer(self) -> str:
        """The last value."""
        return str(self.values[-1])

    def derivation(self, *, twice: bool = False) -> str:
        """All steps, each with its result; ``twice`` writes each result once more, as in 7+5=2, so 2;"""
        steps = zip(pairwise(self.values), self.operations, strict=True)
        return "".join(
            f"{before}{operator}{number}={after}" + (f", so {after}" if twice else "") + ";"
            for (before, after), (operator, number) in steps
        )

    def question(self, *, derived: bool = True, twice: bool = False) -> Question:
        """The prompt, and the answer after its derivation; without one where it is not ``derived``."""
        derivation = self.derivation(twice=twice) if derived else ""
        return Question(self.prompt, f"{derivation}{MARKER}{self.answer}")

    def checked(self) -> Checked:
        """The prompt with the check of an answer: the value is right, the steps hold, and they are those of the chain."""

        def check(text: str) -> tuple[bool, ...]:
            derivation, marker, answer = text.partition(MARKER)
            own = derivation in (self.derivation(), self.derivation(twice=True))
            return bool(marker) and answer == self.answer, steps_hold(derivation), own

        return Checked(self.prompt, check, PARTS, longest=len(self.question(twice=True).answer))


@dataclass(frozen=True)
class Chains:
    """Chains of ``length`` operations, a share ``clauses`` of which have one that is to be left out. Any two may be equal.

    Raises BadTask for a length below 1 or a share outside of 0 to 1.
    """

    length: int = 4
    clauses: float = 0.0
    name: str = "chains"

    def __post_init__(self) -> None:
        if self.length < 1 or not 0 <= self.clauses <= 1:
            raise BadTask(
                f"chains: expected at least 1 operation and a share of clauses from 0 to 1, got {self.length} and {self.clauses}"
            )

    def chains(self, generator: np.random.Generator, n: int) -> list[Chain]:
        """Samples n chains: digits and operators are uniform, and so is the place of a clause."""
        return [self._chain(generator) for _ in range(n)]

    def questions(self, generator: np.random.Generator, n: int) -> list[Question]:
        """Samples n chains and gives them with their derivations."""
        return [chain.question() for chain in self.chains(generator, n)]

    def _chain(self, generator: np.random.Generator) -> Chain:
        numbers = generator.integers(_BASE, size=self.length + 3).tolist()
        operators = [OPERATORS[i] for i in generator.integers(len(OPERATORS), size=self.length + 1)]
        with_clause, before = generator.random() < self.clauses, int(generator.integers(1, self.length + 1))
        first, *others, a, b = numbers
        operations = tuple(zip(operators[:-1], others, strict=True))
        return Chain(first, operations, f"{a}{operators[-1]}{b}" if with_clause else "", before)


def chain_of(text: str) -> Chain | None:
    """The chain that a text writes, without the sign that asks; None for any other text."""
    found = _CHAIN.fullmatch(text)
    if found is None:
        return None
    first, begin, clause, rest = found.groups()
    written = begin + rest
    operations = tuple((written[i], int(written[i + 1])) for i in range(0, len(written), 2))
    return Chain(int(first), operations, clause[1:-1] if clause else "", len(begin) // 2 if clause else 1)


def value(text: str) -> int | None:
    """The value of a chain; None for any text that is none.

    >>> value("7+5-3*2"), value("7+5[4*6]-3*2"), value("7+"), value("__import__('os')")
    (8, 8, None, None)
    """
    chain = chain_of(text)
    return None if chain is None else chain.values[-1]


def steps_hold(text: str) -> bool:
    """Whether a text is a derivation whose every step has the right result and begins with the result before it.

    False for any text that is no derivation, also for an empty one.
    """
    place, before = 0, None
    while place < len(text):
        step = _STEP.match(text, place)
        if step is None:
            return False
        a, operator, b, result, again = step.groups()
        if before not in (None, a) or again not in (None, result) or _applied(int(a), operator, int(b)) != int(result):
            return False
        place, before = step.end(), result
    return before is not None


def _applied(a: int, operator: str, b: int) -> int:
    """The result of an operation modulo 10."""
    return {"+": a + b, "-": a - b, "*": a * b}[operator] % _BASE
