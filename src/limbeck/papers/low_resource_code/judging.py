"""The criteria of the recipe low-resource-code. All compare greedy programs for the same descriptions, paired by seed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from limbeck.papers.lab.recipe import ClaimResult, Verdict
from limbeck.papers.lab.right import FLOOR, Right, counted, difference, in_points, learned, verdict_of_more
from limbeck.probes.interval import Interval, difference_interval
from limbeck.report.words import share

# Set before the first run, and our choices.
LEAST = 0.02  # of a difference that matters
PREVENTED = 0.8  # of what is forgotten, which replay has to prevent


def judge_small(tuned: Right, shown: Right) -> ClaimResult:
    """Judges tuning against pairs in context at the smallest size."""
    found = difference(tuned, shown)
    verdict: Verdict = "inconclusive"
    if learned(tuned, shown):
        verdict = "confirmed" if found.low > 0 else "refuted" if found.high < 0 else "inconclusive"
    return ClaimResult(
        "A small model writes more right programs of a language with few examples after tuning on these than with some of them "
        "in its context.",
        "Confirmed: more at the smallest size, by the whole 95 % interval over descriptions and seeds. Refuted: fewer, by the "
        f"whole of it. Inconclusive otherwise, and where both write fewer than {share(FLOOR)}.",
        verdict,
        f"difference {in_points(found)}; in context {share(float(shown.mean()))}; {counted(tuned, 'descriptions')}.",
    )


def judge_interaction(tuned: Sequence[Right], shown: Sequence[Right]) -> ClaimResult:
    """Judges whether the gain of tuning over pairs in context falls with size; sizes double, the smallest first."""
    found = slope(tuned, shown)
    verdict: Verdict = "inconclusive"
    if max(float(one.mean()) for one in shown) >= FLOOR:
        verdict = "confirmed" if found.high < 0 else "refuted" if found.low > 0 else "inconclusive"
    gains = ", ".join(in_points(difference(*pair)) for pair in zip(tuned, shown, strict=True))
    context = ", ".join(share(float(one.mean())) for one in shown)
    return ClaimResult(
        "The larger the model, the smaller the gain of tuning over pairs in its context.",
        "Confirmed: the slope of that gain per doubling of the width falls, by the whole 95 % interval over descriptions and "
        "seeds. Refuted: it rises, by the whole of it. Inconclusive otherwise, and where no size writes as many as "
        f"{share(FLOOR)} in context, since then there is nothing that could grow.",
        verdict,
        f"slope {in_points(found)} a doubling; gains by size {gains}; in context {context}; "
        f"{counted(tuned[0], 'descriptions')}.",
    )


def judge_translation(translated: Right, tuned: Right) -> ClaimResult:
    """Judges translations between the languages before tuning, in equally many steps."""
    found = difference(translated, tuned)
    return ClaimResult(
        "Translations between the two languages before tuning make more programs right than tuning alone, in as many steps.",
        f"Confirmed: more than {LEAST * 100:g} points more at the largest size, and the whole 95 % interval over descriptions "
        "and seeds is above 0. Refuted: the whole interval is below that many points. Inconclusive otherwise, and where both "
        f"write fewer than {share(FLOOR)}.",
        verdict_of_more(translated, tuned, LEAST),
        f"difference {in_points(found)}; {counted(tuned, 'descriptions')}.",
    )


def judge_forgetting(before: Right, after: Right) -> ClaimResult:
    """Judges what tuning costs in the language that the base knows."""
    found = difference(before, after)
    return ClaimResult(
        "Tuning on few examples of one language costs the other, which the model knew.",
        f"Confirmed: more than {LEAST * 100:g} points fewer right programs of the other language at the largest size, and the "
        "whole 95 % interval over descriptions and seeds is above 0. Refuted: the whole interval is below that many points. "
        f"Inconclusive otherwise, and where both write fewer than {share(FLOOR)}.",
        verdict_of_more(before, after, LEAST),
        f"lost {in_points(found)} of {share(float(before.mean()))}; {counted(before, 'descriptions')}.",
    )


def judge_replay(before: Right, after: Right, replayed: Right, poor: tuple[Right, Right]) -> ClaimResult:
    """Judges a tenth of the other language in each step; ``poor`` are the new language's programs, with replay first."""
    lost, price = difference(before, after), difference(*poor)
    kept = difference_interval(
        replayed - after - PREVENTED * (before - after), np.zeros_like(before), np.ones(before.shape[1])
    )
    verdict: Verdict = "inconclusive"
    if lost.low > 0 and lost.value > LEAST:
        if kept.low > 0 and price.low > -LEAST:
            verdict = "confirmed"
        elif kept.high < 0 or price.high < -LEAST:
            verdict = "refuted"
    prevented = float((replayed - after).mean()) / lost.value if lost.value > 0 else float("nan")
    return ClaimResult(
        "A tenth of the other language in each step prevents most of that, at no cost.",
        f"Confirmed: replay keeps more than {share(PREVENTED)} of what is lost, and costs at most {LEAST * 100:g} points of the "
        "new language, both by the whole 95 % interval over descriptions and seeds. Refuted: it keeps less, or costs more, by "
        "the whole of it. Inconclusive otherwise, and where nothing is lost.",
        verdict,
        f"prevented {share(prevented)} of {in_points(lost)}; the new language {in_points(price)}; "
        f"{counted(before, 'descriptions')}.",
    )


def slope(tuned: Sequence[Right], shown: Sequence[Right]) -> Interval:
    """The least-squares slope of the gain per size, the sizes evenly spaced."""
    places = np.arange(len(tuned)) - (len(tuned) - 1) / 2
    weights = places / (places**2).sum()
    gains = sum(weight * (one - other) for weight, one, other in zip(weights, tuned, shown, strict=True))
    return difference_interval(gains, np.zeros_like(tuned[0]), np.ones(tuned[0].shape[1]))
