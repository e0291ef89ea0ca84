"""Random prompts with constraints that one answer can follow, since one is made for each before it is given.

A prompt has a request and some constraints of different families, in a random order. Equal seeds give equal prompts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from limbeck.config import nearest
from limbeck.corpora.tasks.constraints.answers import answer_to
from limbeck.corpora.tasks.constraints.constraint import Constraint
from limbeck.corpora.tasks.constraints.drawn import Asked, draw_arguments
from limbeck.corpora.tasks.constraints.families import FAMILIES
from limbeck.corpora.tasks.constraints.measures import CASED
from limbeck.corpora.tasks.constraints.vocabulary import LATIN, REQUESTS, TOPICS, WORDS
from limbeck.corpora.tasks.constraints.worded import worded
from limbeck.errors import BadTask

_OTHERS = tuple(script for script in WORDS if script != LATIN)
_USUAL = 3  # constraints of a prompt at most
_TRIES = 200  # prompts in a row that are there already, or whose constraints no answer was found for
_APART = {  # families of which a prompt has one
    frozenset(pair)
    for pair in (
        *(("json", family) for family in ("bullets", "sections", "starts", "ends", "repeat", "language")),
        *(("language", family) for family in ("sections", "repeat")),
        ("starts", "repeat"),
    )
}


@dataclass(frozen=True)
class Drawn:
    """A prompt and its constraints, with an answer without sense that follows them all."""

    prompt: str
    constraints: tuple[Constraint, ...]
    answer: str

    def record(self, key: int) -> dict[str, Any]:
        """The record of a file, without the answer, which is no text to learn."""
        return {
            "key": key,
            "prompt": self.prompt,
            "instruction_id_list": [one.kind for one in self.constraints],
            "kwargs": [dict(one.arguments) for one in self.constraints],
        }


def draw_prompts(
    families: Sequence[str] = tuple(FAMILIES), difficulty: tuple[int, int] | None = None, seed: int = 0
) -> Iterator[Drawn]:
    """Different prompts without an end, each with as many constraints as ``difficulty`` has from, and to, at random.

    Without a difficulty they have 1 to 3, or fewer where these families allow no more in one prompt.

    Raises BadTask for an unknown family, for a difficulty that these families do not reach together, and when there are no more
    different prompts.
    """
    difficulty = _checked(families, difficulty)
    generator, seen, tries = np.random.default_rng(seed), set[str](), 0
    while True:
        drawn = _drawn(families, difficulty, generator)
        tries += 1
        if drawn is not None and drawn.prompt not in seen:
            seen.add(drawn.prompt)
            tries = 0
            yield drawn
        if tries == _TRIES:
            raise BadTask(
                f"{len(seen):,} prompts are all that were found with {_shown(difficulty)} of the families {', '.join(families)}: "
                "give more families, or ask for fewer prompts"
            )


def _checked(families: Sequence[str], difficulty: tuple[int, int] | None) -> tuple[int, int]:
    """The difficulty. Raises BadTask for families and a difficulty that no prompt has."""
    for family in families:
        if family not in FAMILIES:
            raise BadTask(f"unknown family {family!r}{nearest(family, FAMILIES)} There are: {', '.join(FAMILIES)}.")
    distinct = tuple(dict.fromkeys(families))
    largest = _largest(distinct)
    least, most = difficulty or (1, min(_USUAL, max(1, largest)))
    if not 1 <= least <= most:
        raise BadTask(f"expected a difficulty of 1 constraint or more, the smaller number first, got {least}..{most}")
    if most > largest:
        pairs = [f"{one} and {other}" for one, other in combinations(distinct, 2) if {one, other} in _APART]
        raise BadTask(
            f"difficulty {most}: expected at most {largest}, since a prompt has a family once"
            + (f", and never both {'; '.join(pairs)}" if pairs else "")
            + f", and the families are {', '.join(distinct) or 'none'}: give more families, or a smaller difficulty"
        )
    return least, most


def _shown(difficulty: tuple[int, int]) -> str:
    least, most = difficulty
    return f"{least} constraint{'s' * (least > 1)}" if least == most else f"{least} to {most} constraints"


def _largest(families: Sequence[str]) -> int:
    """How many of the families one prompt can have."""
    apart = [family for family in families if any(family in pair for pair in _APART)]
    free = len(families) - len(apart)
    sets = (set(some) for number in range(len(apart), -1, -1) for some in combinations(apart, number))
    return free + next(len(some) for some in sets if not any(pair <= some for pair in _APART))


def _drawn(families: Sequence[str], difficulty: tuple[int, int], generator: np.random.Generator) -> Drawn | None:
    """A prompt; None where no answer was found to its constraints."""
    number = int(generator.integers(difficulty[0], difficulty[1] + 1))
    chosen: list[str] = []
    distinct = tuple(dict.fromkeys(families))
    for place in generator.permutation(len(distinct)):
        family = distinct[int(place)]
        if len(chosen) < number and not any({family, other} in _APART for other in chosen):
            chosen.append(family)
    if len(chosen) < number:
        return None
    script = LATIN
    if "language" in chosen:
        script = _one(generator, tuple(one for one in _OTHERS if "case" not in chosen or one in CASED))
    asked = Asked(_one(generator, REQUESTS).format(_one(generator, TOPICS)), script, tuple(chosen))
    constraints = tuple(Constraint(family, draw_arguments(family, asked, generator)) for family in chosen)
    answer = answer_to(constraints, generator)
    return None if answer is None else Drawn(" ".join((asked.request, *map(worded, constraints))), constraints, answer)


def _one(generator: np.random.Generator, among: Sequence[str]) -> str:
    return among[int(generator.integers(len(among)))]
