"""Prompts with constraints from a JSONL file: IFEval's, or one that `limbeck constraints write` made.

A line: ``{"key": 1, "prompt": ..., "instruction_id_list": ["punctuation:no_comma", ...], "kwargs": [{}, ...]}``. Other keys are
ignored, and so are arguments that are null.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from limbeck.corpora import Document, Prompt
from limbeck.corpora.jsonl import Record
from limbeck.corpora.records import kind
from limbeck.corpora.tasks.constraints import Constraint, constraints_of, trained_of
from limbeck.corpora.tasks.constraints.ifeval import TRAINED
from limbeck.disk import existing, shown
from limbeck.errors import BadTask
from limbeck.probes.tasks import task_rows

_KEYS = ("prompt", "instruction_id_list", "kwargs")


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


@dataclass(frozen=True)
class Prompts:
    """The prompts of a file that a program can check, and how many it ``left_out``.

    ``trained``: how often each kind of constraint stands in the file that needs something trained, which leaves its prompt out.
    """

    items: tuple[Item, ...]
    left_out: int
    trained: Mapping[str, int]

    def __str__(self) -> str:
        whole = len(self.items) + self.left_out
        supported = f"constraints of {len(self.items):,} of {whole:,} prompts ({100 * len(self.items) / whole:.0f} %) are checked"
        if not self.left_out:
            return supported
        kinds = ", ".join(f"{TRAINED[kind]} for {number:,} {kind}" for kind, number in self.trained.items())
        return f"{supported}; {self.left_out:,} are left out, which need what limbeck does not have: {kinds}"


def read_items(path: str | Path) -> Prompts:
    """The prompts with constraints of a file.

    Raises BadTask for a file that does not exist, a faulty line, an unknown kind, or a file without a prompt to check.
    """
    found = existing(path)
    if found is None:
        raise BadTask(
            f"{shown(path)}: expected JSONL prompts with constraints, got a path that does not exist: check it"
        )
    items, trained, left_out = list[Item](), Counter[str](), 0
    for number, row in task_rows(found):
        item = _item(row, f"{path}:{number}")
        if item is None:
            left_out += 1
            trained.update(trained_of(row["instruction_id_list"]))
        else:
            items.append(item)
    if not items:
        raise BadTask(
            f"{path}: expected a line {{{', '.join(f'{key!r}: ...' for key in _KEYS)}}} for each prompt whose constraints a "
            f"program can check, got {f'{left_out} that need something trained' if left_out else 'none'}"
        )
    return Prompts(tuple(items), left_out, dict(trained.most_common()))


def _item(row: Record, where: str) -> Item | None:
    """The prompt of a line; None where a constraint of it needs something trained."""
    if lacks := [key for key in _KEYS if key not in row]:
        raise BadTask(f"{where}: expected the keys {', '.join(map(repr, _KEYS))}, got none called {lacks[0]!r}: add it")
    prompt, kinds, arguments = (row[key] for key in _KEYS)
    if not isinstance(prompt, str) or not prompt.strip():
        raise BadTask(f"{where}: expected 'prompt' to be a text, got {kind(prompt)}: write one")
    constraints = constraints_of(kinds, arguments, where)
    return None if constraints is None else Item(str(row.get("key", where.rpartition(":")[2])), prompt, constraints)
