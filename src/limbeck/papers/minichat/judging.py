"""The criteria of the recipe minichat: by checks of answers, and by a judge that was admitted first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from limbeck.papers.lab.paired import Losses, gain, mean, with_interval
from limbeck.papers.lab.recipe import ClaimResult, Verdict
from limbeck.probes.interval import Interval, wilson
from limbeck.report.words import share

# Set before the first run, and our choices.
NEAR = 0.05  # of the checks that a student may pass less than its teacher
ADMITTED = 0.8  # of the right answers that the judge has to prefer to corrupted ones, of each kind


def judge_checks(chat: Losses, others: Mapping[str, Losses]) -> ClaimResult:
    """Judges by the share of checks that answers pass: the distilled student beside those of its size from scratch."""
    found = {name: gain(chat, one) for name, one in others.items()}
    return _beside(
        found,
        "Tuned on instructions, the distilled student answers better than one of its size from scratch, at equal tokens and at "
        "equal FLOPs, by checks of its answers.",
        "more checks of answers to held-out questions pass than of either, each with its whole 95 % interval over modules and "
        "seeds",
        "of the checks more than",
        seeds=len(chat),
    )


def judge_marks(wins: Mapping[str, Losses], admitted: Mapping[str, Interval]) -> ClaimResult:
    """The same by a judge: the share of questions where it prefers the distilled student's answer, less a half."""
    found = {name: mean(one) for name, one in wins.items()}
    judged = _beside(
        found,
        "A judge prefers the answers of the distilled student to those of one of its size from scratch, tuned alike, at equal "
        "tokens and at equal FLOPs.",
        "the judge prefers them in more than half of the held-out questions beside either, each with its whole 95 % interval "
        "over modules and seeds",
        "of the questions over a half beside",
        seeds=min(map(len, wins.values())),
    )
    ruled = replace(
        judged,
        criterion=f"{judged.criterion} Inconclusive also where the judge is not admitted: it must prefer the library's answers "
        f"to corrupted ones in at least {share(ADMITTED)} of the questions, of each kind by the whole interval.",
    )
    kinds = "; ".join(f"{name} {share(one.value)}" for name, one in admitted.items())
    seen = f"right answers preferred to those {kinds}; {judged.seen}"
    if all(one.low >= ADMITTED for one in admitted.values()):
        return replace(ruled, seen=seen)
    return replace(ruled, verdict="inconclusive", seen=f"the judge is not admitted; {seen}")


def judge_teacher(chat: Losses, teacher: Losses) -> ClaimResult:
    """Judges whether the student passes about as many checks as its teacher, tuned alike."""
    found = gain(chat, teacher)
    verdict: Verdict = "inconclusive"
    if found.low > -NEAR:
        verdict = "confirmed"
    elif found.high < -NEAR:
        verdict = "refuted"
    return ClaimResult(
        "The student competes with its teacher of 2.5 times its size, tuned on the same instructions.",
        f"Confirmed: it passes at most {share(NEAR)} of the checks fewer, by the whole 95 % interval over modules and seeds. "
        "Refuted: more than that fewer, by the whole interval. Inconclusive otherwise.",
        verdict,
        f"difference {with_interval(found)} of the checks ({found.n} modules asked about, {len(chat)} seeds)",
    )


def admission(right: np.ndarray, corrupted: Mapping[str, np.ndarray]) -> dict[str, Interval]:
    """In what share of the questions the right answer has the higher mark, by kind of corruption."""
    return {name: wilson(int((right > marks).sum()), len(right)) for name, marks in corrupted.items()}


def _beside(found: Mapping[str, Interval], claim: str, confirmed: str, unit: str, *, seeds: int) -> ClaimResult:
    """A claim of gains over several others, all of which count."""
    verdict: Verdict = "inconclusive"
    if all(one.low > 0 for one in found.values()):
        verdict = "confirmed"
    elif any(one.high < 0 for one in found.values()):
        verdict = "refuted"
    n = next(iter(found.values())).n
    seen = "; ".join(f"{with_interval(one)} {unit} {name}" for name, one in found.items())
    return ClaimResult(
        claim,
        f"Confirmed: {confirmed} above 0. Refuted: for one of them the whole interval is below 0. Inconclusive otherwise.",
        verdict,
        f"{seen} ({n} modules asked about, {seeds} seeds)",
    )
