"""Prompts with constraints from a JSONL file in IFEval's form.

A line: ``{"key": 1, "prompt": ..., "instruction_id_list": ["punctuation:no_comma", ...], "kwargs": [{}, ...]}``. Other keys are
ignored, and so are arguments that are null.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limbeck.config import nearest
from limbeck.corpora import Document, Prompt
from limbeck.corpora.jsonl import Record
from limbeck.corpora.records import kind
from limbeck.disk import existing, shown
from limbeck.errors import BadTask
from limbeck.probes.constraints.checks import KINDS, RELATIONS, TRAINED
from limbeck.probes.tasks import task_rows

_KEYS = ("prompt", "instruction_id_list", "kwargs")
_RELATION = "relation"  # what arguments of relations end with


@dataclass(frozen=True)
class Constraint:
    """A constraint on an answer: its ``kind``, as IFEval names it, and its arguments."""

    kind: str
    arguments: Mapping[str, Any]

    def follows(self, answer: str) -> bool:
        """Whether an answer follows it. A blank one follows nothing."""
        return bool(answer.strip()) and KINDS[self.kind].follows(answer, **self.arguments)


@dataclass(frozen=True)
class Item:
    """A prompt and the constraints on its answer. ``name``: its key in the file, or its line."""

    name: str
    prompt: str
    constraints: tuple[Constraint, ...]

    def asked(self, *, chat: bool) -> Prompt:
        """The prompt for generation: a conversation for a model that has a chat template, else a text."""
        if chat:
            return Prompt(Document(self.name, messages=[{"role": "user", "content": self.prompt}]))
        return Prompt(Document(self.name, text=self.prompt))


def read_items(path: str | Path) -> tuple[list[Item], int]:
    """(items, number of prompts left out since a constraint of theirs needs something trained) of a file.

    Raises BadTask for a file that does not exist, a faulty line, an unknown kind, or a file without a prompt to check.
    """
    found = existing(path)
    if found is None:
        raise BadTask(
            f"{shown(path)}: expected JSONL prompts with constraints, got a path that does not exist: check it"
        )
    read = [_item(row, f"{path}:{number}") for number, row in task_rows(found)]
    items = [item for item in read if item is not None]
    if not items:
        raise BadTask(
            f"{path}: expected a line {{{', '.join(f'{key!r}: ...' for key in _KEYS)}}} for each prompt whose constraints a "
            f"program can check, got {f'{len(read)} that need something trained' if read else 'none'}"
        )
    return items, len(read) - len(items)


def _item(row: Record, where: str) -> Item | None:
    """The prompt of a line; None where a constraint of it needs something trained."""
    if lacks := [key for key in _KEYS if key not in row]:
        raise BadTask(f"{where}: expected the keys {', '.join(map(repr, _KEYS))}, got none called {lacks[0]!r}: add it")
    prompt, kinds, arguments = (row[key] for key in _KEYS)
    if not isinstance(prompt, str) or not prompt.strip():
        raise BadTask(f"{where}: expected 'prompt' to be a text, got {kind(prompt)}: write one")
    constraints = constraints_of(kinds, arguments, where)
    return None if constraints is None else Item(str(row.get("key", where.rpartition(":")[2])), prompt, constraints)


def constraints_of(kinds: Any, arguments: Any, where: str) -> tuple[Constraint, ...] | None:
    """The constraints of IFEval's ``instruction_id_list`` and ``kwargs``; None where one of them needs something trained.

    Raises BadTask for an unknown kind, or arguments that are not its.
    """
    if not isinstance(kinds, list) or not kinds or not isinstance(arguments, list) or len(kinds) != len(arguments):
        raise BadTask(
            f"{where}: expected 'instruction_id_list' and 'kwargs' to be lists of equal length, got {kind(kinds)} and "
            f"{kind(arguments)}: give each constraint its arguments, or {{}}"
        )
    if any(one in TRAINED for one in kinds if isinstance(one, str)):
        return None
    return tuple(_constraint(name, given, where) for name, given in zip(kinds, arguments, strict=True))


def _constraint(name: Any, given: Any, where: str) -> Constraint:
    if not isinstance(name, str) or name not in KINDS:
        close = nearest(name, KINDS) if isinstance(name, str) else "."
        raise BadTask(f"{where}: unknown constraint {shown(str(name))!r}{close} There are: {', '.join(KINDS)}")
    if not isinstance(given, dict):
        raise BadTask(
            f"{where}: expected the arguments of {name} to be an object, got {kind(given)}: give {{}} for none"
        )
    arguments = {
        key: _argument(key, given.get(key), form, f"{where}: {name}") for key, form in KINDS[name].arguments.items()
    }
    return Constraint(name, arguments)


def _argument(key: str, value: Any, form: type, where: str) -> Any:
    right = isinstance(value, form) and not isinstance(value, bool)
    if form is str:
        right = right and bool(value.strip())
    if form is list:
        right = right and bool(value) and all(isinstance(word, str) and word for word in value)
    if not right:
        wanted = {int: "a whole number", str: "a text", list: "a list of texts"}[form]
        raise BadTask(f"{where}: expected {key!r} to be {wanted}, got {kind(value)}")
    if key.endswith(_RELATION) and value not in RELATIONS:
        raise BadTask(f"{where}: expected {key!r} to be {' or '.join(map(repr, RELATIONS))}, got {kind(value)}")
    return value
