"""Completions as a rationale and the answer that follows it, with what states the answer left out of the rationale.

A rationale that states the answer makes it probable whether a student follows the rationale or not: it only has to copy. So it is
read up to the clause that has the answer first, unless the question has it too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from limbeck.corpora.tasks.final import final_answer, split_final, stated_at

_CLAUSE = re.compile(r"(?:[.;!?]\s|\n)")  # after which another clause begins


@dataclass(frozen=True)
class Rationale:
    """A ``thought``, the ``mark`` before the answer, and the ``answer``. ``whole``: whether all of the thought is there."""

    thought: str
    mark: str
    answer: str
    whole: bool


def rationale_of(question: str, completion: str, *, known: str | None, mark: str) -> Rationale | None:
    """The rationale in a completion of a question; None where there is no answer.

    ``known`` is the known answer, of a worked one its final answer, None for what the completion marks as its own. ``mark``
    stands before it where none is marked.
    """
    found = split_final(completion)
    if found is None and known is None:
        return None
    thought, between, own = found or (completion.rstrip() + "\n", f"{mark} ", "")
    answer = (final_answer(known) or known if known else own).strip()
    if not answer:
        return None
    kept = thought if stated_at(question, answer) is not None else _before(thought, answer)
    return Rationale(kept, between, answer, kept == thought)


def _before(thought: str, answer: str) -> str:
    """A thought up to the clause that states the answer first."""
    place = stated_at(thought, answer)
    if place is None:
        return thought
    begins = [clause.end() for clause in _CLAUSE.finditer(thought, 0, place)]
    return thought[: begins[-1]] if begins else ""
