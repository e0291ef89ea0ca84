"""Addition of two numbers in four text formats. Three of them help a small model to learn the steps of addition.

*plain* is 128+367=495. *reverse* is $128+367=594$, units first. *simplified* has one line for each digit, from the units, with
digit and carry. *detailed* also shows the digits left to add (Lee et al., arXiv 2307.03381, sec. 3 and fig. 1). Few digits and
many carries are rare in random sums, so both can be balanced: lengths as of one random number, and carries uniform.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from limbeck.config import nearest
from limbeck.corpora.tasks.spelled import Question
from limbeck.errors import BadTask

FORMATS = ("plain", "reverse", "simplified", "detailed")
BALANCES = ("none", "digits", "carries", "both")
_MOST_DIGITS = 12  # limit for balanced carries by rejection sampling: all 12 carry in 1 of 10,000 sums


@dataclass(frozen=True)
class Sum:
    """The sum a + b of two numbers of at least 0, written with leading zeros up to ``padded`` digits."""

    a: int
    b: int
    padded: int = 1

    @property
    def operands(self) -> tuple[str, str]:
        """The digits of a and b, with leading zeros."""
        return f"{self.a:0{self.padded}d}", f"{self.b:0{self.padded}d}"

    @property
    def steps(self) -> tuple[tuple[int, int, int, int, int], ...]:
        """For each place from the units: digit of a, digit of b, incoming carry, digit of the sum, outgoing carry."""
        a, b = self.operands
        width = max(len(a), len(b))
        carry, found = 0, []
        for x, y in zip(reversed(a.zfill(width)), reversed(b.zfill(width)), strict=True):
            total = int(x) + int(y) + carry
            found.append((int(x), int(y), carry, total % 10, total // 10))
            carry = total // 10
        return tuple(found)


def question(sum_: Sum, form: str) -> Question:
    """A sum as a question and its answer, in the format ``form``. Their concatenation is `render`.

    Raises BadTask for an unknown format.
    """
    require_format(form)
    operands = "+".join(sum_.operands)
    if form == "plain":
        return Question(f"{operands}=", f"{sum_.a + sum_.b}\n")
    if form == "reverse":
        return Question(f"${operands}=", f"{str(sum_.a + sum_.b)[::-1]}$\n")
    lines = _simplified(sum_) if form == "simplified" else _detailed(sum_)
    return Question(f"Input:\n{operands}\nTarget:\n", "".join(line + "\n" for line in lines))


def render(sum_: Sum, form: str) -> str:
    """The full text of a sum, question and answer, in the format ``form``. Raises BadTask for an unknown format."""
    whole = question(sum_, form)
    return whole.prompt + whole.answer


def parse(text: str, form: str) -> Sum:
    """The sum in a text by `render`. Raises BadTask if the text is not a sum in the format ``form`` or the result is wrong."""
    require_format(form)
    found = re.search(r"(\d+)\+(\d+)", text)
    if found:
        sum_ = Sum(int(found[1]), int(found[2]), _padded(found[1], found[2]))
        if render(sum_, form) == text:
            return sum_
    raise BadTask(
        f"arithmetic: expected a sum in the format {form}, such as {render(Sum(128, 367), form)!r}, got {text[:200]!r}"
    )


def carries(a: Int64[np.ndarray, " n"], b: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """The number of carries in each a + b. Each carry lowers the sum of digits by 9."""
    return (_digit_sum(a) + _digit_sum(b) - _digit_sum(a + b)) // 9


@dataclass(frozen=True)
class Arithmetic:
    """The task of sums of up to ``digits`` digits. ``padded`` adds leading zeros. Raises BadTask for unsupported options."""

    digits: int = 3
    form: str = "plain"
    balance: str = "both"
    padded: bool = False
    name: str = "arithmetic"

    def __post_init__(self) -> None:
        require_format(self.form)
        if self.balance not in BALANCES:
            raise BadTask(
                f"arithmetic: unknown balance {self.balance!r}{nearest(self.balance, BALANCES)} There are: {', '.join(BALANCES)}."
            )
        if not 1 <= self.digits <= _MOST_DIGITS:
            raise BadTask(f"arithmetic: expected 1 to {_MOST_DIGITS} digits, got {self.digits}")

    def sums(self, generator: np.random.Generator, n: int) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
        """Samples both numbers of n sums.

        With balanced *digits*, the longer number has as many digits as a uniform number below 10^digits (for three digits:
        1 %, 9 % and 90 %), and sums are uniform given that. Otherwise both numbers are uniform below 10^digits. With balanced
        *carries*, each number of carries that a length allows is equally likely, and sums are uniform given it.
        """
        many = _lengths(generator, n, self.digits) if self.balance in ("digits", "both") else np.full(n, self.digits)
        exact = self.balance in ("digits", "both")
        wanted = generator.integers(many + 1) if self.balance in ("carries", "both") else None
        a, b = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
        left = np.arange(n)
        while len(left):
            a[left], b[left] = generator.integers(10 ** many[left]), generator.integers(10 ** many[left])
            right = np.ones(len(left), dtype=bool)
            if exact:
                right &= (np.maximum(a[left], b[left]) >= 10 ** (many[left] - 1)) | (many[left] == 1)
            if wanted is not None:
                right &= carries(a[left], b[left]) == wanted[left]
            left = left[~right]
        return a, b

    def questions(self, generator: np.random.Generator, n: int) -> list[Question]:
        """Samples n sums and gives them in the task's format."""
        width = self.digits if self.padded else 1
        pairs = zip(*(side.tolist() for side in self.sums(generator, n)), strict=True)
        return [question(Sum(a, b, width), self.form) for a, b in pairs]


def require_format(form: str) -> None:
    """Raises BadTask for an unknown format."""
    if form not in FORMATS:
        raise BadTask(f"arithmetic: unknown format {form!r}{nearest(form, FORMATS)} There are: {', '.join(FORMATS)}.")


def _simplified(sum_: Sum) -> Iterator[str]:
    steps = sum_.steps
    for place, (_, _, _, digit, carry) in enumerate(steps, 1):
        yield f"A->{digit} , C->{carry}" + ("." if place == len(steps) else "")
    yield str(sum_.a + sum_.b)


def _detailed(sum_: Sum) -> Iterator[str]:
    a, b = ([int(sign) for sign in side] for side in sum_.operands)
    yield "<scratch>"
    for side in (a, b):
        yield f"{_listed(side)} has {len(side)} digits."
    done: list[int] = []
    for place, (x, y, carry, digit, after) in enumerate(sum_.steps):
        left, right = (side[: max(0, len(side) - place)] for side in (a, b))
        total = x + y + carry
        yield (
            f"{_listed(left)} + {_listed(right)} , A={_listed(done)} , C={carry} , {x}+{y}+{carry}={total} , "
            f"A->{digit} , C->{after}"
        )
        done.insert(0, digit)
    yield f"[] + [] , A={_listed(done)} C={sum_.steps[-1][4]} , END"
    yield "</scratch>"
    yield " ".join(str(sum_.a + sum_.b))


def _listed(digits: list[int]) -> str:
    return "[" + ",".join(map(str, digits)) + "]"


def _padded(a: str, b: str) -> int:
    """The width to which both numbers were padded: the digits of a number with a leading zero, else 1."""
    return max(len(side) if side[0] == "0" else 1 for side in (a, b))


def _digit_sum(x: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    found, rest = np.zeros_like(x), x
    while rest.any():
        found, rest = found + rest % 10, rest // 10
    return found


def _lengths(generator: np.random.Generator, n: int, digits: int) -> Int64[np.ndarray, " n"]:
    """The numbers of digits of n uniform numbers below 10^digits."""
    numbers = generator.integers(10**digits, size=n)
    return sum(((numbers >= 10**power).astype(np.int64) for power in range(1, digits)), np.ones(n, dtype=np.int64))
