"""A constraint on an answer, and the reading of constraints from a record: limbeck's families and kinds of IFEval.

A record has the form of IFEval's file: ``{"prompt": ..., "instruction_id_list": ["length", "punctuation:no_comma"], "kwargs":
[{"unit": "words", "at_most": 50}, {}]}``. Names without a colon are limbeck's families.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from limbeck.config import nearest
from limbeck.corpora.records import kind
from limbeck.corpora.tasks.constraints.contradictions import contradiction
from limbeck.corpora.tasks.constraints.families import FAMILIES
from limbeck.corpora.tasks.constraints.ifeval import IFEVAL, TRAINED
from limbeck.corpora.tasks.constraints.kind import Kind
from limbeck.disk import shown
from limbeck.errors import BadTask

KINDS: Mapping[str, Kind] = {**FAMILIES, **IFEVAL}
_WANTED = {int: "a whole number", str: "a text", list: "a list of texts"}


@dataclass(frozen=True)
class Constraint:
    """A constraint on an answer: its ``kind``, a family's name or IFEval's, and its arguments."""

    kind: str
    arguments: Mapping[str, Any]

    def follows(self, answer: str) -> bool:
        """Whether an answer follows it. A blank one follows nothing."""
        return bool(answer.strip()) and KINDS[self.kind].follows(answer, **self.arguments)

    def __str__(self) -> str:
        given = ", ".join(f"{key}={value!r}" for key, value in self.arguments.items())
        return f"{self.kind} ({given})" if given else self.kind


def constraints_of(kinds: Any, arguments: Any, where: str) -> tuple[Constraint, ...] | None:
    """The constraints of a record's ``instruction_id_list`` and ``kwargs``; None where one of them needs something trained.

    Raises BadTask for an unknown kind, arguments that are not its, and two constraints that contradict one another.
    """
    if not isinstance(kinds, list) or not kinds or not isinstance(arguments, list) or len(kinds) != len(arguments):
        raise BadTask(
            f"{where}: expected 'instruction_id_list' and 'kwargs' to be lists of equal length, got {kind(kinds)} and "
            f"{kind(arguments)}: give each constraint its arguments, or {{}}"
        )
    if trained_of(kinds):
        return None
    found = tuple(_constraint(name, given, where) for name, given in zip(kinds, arguments, strict=True))
    for one, other in combinations(found, 2):
        if why := contradiction(one.kind, one.arguments, other.kind, other.arguments):
            raise BadTask(f"{where}: {one} and {other} contradict one another, {why}: change or remove one of the two")
    return found


def trained_of(kinds: list[Any]) -> list[str]:
    """Those of a record's kinds that need something trained, which limbeck does not have."""
    return [name for name in kinds if isinstance(name, str) and name in TRAINED]


def _constraint(name: Any, given: Any, where: str) -> Constraint:
    if not isinstance(name, str) or name not in KINDS:
        close = nearest(name, KINDS) if isinstance(name, str) else "."
        raise BadTask(f"{where}: unknown constraint {shown(str(name))!r}{close} There are: {', '.join(KINDS)}")
    if not isinstance(given, dict):
        raise BadTask(
            f"{where}: expected the arguments of {name} to be an object, got {kind(given)}: give {{}} for none"
        )
    of, place = KINDS[name], f"{where}: {name}"
    there = {key: value for key, value in given.items() if value is not None}
    known = {**of.arguments, **of.optional}
    if unknown := [key for key in there if key not in known]:
        takes = f"It takes: {', '.join(known)}" if known else "It takes none"
        raise BadTask(f"{place}: unknown argument {shown(str(unknown[0]))!r}{nearest(unknown[0], known)} {takes}")
    arguments = {
        key: _argument(key, there.get(key), form, of.choices.get(key, ()), place)
        for key, form in known.items()
        if key in there or key in of.arguments
    }
    if fault := of.fault(**arguments):
        raise BadTask(f"{place}: {fault}")
    return Constraint(name, arguments)


def _argument(key: str, value: Any, form: type, choices: tuple[str, ...], where: str) -> Any:
    right = isinstance(value, form) and not isinstance(value, bool)
    if form is str:
        right = right and bool(value.strip())
    if form is list:
        right = right and bool(value) and all(isinstance(word, str) and word.strip() for word in value)
    if not right:
        raise BadTask(f"{where}: expected {key!r} to be {_WANTED[form]}, got {kind(value)}")
    if choices and value not in choices:
        raise BadTask(f"{where}: expected {key!r} to be {' or '.join(map(repr, choices))}, got {kind(value)}")
    return value
