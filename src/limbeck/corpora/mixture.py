"""Weighted mixtures of sources, in stages: how many of the tokens that a training reads are of each source.

``a.jsonl:0.7,hf:b:0.3`` is a mixture of two. Weights are relative, so ``a.jsonl:70M,hf:b:30M`` is the same. Further stages follow
behind ``;``, each with when it begins: a share of the training such as ``0.5:``, or ``annealed:``, where the learning rate begins
to fall at the end. Sources may have names, ``math=a.jsonl:0.7,code=b.jsonl:0.3``, by which each has its teacher (`unnamed`).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from limbeck.corpora.source import SOURCES
from limbeck.disk import existing, shown
from limbeck.errors import BadCorpus

ANNEALED: Literal["annealed"] = "annealed"
When = float | Literal["annealed"]

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}
_NAME = re.compile(r"([A-Za-z][\w-]*)=(.*)", re.DOTALL)
_NUMBER = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?|[+-]?inf|nan)([kmbt]?)\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Stage:
    """The share of each source from a part of the training on. The shares of a stage have the sum 1."""

    begins: When
    shares: tuple[float, ...]


@dataclass(frozen=True)
class Mixture:
    """Sources with their shares of the tokens of a training. The first stage begins at 0."""

    sources: tuple[str, ...]
    stages: tuple[Stage, ...]

    @classmethod
    def of(cls, text: str) -> Mixture | None:
        """The mixture that a value of --data is, None for sources without weights.

        Raises BadCorpus for weights that are no numbers, negative or all 0, for a source without one, and for stages without
        their order.
        """
        if existing(text):
            return None
        written = text.split(";")
        first = [_weighted(piece) for piece in written[0].split(",")]
        if len(written) == 1 and all(weight is None for _, weight in first):
            return None
        heads = [_headed(stage) for stage in written[1:]]
        begins: list[When] = [0.0, *(when for when, _ in heads)]
        stages = [_stage(first), *(_stage([_weighted(piece) for piece in rest.split(",")]) for _, rest in heads)]
        _check_order(begins)
        sources = tuple(dict.fromkeys(source for stage in stages for source in stage))
        for source in sources:
            if not any(stage.get(source) for stage in stages):
                raise BadCorpus(
                    f"{shown(source)}: has the weight 0 wherever it is named: leave it out, or give it a weight"
                )
        shares = [_shares(stage, sources) for stage in stages]
        return cls(sources, tuple(Stage(*both) for both in zip(begins, shares, strict=True)))

    def budgets(self, tokens: int, annealed: float | None) -> list[int]:
        """The tokens of each source in a training of ``tokens`` tokens; ``annealed``: the share at which that stage begins."""
        begins = [*self.begins(annealed), 1.0]
        return [
            math.ceil(sum(tokens * (end - begin) * stage.shares[i] for begin, end, stage in self._spans(begins)))
            for i in range(len(self.sources))
        ]

    def begins(self, annealed: float | None) -> list[float]:
        """The share of the training at which each stage begins.

        Raises BadCorpus where a stage is "annealed" and the learning rate has no such end (``annealed`` is None), or one before
        it begins later.
        """
        found = []
        for stage in self.stages:
            begin = annealed if stage.begins == ANNEALED else stage.begins
            if begin is None:
                raise BadCorpus(
                    f"--data: the stage {ANNEALED!r} begins where the learning rate begins to fall at the end, and this schedule "
                    "has no such place: give --schedule wsd, or when the stage begins, such as 0.8"
                )
            found.append(float(begin))
        if found != sorted(set(found)):
            raise BadCorpus(
                f"--data: the learning rate begins to fall at {found[-1]:g} of the training, before the stage at {found[-2]:g} "
                "begins: let that one begin earlier"
            )
        return found

    def _spans(self, begins: list[float]) -> list[tuple[float, float, Stage]]:
        return list(zip(begins, begins[1:], self.stages, strict=False))


def plain(text: str) -> str:
    """The sources of a value of --data without their weights, as a value of --data."""
    mixture = Mixture.of(text)
    return text if mixture is None else ",".join(mixture.sources)


def unnamed(text: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    """A value of --data without the names of its sources, and (name, source) of each, in the order of `Mixture.sources`.

    A source without a name has the name "". Named sources without weights have equal ones. Raises BadCorpus as `Mixture.of`, and
    for a source with two names.
    """
    if existing(text):
        return text, (("", text),)
    named: dict[str, str] = {}
    written = []
    for number, stage in enumerate(text.split(";")):
        head, colon, rest = stage.partition(":") if number else ("", "", stage)
        pieces = []
        for piece in map(str.strip, rest.split(",")):
            match = None if existing(piece) else _NAME.fullmatch(piece)
            name, plainly = ("", piece) if match is None else (match[1], match[2].strip())
            source = _weighted(plainly)[0]
            if named.setdefault(source, name) != name:
                names = " and ".join(f"the name {one!r}" if one else "no name" for one in (named[source], name))
                raise BadCorpus(f"{shown(source)}: has {names}: give it one name, everywhere in --data")
            pieces.append(plainly)
        written.append(f"{head}{colon}{','.join(pieces)}")
    plainly = ";".join(written)
    if any(named.values()) and Mixture.of(plainly) is None:
        plainly = ",".join(f"{source}:1" for source in named)
    mixture = Mixture.of(plainly)
    sources = tuple(named) if mixture is None else mixture.sources
    return plainly, tuple((named[source], source) for source in sources)


def _weighted(piece: str) -> tuple[str, float | None]:
    """(source, weight) of one piece; the weight is None where there is none."""
    piece = piece.strip()
    source, colon, weight = piece.rpartition(":")
    if not colon or existing(piece) or source in SOURCES or ("://" in piece and "/" not in source.partition("://")[2]):
        return piece, None
    match = _NUMBER.fullmatch(weight)
    if match is None:
        if (path := existing(source)) and path.is_file():
            raise BadCorpus(
                f"{shown(source)}: expected a weight behind the colon, a number such as 0.7 or 2M, got {shown(weight)!r}"
            )
        return piece, None
    value = float(match[1]) * _UNITS[match[2].lower()]
    if not math.isfinite(value) or value < 0:
        raise BadCorpus(f"{shown(source)}: expected a weight of 0 or more, got {weight.strip()}")
    return source, value


def _headed(stage: str) -> tuple[When, str]:
    """(when a later stage begins, its sources)."""
    head, colon, rest = stage.partition(":")
    match, head = _NUMBER.fullmatch(head), head.strip()
    if colon and head.lower() == ANNEALED:
        return ANNEALED, rest
    if not colon or match is None or match[2] or not 0 < float(match[1]) < 1:
        raise BadCorpus(
            f"--data: expected a stage behind ; to open with when it begins, a share of the training such as 0.8: or "
            f"{ANNEALED}:, got {shown(stage.strip())!r}"
        )
    return float(match[1]), rest


def _stage(pieces: list[tuple[str, float | None]]) -> dict[str, float]:
    """The weight of each source of a stage."""
    found: dict[str, float] = {}
    for source, weight in pieces:
        if not source:
            raise BadCorpus(
                "--data: expected a source with its weight, got nothing: write at least one, and nothing between commas"
            )
        if weight is None:
            raise BadCorpus(
                f"{shown(source)}: expected a weight behind each source, such as {shown(source)}:0.3, got none, as others have"
            )
        if source in found:
            raise BadCorpus(f"{shown(source)}: is named twice in one stage: add its weights")
        found[source] = weight
    if not sum(found.values()):
        raise BadCorpus(
            "--data: the weights of a stage are all 0, so it would read nothing: give one of its sources a weight"
        )
    return found


def _shares(stage: dict[str, float], sources: tuple[str, ...]) -> tuple[float, ...]:
    total = math.fsum(stage.values())
    return tuple(stage.get(source, 0.0) / total for source in sources)


def _check_order(begins: list[When]) -> None:
    numbers = [begin for begin in begins if not isinstance(begin, str)]
    if numbers != sorted(set(numbers)) or ANNEALED in begins[:-1]:
        raise BadCorpus(
            f"--data: expected stages in the order in which they begin, {ANNEALED} last, got {', '.join(map(str, begins[1:]))}"
        )
