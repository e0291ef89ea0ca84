"""Random arguments of each family, as a user would ask for: numbers that a short answer can have, common words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from limbeck.corpora.tasks.constraints.vocabulary import ENDS, KEYS, LATIN, MARKERS, RARE, STARTS, WORDS

Arguments = dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """What a prompt asks for before its constraints: the request, the script of an answer, and all families of constraints."""

    request: str
    script: str
    families: tuple[str, ...]

    @property
    def words(self) -> tuple[str, ...]:
        """Words of the script."""
        return WORDS[self.script]

    @property
    def is_latin(self) -> bool:
        """Whether words are English."""
        return self.script == LATIN


def draw_arguments(family: str, asked: Asked, generator: np.random.Generator) -> Arguments:
    """Arguments of a constraint of a family."""
    return _DRAW[family](generator, asked)


def _one(generator: np.random.Generator, among: Sequence[str]) -> str:
    return among[int(generator.integers(len(among)))]


def _some(generator: np.random.Generator, among: Sequence[str], least: int, most: int) -> list[str]:
    number = int(generator.integers(least, most + 1))
    return [among[place] for place in generator.choice(len(among), size=number, replace=False)]


_LEAST, _MOST, _BETWEEN, _EXACT = range(4)  # forms of bounds
_ANY = (_LEAST, _MOST, _BETWEEN, _EXACT)
_ONE_OR_MORE = (_LEAST, _BETWEEN, _EXACT)  # of what answers lack where it is not asked for: most have at most some


def _bounds(generator: np.random.Generator, least: int, most: int, forms: Sequence[int] = _ANY) -> Arguments:
    """Bounds around numbers from ``least`` to ``most``."""
    low, high = sorted(int(number) for number in generator.integers(least, most + 1, size=2))
    form = forms[int(generator.integers(len(forms)))]
    if form == _LEAST:
        return {"at_least": low}
    if form == _MOST:
        return {"at_most": high}
    return {"at_least": low, "at_most": low if form == _EXACT else max(high, low + 1)}


_LENGTHS = {"words": (10, 120, (_LEAST, _MOST, _BETWEEN)), "sentences": (2, 8, _ANY), "paragraphs": (2, 4, _ANY)}


def _length(generator: np.random.Generator, asked: Asked) -> Arguments:
    unit = "words" if "json" in asked.families else _one(generator, tuple(_LENGTHS))
    return {"unit": unit, **_bounds(generator, *_LENGTHS[unit])}


def _count(generator: np.random.Generator, asked: Asked) -> Arguments:
    text = _one(generator, ("!", "?", *(RARE if asked.is_latin else ())))
    return {"text": text, **_bounds(generator, 1, 4)}


def _lacks(generator: np.random.Generator, asked: Asked) -> Arguments:
    return {"texts": _some(generator, (",", "!", *(RARE if asked.is_latin else ("?",))), 1, 2)}


def _opening(generator: np.random.Generator, asked: Asked) -> Arguments:
    return {"text": _one(generator, STARTS) if asked.is_latin else " ".join(_some(generator, asked.words, 2, 2))}


def _closing(generator: np.random.Generator, asked: Asked) -> Arguments:
    return {"text": _one(generator, ENDS) if asked.is_latin else " ".join(_some(generator, asked.words, 2, 2)) + "."}


_DRAW: Mapping[str, Callable[[np.random.Generator, Asked], Arguments]] = {
    "length": _length,
    "count": _count,
    "contains": lambda generator, asked: {"words": _some(generator, asked.words, 1, 3)},
    "lacks": _lacks,
    "starts": _opening,
    "ends": _closing,
    "case": lambda generator, asked: {"case": _one(generator, ("upper", "lower"))},
    "bullets": lambda generator, asked: _bounds(generator, 2, 6, _ONE_OR_MORE),
    "json": lambda generator, asked: {"keys": _some(generator, KEYS, 1, 3)} if generator.integers(2) else {},
    "sections": lambda generator, asked: {
        "marker": _one(generator, MARKERS),
        **_bounds(generator, 2, 4, _ONE_OR_MORE),
    },
    "forbidden": lambda generator, asked: {"words": _some(generator, asked.words, 1, 3)},
    "frequency": lambda generator, asked: {
        "word": _one(generator, asked.words),
        **_bounds(generator, 1, 4, _ONE_OR_MORE),
    },
    "language": lambda generator, asked: {"script": asked.script},
    "order": lambda generator, asked: {"words": _some(generator, asked.words, 2, 3)},
    "repeat": lambda generator, asked: {"text": asked.request},
}
