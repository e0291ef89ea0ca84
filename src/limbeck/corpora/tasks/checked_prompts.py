"""The check of a prompt's completions, from the fields of its record: a known answer, constraints, or both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from limbeck.corpora import Prompt
from limbeck.corpora.records import kind
from limbeck.corpora.tasks.checked import Checked
from limbeck.corpora.tasks.constraints import Constraint, constraints_of
from limbeck.corpora.tasks.final import matches_final
from limbeck.errors import BadTask

_ANSWER = "answer"
_KINDS, _ARGUMENTS = "instruction_id_list", "kwargs"  # of constraints, as in IFEval


def passes(record: Mapping[str, Any], answer: str, *, where: str = "a record") -> tuple[bool, ...]:
    """Whether an answer passes each check of a record: the known ``answer`` if there is one, then its constraints in their order.

    The record has 'answer', or 'instruction_id_list' and 'kwargs', or both. One that has no check, or one that needs something
    trained, gives (). A blank answer passes nothing. Raises BadTask for fields that say no check. For many answers to one record,
    make its check once: ``checked_record(record, prompt, where).check``.

    >>> passes({"answer": "4", "instruction_id_list": ["case"], "kwargs": [{"case": "lower"}]}, "the answer is 4")
    (True, True)
    """
    checked = checked_record(record, "", where)
    return () if checked is None else checked.check(answer)


def checked_of(prompt: Prompt) -> Checked | None:
    """The check of completions of a prompt; None where its record has none, or one that needs something trained.

    A completion that was cut off passes no check. Raises BadTask for fields that say no check.
    """
    return checked_record(prompt.document.checked_by or {}, prompt.document.content, prompt.name)


def checked_record(fields: Mapping[str, Any], prompt: str, where: str) -> Checked | None:
    """The check that the fields of a record say; None for no check, or one that needs something trained. Raises BadTask."""
    answers = _answers(fields, where) if _ANSWER in fields else ()
    constraints: tuple[Constraint, ...] | None = ()
    if _KINDS in fields:
        constraints = constraints_of(fields[_KINDS], fields.get(_ARGUMENTS), where)
    if constraints is None or not (answers or constraints):
        return None
    followed = constraints

    def check(text: str) -> tuple[bool, ...]:
        right = [matches_final(text, answers)] if answers else []
        return (*right, *(constraint.follows(text) for constraint in followed))

    parts = [_ANSWER] * bool(answers) + [constraint.kind for constraint in constraints]
    return Checked(prompt, check, tuple(parts), longest=0)


def first_answer(fields: Mapping[str, Any] | None) -> str | None:
    """The known answer in the fields of a record, the first of several; None without one."""
    return next(iter(known_answers(fields)), None)


def known_answers(fields: Mapping[str, Any] | None) -> tuple[str, ...]:
    """All known answers in the fields of a record, () without one."""
    given = (fields or {}).get(_ANSWER)
    found = given if isinstance(given, list) else [given]
    return tuple(str(one) for one in found if one is not None and not isinstance(one, list))


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
