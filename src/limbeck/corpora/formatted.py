"""The source ``formats:FILE``: worked problems of a JSON file as prompts with completions (`problem_formats`).

``formats:zs_cot+ic_cot@4:problems.jsonl`` names formats and the number of shots; without them there are all four, and 4 shots.
A problem has the fields question, answer and solutions, a list; without solutions, an answer that ends in a mark (``#### 7``) is
one itself. All documents of a question are on its side of the split, and shots are questions that no command holds out. Where
prompts alone are read, each question is one with its answer as the check, and needs no solution.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from limbeck.corpora.document import PROMPTS_HELD_OUT, Document, is_held_out
from limbeck.corpora.files import Documents
from limbeck.corpora.jsonl import Record, records_of, records_of_json
from limbeck.corpora.problem_formats import (
    KINDS,
    SHOTS,
    Example,
    Problem,
    check_signs,
    examples,
    right_alone,
    with_right_solutions,
)
from limbeck.corpora.records import Columns, kind
from limbeck.corpora.source import Part, source
from limbeck.corpora.stamp import stamp_of
from limbeck.corpora.streams import kind_of
from limbeck.corpora.tasks.final import final_answer
from limbeck.disk import existing, shown
from limbeck.errors import BadCorpus, BadRecord, BadSetting

_FORMATS = re.compile(r"((?:zs|ic)_\w+(?:\+\w+)*)(?:@(\d+))?")
_READERS = {".jsonl": records_of, ".json": records_of_json}


@source("formats")
def formatted(rest: str, columns: Columns) -> Part:
    """Worked problems in some formats. Fields have their usual names, whatever ``columns`` says.

    Raises BadCorpus for a file that is not there or of another kind, and BadSetting for unknown formats.
    """
    before, colon, after = rest.partition(":")
    described = _FORMATS.fullmatch(before) if colon else None
    name = after if described else rest
    kinds, shots = _asked(described, rest) if described else (KINDS, SHOTS)
    path = existing(name)
    if path is None or not path.is_file() or kind_of(path) not in _READERS:
        came = "a path that does not exist" if path is None else f"{path.name}"
        raise BadCorpus(
            f"formats:{shown(rest)}: expected a .jsonl or .json file of problems, such as "
            f"formats:zs_cot+ic_cot@4:problems.jsonl, got {came}: check the spelling"
        )
    found = cache(partial(_problems, path, kinds, asked_alone=columns.prompts))
    documents = partial(_prompts if columns.prompts else _documents, found, kinds, shots, path.name)
    stamp = ["formats", *kinds, shots, PROMPTS_HELD_OUT, *stamp_of(path)]
    notes = partial(_notes, found, path.name)
    return Part(documents, stamp, name=path.name, least=path.stat().st_size, notes=notes)


def _asked(described: re.Match[str], rest: str) -> tuple[tuple[str, ...], int]:
    """The formats and shots that are named. Raises BadSetting for unknown ones, and for shots that no format shows."""
    kinds = tuple(dict.fromkeys(described[1].split("+")))
    if unknown := [one for one in kinds if one not in KINDS]:
        raise BadSetting(f"formats:{shown(rest)}: expected formats among {', '.join(KINDS)}, got {unknown[0]!r}")
    if described[2] and not any(one.startswith("ic") for one in kinds):
        raise BadSetting(
            f"formats:{shown(rest)}: @{described[2]} is the number of shots, which {' and '.join(kinds)} do not have: leave it "
            "out, or take ic_cot"
        )
    return kinds, int(described[2] or SHOTS)


@dataclass(frozen=True)
class _Found:
    """The problems of a file with their right solutions alone, the records that are none, and how many were dropped."""

    problems: list[Problem]
    faults: list[BadRecord]
    dropped: int


def _problems(path: Path, kinds: Sequence[str], *, asked_alone: bool) -> _Found:
    """Reads a file. ``asked_alone``: problems may be without solutions, since prompts alone are read."""
    problems: list[Problem] = []
    faults: list[BadRecord] = []
    for number, record in _READERS[kind_of(path)](path):
        try:
            problems.append(_written(record, kinds, f"{path}:{number}", asked_alone=asked_alone))
        except BadRecord as error:
            faults.append(error)
    if asked_alone or not problems:
        return _Found(problems, faults, 0)
    solved, dropped = with_right_solutions(problems, where=str(path))
    return _Found(solved, faults, dropped)


def _written(record: Record | BadRecord, kinds: Sequence[str], where: str, *, asked_alone: bool) -> Problem:
    """A problem of a record with its right solutions alone, which can be written in the formats. Raises BadRecord."""
    problem = right_alone(_problem(record, where, asked_alone=asked_alone))
    try:
        check_signs(problem, kinds)
    except BadRecord as error:
        raise BadRecord(f"{where}: {error}") from None
    return problem


def _problem(record: Record | BadRecord, where: str, *, asked_alone: bool) -> Problem:
    """A problem of a record. Raises BadRecord."""
    if isinstance(record, BadRecord):
        raise record
    question, answer = (_text(record, field, where) for field in ("question", "answer"))
    solutions = record.get("solutions")
    marked = final_answer(answer)
    if solutions is None and (marked is not None or asked_alone):
        return Problem(question, answer if marked is None else marked, () if marked is None else (answer,))
    if isinstance(solutions, str):
        solutions = [solutions]
    if not isinstance(solutions, list) or not all(isinstance(one, str) for one in solutions):
        raise BadRecord(
            f"{where}: expected 'solutions' to be a list of texts, or an answer that ends in '#### 7', got {kind(solutions)}: "
            "repair or remove it"
        )
    return Problem(question, answer if marked is None else marked, tuple(solutions))


def _text(record: Record, field: str, where: str) -> str:
    value: Any = record.get(field)
    if isinstance(value, int | float) and not isinstance(value, bool) and field == "answer":
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise BadRecord(f"{where}: expected {field!r} to be a text, got {kind(value)}: repair or remove it")
    return value


def _documents(found: Callable[[], _Found], kinds: Sequence[str], shots: int, name: str) -> Documents:
    """The records that are no problems, then each problem in each format."""
    yield from found().faults
    problems = found().problems
    for example in examples(problems, kinds, shots=shots, pool=_shown(problems)) if problems else ():
        yield _document(example, example.completion(), name)


def _prompts(found: Callable[[], _Found], kinds: Sequence[str], shots: int, name: str) -> Documents:
    """The same with each question once in each format, without a completion, and with the answer that checks one."""
    yield from found().faults
    problems = found().problems
    asked = [replace(problem, solutions=(problem.answer,)) for problem in problems]
    for example in examples(asked, kinds, shots=shots, pool=_shown(problems)) if problems else ():
        yield replace(_document(example, "", name), checked_by={"answer": example.target})


def _document(example: Example, completion: str, name: str) -> Document:
    prompt = example.prompt()
    return Document(
        f"{name} {example.kind}: {example.question[:40]}",
        text=prompt + completion,
        prompt=len(prompt),
        form=example.kind,
        question=example.question,
    )


def _shown(problems: Sequence[Problem]) -> list[Problem]:
    """The problems that are shown in others: those that no command holds out, since a shot has the answer."""
    return [one for one in problems if not is_held_out(Document("", text=one.question), fraction=PROMPTS_HELD_OUT)]


def _notes(found: Callable[[], _Found], name: str) -> list[str]:
    dropped = found().dropped
    return [f"dropped: {dropped:,} question{'s' if dropped > 1 else ''} of {name} without a right solution"] * bool(
        dropped
    )
