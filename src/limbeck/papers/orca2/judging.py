"""The criteria of the recipe orca2. All compare greedy answers to the same test tasks, paired by seed."""

from __future__ import annotations

from limbeck.papers.lab.recipe import ClaimResult, Verdict
from limbeck.papers.lab.right import (
    EQUAL,
    FLOOR,
    Right,
    counted,
    difference,
    in_points,
    judge_as_good,
    learned,
    verdict_of_more,
)
from limbeck.report.words import share

# Set before the first run, and our choices. The paper has no ablation from which a size of the effect could be taken.
LEAST = 0.05  # of a gain that matters
SHORT = 0.8  # of the tokens an answer

_OTHERWISE = f"Inconclusive otherwise, and where both answer fewer than {share(FLOOR)}."


def judge_erasure(erased: Right, kept: Right) -> ClaimResult:
    """Judges erasure against instructions that the student reads in training and no longer at test."""
    return _more(
        erased,
        kept,
        "A student whose training has no instructions answers more tasks without any than one that was trained with them, for as "
        "many answers learned.",
    )


def judge_strategy(erased: Right, other: Right) -> ClaimResult:
    """Judges whether the style that the teacher is to use for each kind of task matters."""
    return _more(
        erased,
        other,
        "A teacher with the fitting strategy for each task teaches more than one that uses any of them at random.",
    )


def judge_single(erased: Right, single: Right, tokens: tuple[float, float], name: str) -> ClaimResult:
    """Judges fitting strategies against the best single one. ``tokens`` are the mean tokens of an answer, ours first."""
    found = difference(erased, single)
    ratio = tokens[0] / tokens[1]
    verdict: Verdict = "inconclusive"
    if learned(erased, single):
        if found.low > -EQUAL and ratio <= SHORT:
            verdict = "confirmed"
        elif found.high < -EQUAL or ratio > 1:
            verdict = "refuted"
    return ClaimResult(
        "A student that learned a fitting strategy for each task is as accurate as with the best single one for all, in fewer "
        "tokens.",
        "The single strategy is the one with the best validation over all seeds. Confirmed: the whole 95 % interval of the "
        f"difference over tasks and seeds is above -{EQUAL * 100:g} points, and an answer has at most {SHORT:g} of its tokens. "
        f"Refuted: the whole interval is below -{EQUAL * 100:g} points, or an answer has more tokens. {_OTHERWISE}",
        verdict,
        f"difference {in_points(found)} from {name}; {ratio:.2f} of its tokens, {tokens[0]:.1f} to {tokens[1]:.1f} an "
        f"answer; {counted(erased, 'tasks')}.",
    )


def judge_instructed(erased: Right, instructed: Right) -> ClaimResult:
    """Judges erasure against a student that reads the fitting instruction in training and at test."""
    return judge_as_good(
        erased,
        instructed,
        "Erasure costs nothing: a student without instructions answers as many tasks as one that reads the strategy each time, "
        "for as many answers learned.",
        "tasks",
    )


def _more(ours: Right, theirs: Right, claim: str) -> ClaimResult:
    """A claim of more right answers."""
    found, room = difference(ours, theirs), 1 - LEAST
    return ClaimResult(
        claim,
        f"Confirmed: more than {LEAST * 100:g} points more test tasks are answered, and the whole 95 % interval over tasks and "
        f"seeds is above 0. Refuted: the whole interval is below that many points. {_OTHERWISE} So it is where the other "
        f"student answers more than {share(room)}, which leaves no room.",
        verdict_of_more(ours, theirs, LEAST, room=room),
        f"difference {in_points(found)}; {counted(ours, 'tasks')}.",
    )
