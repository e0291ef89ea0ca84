"""Synthetic tasks by name. Each samples rows with questions from a seed. `synthetic.SyntheticCorpus` makes a task a corpus.

A name may set options: "mqar", "mqar:pairs=4,variant=forgetting", "arithmetic:form=reverse". Arithmetic and chains give text,
which needs a tokenizer (`spelled.Spelled`). mqar, induction, reversal and listops give tokens.

    >>> from limbeck.corpora.tasks import task_of
    >>> from limbeck.corpora.tasks.synthetic import SyntheticCorpus
    >>> batch = SyntheticCorpus(task_of("mqar:vocab=64,length=32,pairs=4"), seed=0).take(8)
    >>> batch.tokens.shape, int(batch.weight.sum())
    (torch.Size([8, 32]), 32)
"""

from __future__ import annotations

from dataclasses import fields
from importlib import import_module
from typing import Any

from limbeck.config import nearest
from limbeck.errors import BadTask

TASKS = {
    "mqar": "MQAR",
    "induction": "Induction",
    "reversal": "Reversal",
    "arithmetic": "Arithmetic",
    "chains": "Chains",
    "listops": "ListOps",
}


def task_of(text: str) -> Any:
    """The task that a text names, with its options. Raises BadTask for unknown names, options and values."""
    name, _, given = text.partition(":")
    if name not in TASKS:
        raise BadTask(f"unknown task {name!r}{nearest(name, TASKS)} There are: {', '.join(TASKS)}.")
    kind = getattr(import_module(f"limbeck.corpora.tasks.{name}"), TASKS[name])
    defaults = {field.name: field.default for field in fields(kind) if field.name != "name"}
    options = dict(_option(text, part, defaults) for part in given.split(",") if given)
    return kind(**options)


def _option(text: str, part: str, defaults: dict[str, Any]) -> tuple[str, Any]:
    key, equals, value = part.partition("=")
    if not equals or key not in defaults:
        raise BadTask(
            f"{text!r}: unknown option {key!r}{nearest(key, defaults)} It takes: {', '.join(defaults)}, as OPTION=VALUE."
        )
    kind = type(defaults[key])
    try:
        if kind is bool:
            return key, {"true": True, "false": False}[value]
        return key, kind(value)
    except (ValueError, KeyError):
        raise BadTask(f"{text!r}: expected {key} to be such as {defaults[key]!r}, got {value!r}") from None
