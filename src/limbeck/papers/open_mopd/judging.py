"""The criteria of the recipe open-mopd. All are shares of the headroom, paired by seed and test item.

The headroom is that of routed specialists, each of which answers its own domain, above the start. All domains have as many test
items, so that a mean over items is one over domains.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from limbeck.papers.lab.recipe import ClaimResult, Verdict
from limbeck.papers.lab.right import Right, counted, difference, in_points
from limbeck.probes.interval import Interval, bootstrap
from limbeck.report.words import interval

# The paper's headroom is what makes 28.05 % 0.356 of it and 31.24 % 0.834; separate students were 3.5 points above routing
# alone, and its three parts gained 1.17, 0.72 and 0.81 points one after the other.
NAIVE_SHARE, ALL_SHARE = 0.356, 0.834
_HEADROOM = (31.24 - 28.05) / (ALL_SHARE - NAIVE_SHARE)  # in points
SEPARATE_GAIN, SHARES_GAIN, GAPS_GAIN, REFRESHED_GAIN = (points / _HEADROOM for points in (3.5, 1.17, 0.72, 0.81))
HALF = 0.5  # of the paper's effect, which would matter

_REFUSED = "Inconclusive otherwise, and where the interval of the headroom holds 0."


def judge_naive(naive: Right, separate: Right, start: Right, ceiling: Right) -> ClaimResult:
    """Judges what routing alone leaves of the headroom that separate students, of one domain each, recover with the same rows."""
    judged = _more(
        separate,
        naive,
        (start, ceiling),
        SEPARATE_GAIN,
        "Routing each row to its domain's teacher, with equal weight for each token, leaves headroom that separate students of "
        "one domain each recover.",
    )
    alone = recovered(naive, start, start, ceiling)
    return replace(judged, seen=f"routing alone recovered {_plain(alone)}; separate students {judged.seen}")


def judge_shares(
    shares: Right, naive: Right, start: Right, ceiling: Right, short: Right, *, anew: bool = False
) -> ClaimResult:
    """Judges weights of domains by target over observed token share. ``short``: the gain in short answers alone.

    ``anew``: both arms sample new answers for each update.
    """
    return _more(
        shares,
        naive,
        (start, ceiling),
        SHARES_GAIN,
        "Weights of domains by the target over the observed share of tokens recover more than equal weights of tokens"
        + (", with new answers for each update." if anew else "."),
        short,
    )


def judge_gaps(gaps: Right, shares: Right, start: Right, ceiling: Right) -> ClaimResult:
    """Judges weights that follow the remaining divergence from each teacher too."""
    return _more(
        gaps,
        shares,
        (start, ceiling),
        GAPS_GAIN,
        "Weights that follow each domain's remaining divergence from its teacher too recover more than target shares alone.",
    )


def judge_refreshed(refreshed: Right, stale: Right, start: Right, ceiling: Right) -> ClaimResult:
    """Judges whether the student's log-probabilities in the reward have to be those of each update."""
    return _more(
        refreshed,
        stale,
        (start, ceiling),
        REFRESHED_GAIN,
        "Computing the student's part of the reward anew in each of four updates of a batch recovers more than that of the "
        "sampling.",
    )


def judge_all(together: Right, naive: Right, start: Right, ceiling: Right) -> ClaimResult:
    """Judges all three changes together."""
    return _more(
        together,
        naive,
        (start, ceiling),
        ALL_SHARE - NAIVE_SHARE,
        "All three changes together recover much more of the headroom than routing alone.",
    )


def judge_on_policy(on: Right, off: tuple[Right, Right], tuned: tuple[Right, Right]) -> ClaimResult:
    """Judges own answers against the teachers' with the same weights: their distributions, and their tokens alone.

    Of each there are the answers after equal tokens, and after equal FLOPs.
    """
    found = [difference(on, one) for one in (*off, *tuned)]
    verdict: Verdict = "inconclusive"
    if min(one.low for one in found) > 0:
        verdict = "confirmed"
    elif min(one.high for one in found) <= 0:
        verdict = "refuted"
    names = ("teachers' answers", "these at equal FLOPs", "answers alone", "these at equal FLOPs")
    return ClaimResult(
        "The student's own answers teach more than the teachers', with the same weights of domains.",
        "Confirmed: the student answers more test items greedily than after distillation on the teachers' answers and than after "
        "tuning on their tokens alone, at equal tokens and at equal FLOPs, each by the whole 95 % interval over items and seeds. "
        "Refuted: no more than in one of the four, by the whole interval. Inconclusive otherwise.",
        verdict,
        "; ".join(f"difference from {name} {in_points(one)}" for name, one in zip(names, found, strict=True))
        + f"; {counted(on, 'items')}.",
    )


def recovered(ours: Right, theirs: Right, start: Right, ceiling: Right) -> Interval:
    """What ours recovers more than theirs, as a share of the ceiling's headroom above the start, with its interval.

    An interval of NaN where that of the headroom holds 0: the ratio then says nothing.
    """
    if difference(ceiling, start).low <= 0:
        return Interval(math.nan, math.nan, math.nan, ours.shape[1])
    return bootstrap(_share, np.stack([ours - theirs, ceiling - start, np.ones_like(ours)], -1))[0]


def _more(
    ours: Right, theirs: Right, between: tuple[Right, Right], paper: float, claim: str, short: Right | None = None
) -> ClaimResult:
    """A claim of a larger share of the headroom. ``paper``: the gain that it names, in such shares."""
    found, least = recovered(ours, theirs, *between), HALF * paper
    gained = None if short is None else difference(short, np.zeros_like(short))
    verdict: Verdict = "inconclusive"
    if found.low > 0 and (gained is None or gained.low > 0):
        verdict = "confirmed"
    elif found.high < least:
        verdict = "refuted"
    also = "" if gained is None else ", and more short answers are right, by the whole interval too"
    return ClaimResult(
        claim,
        "Confirmed: the recovered share of the headroom is larger, by the whole 95 % interval over items and seeds"
        f"{also}. Refuted: the whole interval of the gain is below {least:.3f}, half of the paper's. {_REFUSED}",
        verdict,
        f"{_plain(found)} of the headroom more"
        + ("" if gained is None else f"; short answers {in_points(gained)}")
        + f"; {_headroom(*between)}; {counted(ours, 'items')}.",
    )


def _share(total: Float[np.ndarray, "... 3"]) -> Float[np.ndarray, "... 1"]:
    with np.errstate(divide="ignore", invalid="ignore"):
        return total[..., :1] / total[..., 1:2]


def _headroom(start: Right, ceiling: Right) -> str:
    return f"headroom {in_points(difference(ceiling, start))}"


def _plain(found: Interval) -> str:
    return interval(found, ".2f")
