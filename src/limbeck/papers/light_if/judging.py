"""The criteria of the recipe light-if. All compare samples for the same test prompts, paired by seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from limbeck.papers.lab.recipe import ClaimResult, Verdict
from limbeck.papers.lab.right import FLOOR, Right, counted, difference, in_points, verdict_of_more
from limbeck.report.words import interval, share

# Set before the first run, and our choices.
LEAST = 0.02  # of the samples, that a difference must exceed
ROOM = 0.9  # of the samples right by which there is no room for more


def judge_selection(select: Right, controls: Mapping[str, Right]) -> ClaimResult:
    """Judges whether what is learned after selection is more than after either control of the same cost or entropy."""
    found = {name: difference(select, one) for name, one in controls.items()}
    verdicts = [verdict_of_more(select, one, LEAST, room=ROOM) for one in controls.values()]
    verdict: Verdict = "inconclusive"
    if all(one == "confirmed" for one in verdicts):
        verdict = "confirmed"
    elif "refuted" in verdicts:
        verdict = "refuted"
    seen = "; ".join(f"difference from {name} {in_points(one)}" for name, one in found.items())
    return ClaimResult(
        "Tuning on the tokens with the largest margin over the entropy leaves more to a reward: after both, more samples follow "
        "all rules than after a tuning that drops as many tokens at random, and than after one on all tokens that is stopped at "
        "the same entropy.",
        f"Confirmed: more than {LEAST * 100:g} points more samples follow all rules than after either, each with its whole 95 % "
        "interval over prompts and seeds above 0. Refuted: for one of them the whole interval is below that many points, unless "
        f"more than {share(ROOM)} of its samples follow them. Inconclusive otherwise, and where neither arm of a pair has "
        f"{share(FLOOR)}.",
        verdict,
        f"{seen}; {counted(select, 'prompts')}.",
    )


def judge_plain(select: Right, plain: Right) -> ClaimResult:
    """Judges the selection beside what a user would do otherwise: tune on all tokens, for equal tokens."""
    return _more(
        select,
        plain,
        "After the reward it is better than tuning on all tokens for as many steps.",
        "after selection than after tuning on all tokens",
    )


def judge_reward(dense: Right, sparse: Right, alike: Mapping[str, float]) -> ClaimResult:
    """Judges a reward for each rule beside one for all rules together, both after tuning on all tokens."""
    judged = _more(
        dense,
        sparse,
        "A reward that counts each rule teaches more than one for all rules together.",
        "by the reward that counts each rule",
    )
    dense_alike, sparse_alike = (share(alike[kind], digits=1) for kind in ("dense", "sparse"))
    groups = f"prompts whose samples all had one reward at first: {dense_alike}, by the sparse reward {sparse_alike}"
    return replace(judged, seen=f"{groups}; {judged.seen}")


def judge_entropy(select: Right, dropped: Right) -> ClaimResult:
    """Judges whether the selection keeps entropy, beside dropping as many tokens at random; ``Right`` are entropies here."""
    found = difference(select, dropped)
    verdict: Verdict = "inconclusive"
    if found.low > 0:
        verdict = "confirmed"
    elif found.high <= 0:
        verdict = "refuted"
    return ClaimResult(
        "Tuning on the tokens with the largest margin keeps the entropy of what is sampled.",
        "Confirmed: before the reward the entropy of a sampled token is larger than after a tuning that drops as many tokens at "
        "random, by the whole 95 % interval over prompts and seeds. Refuted: it is no larger, by the whole interval. "
        "Inconclusive otherwise.",
        verdict,
        f"difference {interval(found, '+.3f')} nats; {counted(select, 'prompts')}.",
    )


def _more(ours: Right, theirs: Right, claim: str, than: str) -> ClaimResult:
    """A claim of more samples that follow all rules."""
    found = difference(ours, theirs)
    return ClaimResult(
        claim,
        f"Confirmed: more than {LEAST * 100:g} points more samples follow all rules {than}, and the whole 95 % interval over "
        "prompts and seeds is above 0. Refuted: the whole interval is below that many points, unless more than "
        f"{share(ROOM)} of the other's samples follow them. Inconclusive otherwise, and where neither has {share(FLOOR)}.",
        verdict_of_more(ours, theirs, LEAST, room=ROOM),
        f"difference {in_points(found)}; {counted(ours, 'prompts')}.",
    )
