"""Which two of a prompt's texts are a preference pair, or why none are. Nothing here computes with a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from limbeck.corpora import Prompt
from limbeck.corpora.preference import split_pair
from limbeck.errors import BadRecord

AUTHOR, LIKELIHOOD, CHECKS = "author", "likelihood", "checks"  # values of --judge
TIE = 1e-5  # nats per token within which scores are equal: batches of other shapes round as differently

# Why texts are no pair, in the order in which they are counted
SAME, TIED, ALL_PASS, NONE_PASSES = "same", "tied", "all_pass", "none_passes"
UNCHECKED, UNJUDGED, CUT_OFF, BLANK = "unchecked", "unjudged", "cut_off", "blank"
WITHHELD, LEAKED, REPEATS, MISSING = "withheld", "leaked", "repeats_prompt", "missing"
UNFIT = "unfit"
LEFT_OUT = {
    SAME: "whose texts are the same",
    TIED: "whose scores are equal",
    ALL_PASS: "of which all texts pass",
    NONE_PASSES: "of which no text passes",
    UNCHECKED: "without a check, or with one that needs something trained",
    UNJUDGED: "with fewer than two texts that ended by themselves and that the teacher can score",
    CUT_OFF: "whose preferred text was cut off",
    BLANK: "with an empty text",
    WITHHELD: "kept back by the server's content filter",
    LEAKED: "with words of the system message, which the student will not read",
    UNFIT: "that do not match the pattern of their strategy",
    REPEATS: "of which one text repeats the prompt",
    MISSING: "without a text, which run.json names; the same command asks for them again",
}


@dataclass(frozen=True)
class Candidate:
    """A text that may be one side of a pair. ``number`` is that of its sample, ``ended`` whether it ended by itself.

    ``tokens`` are those of its text in the student's tokenizer. ``score`` is what the judge gives it: nats per token, or 1 for a
    text that passes and 0 for another; None where it gives none. ``problem`` is why it is no side of a pair, "" where it may be.
    """

    number: int
    text: str
    ended: bool
    tokens: int
    calls: list[Any] | None = None
    score: float | None = None
    problem: str = ""


Sides = tuple[Candidate, Candidate]  # the preferred one, the rejected one


def by_likelihood(found: Sequence[Candidate]) -> Sides | str:
    """The texts with the largest and the smallest score, or why there are none. Texts without a score do not count."""
    scored = [(one.score, one) for one in found if one.score is not None]
    if len(scored) < 2:
        return UNJUDGED
    if len({one.text.strip() for _, one in scored}) == 1:
        return SAME
    best, worst = max(scored, key=lambda pair: pair[0]), min(scored, key=lambda pair: pair[0])
    return TIED if best[0] - worst[0] <= TIE else (best[1], worst[1])


def by_checks(found: Sequence[Candidate]) -> Sides | str:
    """The first text that passes and the first that fails, or why there are none. Blank texts fail, and are no side."""
    if all(one.score is None for one in found):
        return UNCHECKED
    passing = [one for one in found if one.score]
    failing = [one for one in found if not one.score and not one.problem]
    if not passing:
        return NONE_PASSES
    if len(passing) == len(found):
        return ALL_PASS
    return (passing[0], failing[0]) if failing else BLANK


def by_author(preferred: Candidate | None, rejected: Candidate) -> Sides | str:
    """A text of the teacher and one of the student, or why they are no pair; ``preferred`` is None where a server gave none."""
    if preferred is None:
        return MISSING
    if problem := preferred.problem or rejected.problem:
        return problem
    if not preferred.ended:
        return CUT_OFF
    return SAME if preferred.text.strip() == rejected.text.strip() and not preferred.calls else (preferred, rejected)


def record_of(prompt: Prompt, sides: Sides) -> dict[str, Any] | str:
    """The record of a pair in TRL's format, or why it cannot be read back: TRL takes a prompt that a text repeats out of it."""
    record = prompt.paired(*sides)
    try:
        read = split_pair(record, prompt.name)
    except BadRecord:
        return REPEATS
    return record if read == (record["prompt"], record["chosen"], record["rejected"]) else REPEATS
