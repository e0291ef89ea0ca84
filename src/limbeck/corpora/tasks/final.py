"""The final answer of a completion that explains itself, and whether it is the known one; text is parsed, never executed.

Completions of a chat model give an answer in a sentence, or after a derivation. It is looked for where benchmarks of arithmetic
have it: in the last ``\\boxed{...}`` (MATH), after the last ``####`` (GSM8K), after the last "answer is" or "answer:". Without
these it is the last number of the text, if a number is known, else the whole text. Numbers are compared by value, other answers
by their words, without case; formulas that are equal and written in another way are not recognised.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation

_BOX = "\\boxed{"
_MARKS = re.compile(r"####|\banswer(?:\s+is\b|\s*:)\s*:?", re.IGNORECASE)
_NUMBER = re.compile(r"(?<![\w./])[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?(?![\w/])", re.IGNORECASE)
_AROUND = " \t\r\n$*`'\".,;:!"  # what may stand around an answer
_LONGEST = 40  # digits of a number, so that none of a text takes long to read


def matches_final(text: str, answers: Sequence[str]) -> bool:
    """Whether the final answer of a text is one of the known ``answers``, which may be worked ones themselves.

    A blank text is none.
    """
    return bool(text.strip()) and any(_matches(text, answer) for answer in answers)


def final_answer(text: str) -> str | None:
    """What a text marks as its final answer, None where it marks nothing."""
    boxed = _boxed(text)
    if boxed is not None:
        return boxed
    marks = list(_MARKS.finditer(text))
    if not marks:
        return None
    rest = text[marks[-1].end() :].strip()
    return rest.split("\n", 1)[0].strip()


def _matches(text: str, answer: str) -> bool:
    known = final_answer(answer)
    known = answer if known is None else known
    found, value = final_answer(text), _number(known)
    if value is None:
        return _plain(text if found is None else found) == _plain(known)
    numbers = _numbers(text if found is None else found)
    if not numbers:
        return False
    # "The answer is 42 because 6 times 7 is 42": after a mark the first number counts, in a whole text the last
    return numbers[-1 if found is None else 0] == value


def _boxed(text: str) -> str | None:
    """What stands in the last box, whose braces are balanced; None without one."""
    start = text.rfind(_BOX)
    depth, first = 1, start + len(_BOX)
    for place in range(first, len(text)) if start >= 0 else ():
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if not depth:
            return text[first:place]
    return None


def _plain(text: str) -> str:
    """A text without case, and without what may stand around an answer."""
    return " ".join(text.strip(_AROUND).casefold().split())


def _number(text: str) -> Decimal | None:
    """The value of a text that is a number and nothing else, with a sign of currency or percent at most."""
    bare = text.strip(_AROUND).removeprefix("€").removesuffix("%").removesuffix("\\").strip(_AROUND)
    found = _NUMBER.fullmatch(bare)
    return None if found is None else _value(found[0])


def _numbers(text: str) -> list[Decimal]:
    values = (_value(found[0]) for found in _NUMBER.finditer(text))
    return [value for value in values if value is not None]


def _value(text: str) -> Decimal | None:
    if len(text) > _LONGEST:
        return None
    try:
        return Decimal(text.replace(",", ""))
    except InvalidOperation:
        return None
