"""Six kinds of toy tasks, and a program that answers each right in any of three styles: what a strategy is worth where.

A prompt's form tells its kind, and an answer's first sign its style. Answers are read by total functions; nothing is executed.

    kind         a prompt              direct   look up first         step by step
    last digit   L48173>               #3       [3]#3                 4.8.1.7.3.#3
    cell         Ta4b7c1d9?c>          #1       [c1]#1                a4.b7.c1.#1
    hop          Hac,db,cb,ba?a>       #b       [ac][cb]#b            ac.db.cb.ba.a-c.c-b.#b
    sum          Sa4b7c1d9?b+c>        #8       [b7][c1]#8            a4.b7.c1.d9.7+1=8.#8
    chain        C7+5-3*2>             #8       [7+5-3*2]#8           7+5=2;2-3=9;9*2=8;#8
    addition     A275+386>             #661     [275][386]#661        5+6+0=11.7+8+1=16.2+3+1=6.#661
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from limbeck.corpora.tasks.chains import Chains

Style = Literal["direct", "look up", "steps"]
STYLES: tuple[Style, ...] = ("direct", "look up", "steps")
MARKER, ASKS = "#", ">"
LETTERS, DIGITS = "abcdefgh", "0123456789"
_OPERATIONS = 3
_ENTRIES = 4  # of a table
_LENGTH = 5  # of a string of digits
_COLUMNS = 3


@dataclass(frozen=True)
class Item:
    """A task: its kind, its prompt, its right answer, and what each style writes before that."""

    kind: str
    prompt: str
    right: str
    before: tuple[tuple[Style, str], ...]

    def answer(self, style: Style) -> str:
        """The right answer as the teacher writes it in a style."""
        return f"{dict(self.before)[style]}{MARKER}{self.right}"

    def passes(self, text: str) -> bool:
        """Whether a text ends with the right answer, for any text."""
        _, marker, answer = text.rpartition(MARKER)
        return bool(marker) and answer == self.right


def style_of(text: str) -> Style:
    """The style of an answer by its first sign, for any text."""
    if text.startswith(MARKER):
        return "direct"
    return "look up" if text.startswith("[") else "steps"


def _item(kind: str, prompt: str, right: str, looked_up: str, steps: str) -> Item:
    return Item(kind, prompt + ASKS, right, (("direct", ""), ("look up", looked_up), ("steps", steps)))


def _digits(generator: np.random.Generator, n: int) -> str:
    return "".join(DIGITS[i] for i in generator.integers(len(DIGITS), size=n))


def _letters(generator: np.random.Generator, n: int) -> list[str]:
    return [LETTERS[i] for i in generator.permutation(len(LETTERS))[:n]]


def _last(generator: np.random.Generator) -> Item:
    digits = _digits(generator, _LENGTH)
    return _item("last digit", f"L{digits}", digits[-1], f"[{digits[-1]}]", "".join(f"{one}." for one in digits))


def _table(generator: np.random.Generator) -> list[str]:
    digits = _digits(generator, _ENTRIES)
    return [letter + digit for letter, digit in zip(_letters(generator, _ENTRIES), digits, strict=True)]


def _cell(generator: np.random.Generator) -> Item:
    table = _table(generator)
    at = int(generator.integers(_ENTRIES))
    read = "".join(f"{entry}." for entry in table[: at + 1])
    return _item("cell", f"T{''.join(table)}?{table[at][0]}", table[at][1], f"[{table[at]}]", read)


def _sum(generator: np.random.Generator) -> Item:
    table = _table(generator)
    one, other = (table[i] for i in generator.permutation(_ENTRIES)[:2])
    right = str((int(one[1]) + int(other[1])) % 10)
    steps = "".join(f"{entry}." for entry in table) + f"{one[1]}+{other[1]}={right}."
    return _item("sum", f"S{''.join(table)}?{one[0]}+{other[0]}", right, f"[{one}][{other}]", steps)


def _hop(generator: np.random.Generator) -> Item:
    first, second, third, *others = _letters(generator, 6)
    pairs = [first + second, second + third, third + others[0], others[1] + others[2]]
    pairs = [pairs[i] for i in generator.permutation(len(pairs))]
    steps = "".join(f"{pair}." for pair in pairs) + f"{first}-{second}.{second}-{third}."
    return _item("hop", f"H{','.join(pairs)}?{first}", third, f"[{first}{second}][{second}{third}]", steps)


def _chain(generator: np.random.Generator) -> Item:
    (chain,) = Chains(_OPERATIONS).chains(generator, 1)
    return _item("chain", f"C{chain.text}", chain.answer, f"[{chain.text}]", chain.derivation())


def _addition(generator: np.random.Generator) -> Item:
    low, high = 10 ** (_COLUMNS - 1), 10**_COLUMNS
    one, other = (int(number) for number in generator.integers(low, high, size=2))
    columns, carry = "", 0
    for a, b in zip(reversed(str(one)), reversed(str(other)), strict=True):
        total = int(a) + int(b) + carry
        columns += f"{a}+{b}+{carry}={total}."
        carry = total // 10
    return _item("addition", f"A{one}+{other}", str(one + other), f"[{one}][{other}]", columns)


# Of each kind, how an item is drawn, and the style that a teacher is to use: where an answer is read off, none; where
# parts of the prompt must be found, these first; where values build on one another, all steps.
KINDS: Mapping[str, tuple[Callable[[np.random.Generator], Item], Style]] = {
    "last digit": (_last, "direct"),
    "cell": (_cell, "direct"),
    "hop": (_hop, "look up"),
    "sum": (_sum, "look up"),
    "chain": (_chain, "steps"),
    "addition": (_addition, "steps"),
}


def items_of(
    generator: np.random.Generator, n: int, but: frozenset[str] = frozenset(), *, kinds: Sequence[str] = tuple(KINDS)
) -> list[Item]:
    """Draws n items of some kinds in turn. No two have one prompt, and none has one of ``but``.

    Raises ValueError for n that are more than a kind has prompts: their number is never near it here.
    """
    found: dict[str, Item] = {}
    while len(found) < n:
        draw, _ = KINDS[kinds[len(found) % len(kinds)]]
        for _ in range(1000):
            item = draw(generator)
            if item.prompt not in found and item.prompt not in but:
                found[item.prompt] = item
                break
        else:
            raise ValueError(f"expected {n} different prompts of each kind, and one has too few")
    return list(found.values())


def fitting(item: Item) -> Style:
    """The style that a teacher is to use for an item."""
    return KINDS[item.kind][1]
