"""The check of a prompt's completions, from the fields of its record: a known answer, constraints of IFEval's kind, or both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from limbeck.corpora import Prompt
from limbeck.corpora.records import kind
from limbeck.corpora.tasks.checked import Checked
from limbeck.corpora.tasks.final import matches_final
from limbeck.errors import BadTask
from limbeck.probes.constraints.items import Constraint, constraints_of

_ANSWER = "answer"
_KINDS, _ARGUMENTS = "instruction_id_list", "kwargs"  # of IFEval


def checked_of(prompt: Prompt) -> Checked | None:
    """The check of completions of a prompt; None where its record has none, or one that needs something trained.

    A completion that was cut off passes no check. Raises BadTask for fields that say no check.
    """
    fields = prompt.document.checked_by or {}
    answers = _answers(fields, prompt.name) if _ANSWER in fields else ()
    constraints: tuple[Constraint, ...] | None = ()
    if _KINDS in fields:
        constraints = constraints_of(fields[_KINDS], fields.get(_ARGUMENTS), prompt.name)
    if constraints is None or not (answers or constraints):
        return None
    followed = constraints

    def check(text: str) -> tuple[bool, ...]:
        right = [matches_final(text, answers)] if answers else []
        return (*right, *(constraint.follows(text) for constraint in followed))

    parts = [_ANSWER] * bool(answers) + [constraint.kind for constraint in constraints]
    return Checked(prompt.document.content, check, tuple(parts), longest=0)


def _answers(fields: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """The answers that pass, of which a record has one or a list."""
    given = fields[_ANSWER]
    found = given if isinstance(given, list) else [given]
    for answer in found or [None]:
        number = isinstance(answer, int | float) and not isinstance(answer, bool)
        if not number and not (isinstance(answer, str) and answer.strip()):
            raise BadTask(
                f"{where}: expected {_ANSWER!r} to be a text or a number, or a list of such, got {kind(answer)}: repair it"
            )
    return tuple(map(str, found))
