"""The final answer of a completion that explains itself, and whether it is the known one; text is parsed, never executed.

Completions of a chat model give an answer in a sentence, or after a derivation. It is looked for where benchmarks of arithmetic
have it: in the last ``\\boxed{...}`` (MATH), after the last ``####`` (GSM8K), after the last "answer is" or "answer:". Without
these it is the last number of the text, if a number is known, else the whole text. Numbers are compared by value, other answers
by their words, without case; formulas that are equal and written in another way are not recognised.

A number is no part of a fraction, a power, a product, a range, a time or a date, and its commas separate thousands. Signs of
currency and percent may be at it without a space (3 %, 3% and $3 are 3), words only after one: "3 kg" is 3, while 3kg is none, as
3x is none. A box is a number if that is all it has, but for one "x =" before it and a unit after it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation

_BOX = "\\boxed{"
_MARKS = re.compile(r"####|\banswer(?:\s+is\b|\s*:)\s*:?", re.IGNORECASE)
_DIGITS = r"[-+]?(?:(?:[1-9]\d{0,2}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)(?:e[-+]?\d+)?"
# What follows a part of something else
_GOES_ON = r"\w|/|\^(?!\{?\\circ)|\s*/\s*\d|\s+\d+/\d|[-.,:+*×·]\d|\\(?!text|mathrm|circ|quad)[a-z]"
_NUMBER = re.compile(rf"(?<![\w./{{])({_DIGITS})(?!{_GOES_ON})", re.IGNORECASE)
_EITHER = re.compile(rf"{_NUMBER.pattern}|(?<!\w)\.?\d[^\s=]*", re.IGNORECASE)  # or what is none
_SPACE, _DEGREE, _MARKED = r"(?:\s|\\[,;! ])", r"\^?\{?\\circ\}?", r"\\(?:text|mathrm)\s*\{[^{}\d]*\}"
_UNIT = rf"{_SPACE}*(?:\\?%|°|{_DEGREE}|(?:{_MARKED}|(?<=\s)[^\W\d_][^\d=+*/^\\<>,;:]*)(?:\^\{{?[23]\}}?)?)?"
_IN_A_BOX = re.compile(rf"\$?(?:[a-z]\w*\s*=\s*)?(?:\\?\$|[€£])?({_DIGITS}){_UNIT}[.$\s]*", re.IGNORECASE)
_AROUND = " \t\r\n$*`'\".,;:!"  # what may stand around an answer
_LONGEST = 40  # digits of a number, so that none of a text takes long to read


def matches_final(text: str, answers: Sequence[str]) -> bool:
    """Whether the final answer of a text is one of the known ``answers``, which may be worked ones themselves.

    A blank text is none.
    """
    return bool(text.strip()) and any(_matches(text, answer) for answer in answers)


def matches_after(mark: str, text: str, answers: Sequence[str]) -> bool:
    """Whether what follows the last ``mark`` of a text is one of the known ``answers``; without it, whether its final answer is.

    What follows is read as after ``####``.
    """
    _, found, rest = text.rpartition(mark)
    return matches_final(f"#### {rest.strip()}" if found else text, answers)


def stated_at(text: str, answer: str) -> int | None:
    """Where a text states an answer first, as words of its own or as a number of the same value; None where it does not.

    Words are compared without case. Numbers in words ("twelve") and formulas written in another way are not recognised.
    """
    value = _number(answer)
    words = (answer if value is not None else answer.strip(_AROUND) or answer).split()
    if not words:
        return None
    spelt = r"\s+".join(map(re.escape, words))
    found = re.search(rf"(?<![\w.]){spelt}(?!\w|[.,]\d)", text, re.IGNORECASE)
    places = [] if value is None else [place for place, number in _numbers(text) if number == value]
    return min([*places, *([] if found is None else [found.start()])], default=None)


def final_answer(text: str) -> str | None:
    """What a text marks as its final answer, None where it marks nothing."""
    found = split_final(text)
    return None if found is None else found[2]


def split_final(text: str) -> tuple[str, str, str] | None:
    """(what comes before the mark of the final answer, the mark with the space after it, the answer); None without a mark."""
    boxed = _boxed(text)
    if boxed is not None:
        return text[: text.rfind(_BOX)], _BOX, boxed
    marks = list(_MARKS.finditer(text))
    if not marks:
        return None
    start, end = marks[-1].span()
    rest = text[end:]
    end += len(rest) - len(rest.lstrip())
    return text[:start], text[start:end], rest.strip().split("\n", 1)[0].strip()


def _matches(text: str, answer: str) -> bool:
    text, answer = (one.replace("\N{MINUS SIGN}", "-") for one in (text, answer))
    known = final_answer(answer)
    known = answer if known is None else known
    found, value = final_answer(text), _number(known)
    if value is None:
        return _plain(text if found is None else found) == _plain(known)
    boxed = _boxed(text)
    if boxed is not None:
        return _in_a_box(boxed) == value
    numbers = [number for _, number in _numbers(text if found is None else found)]
    # "The answer is 42 because 6 times 7 is 42": after a mark the first number counts, in a whole text the last
    return bool(numbers) and numbers[-1 if found is None else 0] == value


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
    bare = _bare(text).removeprefix("€").removesuffix("%").removesuffix("\\")
    found = _NUMBER.fullmatch(_bare(bare))
    return None if found is None else _value(found[1])


def _bare(text: str) -> str:
    """A text without what may stand around a number, which may begin with a point."""
    return text.lstrip(_AROUND.replace(".", "")).rstrip(_AROUND)


def _in_a_box(text: str) -> Decimal | None:
    """The value of a box that has one number alone; None for any other."""
    found = _IN_A_BOX.fullmatch(text.strip().replace("{,}", ","))  # as LaTeX sets a comma without a space
    return None if found is None else _value(found[1])


def _numbers(text: str) -> list[tuple[int, Decimal | None]]:
    """Places and values of what begins with a digit; None for what is no number."""
    return [(found.start(), _value(found[1]) if found[1] else None) for found in _EITHER.finditer(text)]


def _value(text: str) -> Decimal | None:
    if len(text) > _LONGEST:
        return None
    try:
        return Decimal(text.replace(",", ""))
    except InvalidOperation:
        return None
