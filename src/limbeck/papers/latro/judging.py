"""The criteria of the recipe latro. All compare greedy answers to the same test chains, paired by seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from limbeck.papers.lab.recipe import ClaimResult, Verdict
from limbeck.papers.lab.right import Right, counted, difference, in_points
from limbeck.report.words import share

KEPT = 0.5  # of the shuffle gap of the start that must be left
READ = 0.1  # nats of the shuffle gap below which rationales are not read
NEAR = 0.05  # of accuracy that a reward without a verifier may cost
LEAST, MOST = 0.2, 0.6  # accuracy of a start: below, there are no rationales to reward; above, little is left to learn


@dataclass(frozen=True)
class Gaps:
    """The shuffle gap in nats by seed: how much likelier the right answer is after a chain's own rationale than another's."""

    before: Sequence[float]
    after: Sequence[float]


def judge_reward(latro: Right, likelihood: Right, star: Right, gaps: Gaps) -> ClaimResult:
    """Judges whether the reward teaches more than its parts: than the answers' likelihood alone, and than imitation of hits."""
    over, beside = difference(latro, likelihood), difference(latro, star)
    kept = all(after >= KEPT * before for before, after in zip(gaps.before, gaps.after, strict=True))
    verdict: Verdict = "inconclusive"
    if over.low > 0 and beside.low > 0 and kept:
        verdict = "confirmed"
    elif over.high <= 0 or float(np.mean(gaps.after)) <= READ:
        verdict = "refuted"
    return ClaimResult(
        "The likelihood of the answer as reward teaches better rationales: better than the answer's likelihood alone, without a "
        "reward, and than imitation of rationales with a right answer, at equal samples.",
        "Confirmed: LaTRO answers more test chains greedily than either, by the whole 95 % interval over chains and seeds, and "
        f"in every seed its shuffle gap is at least {KEPT:g} of the start's. Refuted: it answers no more than the likelihood "
        f"alone, by the whole interval, or its mean shuffle gap is at most {READ:g} nats. Inconclusive otherwise.",
        verdict,
        f"difference from the likelihood alone {in_points(over)}; difference from STaR {in_points(beside)}; shuffle gap "
        f"{_each(gaps.after)} nats, at the start {_each(gaps.before)}; {counted(latro, 'chains')}.",
    )


def judge_answer_half(latro: Right, release: Right) -> ClaimResult:
    """Judges whether the half of the gradient counts that the published code multiplies by 0."""
    return _more(
        latro,
        release,
        "The gradient of the answer's likelihood, which the published code leaves out, is needed beside that of the reward.",
        "with both halves than with the reward's alone",
    )


def judge_answers(latro: Right, answers: Right) -> ClaimResult:
    """Judges whether sampled rationales are better than tuning on the answers alone, as published."""
    return _more(
        latro,
        answers,
        "From answers without rationales, a model learns more by rationales that it samples than by the answers alone.",
        "than a model tuned to answer at once",
    )


def judge_verifier(latro: Right, exact: Right) -> ClaimResult:
    """Judges whether the likelihood is as good a reward as whether the written answer is right."""
    found = difference(latro, exact)
    verdict: Verdict = "inconclusive"
    if found.low > -NEAR:
        verdict = "confirmed"
    elif found.high < -NEAR:
        verdict = "refuted"
    return ClaimResult(
        "No verifier is needed: LaTRO is about as good as a reward for right answers.",
        f"Confirmed: it answers at most {NEAR * 100:g} points fewer test chains, by the whole 95 % interval over chains and "
        "seeds. Refuted: more than that fewer, by the whole interval. Inconclusive otherwise.",
        verdict,
        f"difference {in_points(found)}; {counted(latro, 'chains')}.",
    )


def judged_from(judged: ClaimResult, starts: Sequence[float]) -> ClaimResult:
    """The result with a further condition, on the accuracy of the starts."""
    ruled = replace(
        judged,
        criterion=f"{judged.criterion} Inconclusive also where a start answers fewer than {share(LEAST)} or more than "
        f"{share(MOST)} of the chains.",
    )
    if all(LEAST <= one <= MOST for one in starts):
        return ruled
    return replace(ruled, verdict="inconclusive", seen=f"{judged.seen} Starts: {_shares(starts)}.")


def _more(ours: Right, theirs: Right, claim: str, than: str) -> ClaimResult:
    """A claim of more right answers."""
    found = difference(ours, theirs)
    verdict: Verdict = "inconclusive"
    if found.low > 0:
        verdict = "confirmed"
    elif found.high <= 0:
        verdict = "refuted"
    return ClaimResult(
        claim,
        f"Confirmed: more test chains are answered greedily {than}, by the whole 95 % interval over chains and seeds. Refuted: "
        "no more, by the whole interval. Inconclusive otherwise.",
        verdict,
        f"difference {in_points(found)}; {counted(ours, 'chains')}.",
    )


def _each(values: Sequence[float]) -> str:
    return " / ".join(f"{value:.2f}" for value in values)


def _shares(values: Sequence[float]) -> str:
    return " / ".join(share(value, digits=1) for value in values)
