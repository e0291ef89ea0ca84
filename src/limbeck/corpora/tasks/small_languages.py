"""Programs for one description in small languages of expressions, and an interpreter for each, total over all texts.

A description names operations one after another, all modulo 10; a program is one expression that does them. Languages differ in
where a sign stands and in which signs they have. A program is right if it gives what the description says for every input; no
text is executed by Python.

    description       apbt3        a plus b, times 3
    RICH (infix)      ((a+b)*3)
    POOR (prefix)     %@ab3
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from jaxtyping import Int64

Order = Literal["infix", "prefix", "postfix"]
Value = Int64[np.ndarray, " inputs"]
ORDERS: tuple[Order, ...] = ("infix", "prefix", "postfix")
NAMES, DIGITS, WORDS = "abc", "0123456789", "ptl"  # inputs, constants, and the operations of descriptions
SIGNS = "+*-@%&!?^~=|"  # that languages choose theirs from
_BASE = 10
_OPERATIONS: tuple[Callable[[Value, Value], Value], ...] = (np.add, np.multiply, np.subtract)


@dataclass(frozen=True)
class Language:
    """Where a sign stands beside its two operands, and the signs of plus, times and less."""

    order: Order
    signs: str

    def program(self, description: str) -> str:
        """The expression that does what a description says, one operation around the other."""
        text = description[0]
        for word, operand in zip(description[1::2], description[2::2], strict=True):
            sign = self.signs[WORDS.index(word)]
            text = {
                "infix": f"({text}{sign}{operand})",
                "prefix": f"{sign}{text}{operand}",
                "postfix": f"{text}{operand}{sign}",
            }[self.order]
        return text

    def run(self, text: str) -> Value | None:
        """What a program gives for each of the inputs (`inputs`); None for a text that is no program."""
        return _infix(text, self.signs) if self.order == "infix" else _stacked(text, self)


RICH, POOR = Language("infix", "+*-"), Language("prefix", "@%&")


@cache
def inputs() -> dict[str, Value]:
    """All 1,000 inputs: the values of each name."""
    values = np.meshgrid(*[np.arange(_BASE)] * len(NAMES), indexing="ij")
    return dict(zip(NAMES, (one.ravel() for one in values), strict=True))


def passes(text: str, description: str, language: Language) -> bool:
    """Whether a text is a program that gives what a description says for every input, for any text."""
    found = language.run(text)
    return found is not None and bool((found == _meant(description)).all())


def descriptions(
    generator: np.random.Generator, n: int, operations: int, but: frozenset[str] = frozenset()
) -> list[str]:
    """Draws n descriptions of so many operations, all different and none of ``but``.

    Raises ValueError for n that are more than there are: their number is never near it here.
    """
    found: dict[str, None] = {}
    for _ in range(100 * n):
        operands = [(NAMES + DIGITS)[i] for i in _operands(generator, operations + 1)]
        words = [WORDS[i] for i in generator.integers(len(WORDS), size=operations)]
        text = operands[0] + "".join(map("".join, zip(words, operands[1:], strict=True)))
        if text not in but:
            found.setdefault(text)
        if len(found) == n:
            return list(found)
    raise ValueError(f"expected {n} different descriptions of {operations} operations, and there are too few")


def drawn_language(generator: np.random.Generator) -> Language:
    """A language with any order and any three signs, but not `POOR`."""
    while True:
        order = ORDERS[int(generator.integers(len(ORDERS)))]
        found = Language(order, "".join(SIGNS[i] for i in generator.permutation(len(SIGNS))[: len(WORDS)]))
        if found != POOR:
            return found


def _operands(generator: np.random.Generator, n: int) -> Sequence[int]:
    """Places in names and digits: names as often as digits."""
    names = generator.integers(len(NAMES), size=n)
    digits = len(NAMES) + generator.integers(len(DIGITS), size=n)
    chosen: list[int] = np.where(generator.integers(2, size=n) == 0, names, digits).tolist()
    return chosen


@cache
def _meant(description: str) -> Value:
    """What a description says, for all inputs."""
    value = _value(description[0])
    assert value is not None, "a description begins with an operand"
    for word, operand in zip(description[1::2], description[2::2], strict=True):
        other = _value(operand)
        assert other is not None, "an operation has an operand"
        value = _OPERATIONS[WORDS.index(word)](value, other) % _BASE
    return value


def _value(sign: str) -> Value | None:
    """The values of a name or a digit; None for another sign."""
    if sign in inputs():
        return inputs()[sign]
    return np.full(_BASE ** len(NAMES), DIGITS.index(sign)) if sign and sign in DIGITS else None


def _stacked(text: str, language: Language) -> Value | None:
    """Runs a program whose signs stand before or after their operands."""
    before = language.order == "prefix"
    stack: list[Value] = []
    for sign in reversed(text) if before else text:
        if (value := _value(sign)) is not None:
            stack.append(value)
        elif sign in language.signs and len(stack) >= 2:
            last, other = stack.pop(), stack.pop()
            left, right = (last, other) if before else (other, last)
            stack.append(_OPERATIONS[language.signs.index(sign)](left, right) % _BASE)
        else:
            return None
    return stack[0] if len(stack) == 1 else None


def _infix(text: str, signs: str) -> Value | None:
    """Runs a program whose signs stand between their operands, each pair in brackets."""
    stack: list[Value | str] = []
    for sign in text:
        if (value := _value(sign)) is not None:
            stack.append(value)
        elif sign != ")":
            stack.append(sign)
        else:
            closed = stack[-4:]
            del stack[-4:]
            if (value := _of_pair(closed, signs)) is None:
                return None
            stack.append(value)
    return stack[0] if len(stack) == 1 and not isinstance(stack[0], str) else None


def _of_pair(closed: Sequence[Value | str], signs: str) -> Value | None:
    """The value of an open bracket, an operand, a sign and an operand; None for anything else."""
    if len(closed) != 4:
        return None
    bracket, left, sign, right = closed
    if isinstance(left, str) or isinstance(right, str) or not isinstance(sign, str) or not isinstance(bracket, str):
        return None
    if bracket != "(" or sign not in signs:
        return None
    return _OPERATIONS[signs.index(sign)](left, right) % _BASE
