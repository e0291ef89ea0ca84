"""The criteria of the recipe learngene."""

from __future__ import annotations

from collections.abc import Mapping

from limbeck.papers.lab.paired import Losses, gain
from limbeck.papers.lab.recipe import ClaimResult, Verdict
from limbeck.report.words import interval

MOST = 2 / 3  # the share of the depths at which a claim has to hold

ByDepth = Mapping[int, Losses]  # losses of a family, by the number of layers


def judge_stages(random: ByDepth, stages: ByDepth) -> ClaimResult:
    """Judges whether students from shared stages that began at random are better than random ones, as published."""
    return _at_most_depths(
        random,
        stages,
        "Students expanded from shared stages, which began at random, are better than students that begin at random, at equal "
        "tokens in all.",
        "a student from shared stages",
        "one from random weights that is trained for its tokens and its share of the auxiliary's",
    )


def judge_linear(random: ByDepth, linear: ByDepth) -> ClaimResult:
    """Judges the same of layers whose weights are linear in their depth."""
    return _at_most_depths(
        random,
        linear,
        "Students expanded from layers that are linear in depth, which began at random, are better than students that begin at "
        "random, at equal tokens in all.",
        "a student from linear layers",
        "one from random weights that is trained for its tokens and its share of the auxiliary's",
    )


def judge_layers(layers: ByDepth, stages: ByDepth) -> ClaimResult:
    """Judges whether sharing pays where the teacher can be cut, at equal tokens."""
    return _at_most_depths(
        layers,
        stages,
        "Sharing pays even with the teacher at hand: students from stages that began as its layers are better than its layers, "
        "at equal tokens in all.",
        "a student from shared stages",
        "one with layers of the teacher that is trained for its tokens and its share of the auxiliary's",
    )


def judge_flops(layers: ByDepth, stages: ByDepth) -> ClaimResult:
    """Judges the same at equal FLOPs, those of the shared training included."""
    return _at_most_depths(
        layers,
        stages,
        "Sharing pays even with the teacher at hand, at equal FLOPs in all.",
        "a student from shared stages that began as layers of the teacher",
        "one with layers of the teacher that is trained for its FLOPs and its share of the auxiliary's, the teacher's among them",
    )


def _at_most_depths(others: ByDepth, ours: ByDepth, claim: str, our: str, other: str) -> ClaimResult:
    """A claim about a lower loss at most depths."""
    gains = {depth: gain(losses, ours[depth]) for depth, losses in others.items()}
    better = sum(one.low > 0 for one in gains.values())
    verdict: Verdict = "inconclusive"
    if better >= MOST * len(gains):
        verdict = "confirmed"
    elif all(one.value <= 0 for one in gains.values()):
        verdict = "refuted"
    seen = ", ".join(f"{interval(one, '+.3f')} with {depth} layers" for depth, one in gains.items())
    losses = next(iter(ours.values()))
    return ClaimResult(
        claim,
        f"Confirmed: {our} has a lower held-out loss than {other}, by the whole 95 % interval over documents and seeds, at two "
        "thirds of the depths or more. Refuted: it is lower at none, not even in the mean. Inconclusive otherwise.",
        verdict,
        f"difference in nats per token {seen}; n = {losses.shape[1]} documents, {losses.shape[0]} seeds.",
    )
