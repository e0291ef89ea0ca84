"""The criteria of the recipe lora-sb."""

from __future__ import annotations

from limbeck.papers.lab.paired import Losses, gain
from limbeck.papers.lab.recipe import ClaimResult, Verdict
from limbeck.report.words import interval

# Set before the first run. Our choice: 0.01 nats is one per cent of perplexity, too little to choose a method for.
LEAST = 0.01


def judge_subspace(weights: Losses, sb: Losses) -> ClaimResult:
    """Judges whether the subspace of the first update is better than that of the weights, as published."""
    return _lower(
        weights,
        sb,
        "At equal rank LoRA-SB is better than LoRA-XS, whose matrices are singular vectors of the weights.",
        "LoRA-SB",
        "LoRA-XS",
    )


def judge_start(gradient: Losses, sb: Losses) -> ClaimResult:
    """Judges whether the update's sign and its start are worth more than the plain gradient's subspace."""
    return _lower(
        gradient,
        sb,
        "What LoRA-SB gains is due to AdamW's first step: its sign and its start are better than the subspace of the plain "
        "gradient, with a start at the model itself.",
        "LoRA-SB",
        "the same adapters in the subspace of the gradient, from zero",
    )


def judge_lora(lora: Losses, sb: Losses) -> ClaimResult:
    """Judges LoRA-SB against LoRA at equal numbers of trained numbers."""
    return _lower(
        lora,
        sb,
        "With as many trained numbers LoRA-SB is better than LoRA.",
        "LoRA-SB",
        "LoRA of a rank with as many trained numbers, to five per cent",
    )


def judge_random(random: Losses, gradient: Losses) -> ClaimResult:
    """Judges whether a subspace of the data is worth anything: against random directions of equal rank."""
    return _lower(
        random,
        gradient,
        "The directions matter: the subspace of the gradient is better than random directions of equal rank.",
        "a tuning in the subspace of the gradient",
        "one in random orthonormal directions",
    )


def _lower(other: Losses, ours: Losses, claim: str, our: str, their: str) -> ClaimResult:
    """A claim about a lower loss on held-out text."""
    found = gain(other, ours)
    verdict: Verdict = "inconclusive"
    if found.low > 0:
        verdict = "confirmed"
    elif found.high < LEAST:
        verdict = "refuted"
    return ClaimResult(
        claim,
        f"Confirmed: {our} has a lower held-out loss than {their}, by the whole 95 % interval over documents and seeds. Refuted: "
        f"the whole interval is below {LEAST} nats per token. Inconclusive otherwise.",
        verdict,
        f"difference in nats per token {interval(found, '+.4f')}; n = {ours.shape[1]} documents, {ours.shape[0]} seeds.",
    )
