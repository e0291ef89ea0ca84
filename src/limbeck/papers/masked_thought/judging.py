"""The criteria of the recipe masked-thought. All compare greedy answers to the same test chains, paired by seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from limbeck.papers.lab.recipe import ClaimResult, Verdict
from limbeck.papers.lab.right import Right, counted, difference, in_points
from limbeck.report.words import share

# Set before the first run, and our choices: published gains are of 2 to 10 points; a plain training that answers almost nothing
# or almost all leaves no room for a difference; masked trainings are slower, and need at least twice what the plain one does.
LEAST = 0.03
ROOM = (0.1, 0.95)
QUICK = 0.5


@dataclass(frozen=True)
class Plain:
    """The plain training by seed: its accuracy on chains as it learned, and the part of the budget by which it knew its own."""

    accuracy: Sequence[float]
    fitted: Sequence[float | None]


def judge_clause(masked: Right, other: Right, names: tuple[str, str]) -> ClaimResult:
    """Judges masking where a clause is to be left out: the best masked arm against the best of the others."""
    return _more(
        masked,
        other,
        names,
        "Masking the derivations that a model reads makes it answer more chains with a clause that is to be left out.",
    )


def judge_same(masked: Right, other: Right, names: tuple[str, str]) -> ClaimResult:
    """Judges masking on chains of the length that was learned."""
    return _more(
        masked,
        other,
        names,
        "Masking the derivations that a model reads makes it answer more chains of the length that it learned.",
    )


def judge_longer(masked: Right, other: Right, names: tuple[str, str]) -> ClaimResult:
    """Judges masking on chains that are longer than those that were learned."""
    return _more(
        masked,
        other,
        names,
        "Masking the derivations that a model reads makes it answer more chains that are longer than those it learned.",
    )


def judge_warmup(rising: Right, whole: Right, names: tuple[str, str]) -> ClaimResult:
    """Judges whether the share has to rise, on chains with a clause."""
    return _more(
        rising,
        whole,
        names,
        "The share of masked tokens has to rise over the training: from the start it is worse, on chains with a clause.",
    )


def judged_by_plain(judged: ClaimResult, plain: Plain) -> ClaimResult:
    """The result with further conditions: the plain training has room above and below, and was given time enough."""
    low, high = ROOM
    ruled = replace(
        judged,
        criterion=f"{judged.criterion} Inconclusive also where the plain training answers fewer than {share(low)} or more than "
        f"{share(high)} of the chains of the length that it learned, or needs more than {share(QUICK)} of the budget to "
        "learn its training chains.",
    )
    room = all(low <= one <= high for one in plain.accuracy)
    quick = all(one is not None and one <= QUICK for one in plain.fitted)
    if room and quick:
        return ruled
    right = " / ".join(share(one, digits=1) for one in plain.accuracy)
    needed = " / ".join("all and more" if one is None else share(one) for one in plain.fitted)
    return replace(
        ruled,
        verdict="inconclusive",
        seen=f"{judged.seen} The plain training answers {right}, and needs {needed} of the budget.",
    )


def _more(ours: Right, theirs: Right, names: tuple[str, str], claim: str) -> ClaimResult:
    """A claim of more right answers, of the first of two arms."""
    found = difference(ours, theirs)
    verdict: Verdict = "inconclusive"
    if found.low > 0 and found.value > LEAST:
        verdict = "confirmed"
    elif found.high < LEAST:
        verdict = "refuted"
    return ClaimResult(
        claim,
        "Of each kind of arm the one with the best validation over all seeds is compared, each seed at its best validation. "
        f"Confirmed: more than {LEAST * 100:g} points more test chains are answered greedily, and the whole 95 % interval over "
        "chains and seeds is above 0. Refuted: the whole interval is below that many points. Inconclusive otherwise.",
        verdict,
        f"difference {in_points(found)}, {names[0]} from {names[1]}; {counted(ours, 'chains')}.",
    )
