"""A student, or its teacher, that was trained by adapters, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from limbeck.report.verdict import Difference
from limbeck.report.words import bounded, count, share, without_sign


def adapted_note(run: Mapping[str, Any]) -> str:
    """The note of a report about a training of adapters; "" where all weights were trained."""
    found = run.get("adapters")
    if not found:
        return ""
    numbers, parameters = found["numbers"], (run.get("student") or {}).get("parameters")
    part = f" ({share(numbers / parameters, digits=1)} of its weights)" if parameters else ""
    under = "weights that stayed as they were; they"
    if found.get("four_bit"):
        under = "weights that were rounded to 4 bits (NF4). The student has the rounded weights. The adapters"
    return (
        f"The student and its baselines of cross-entropy are adapters of rank {found['rank']}, {count(numbers)} numbers{part}, "
        f"on {under} are merged into the student, and kept as files of PEFT in the folder adapter. "
        f"A step of all weights costs {found['whole']:.2f} times the FLOPs of one of the adapters, without the teacher's."
    )


def adapted_sentence(run: Mapping[str, Any]) -> str:
    """What a model card says of it; "" where all weights were trained."""
    found = run.get("adapters")
    if not found:
        return ""
    rounded = ", which were rounded to 4 bits (NF4)" if found.get("four_bit") else ""
    return (
        f" What was trained are adapters of rank {found['rank']}, {count(found['numbers'])} numbers, merged into the weights"
        f"{rounded}."
    )


def rounded(plan: Mapping[str, Any]) -> list[str]:
    """The note of a tuning on weights in 4 bits, of which ``plan`` is that of run.json; none of others."""
    if not plan.get("four_bit"):
        return []
    return ["the tuned model's linear layers have weights that were rounded to 4 bits (NF4), in which they were held"]


def corrected_note(run: Mapping[str, Any], gain: Difference) -> str:
    """The note of a report about a teacher that was tuned first; ``gain``: nats per token of it as given above it as tuned."""
    found = run["correction"]
    before = f"{bounded(*without_sign(gain))} nats per token {'lower' if gain.value >= 0 else 'higher'}"
    return (
        f"The teacher was corrected first: adapters of rank {found['rank']} ({count(found['numbers'])} numbers) were trained on "
        f"{count(found['tokens'])} tokens of this text, and its loss on {gain.n} held-out documents is {before} than before. The "
        f"student is pruned from the teacher as given. Equal compute counts these {found['flops']:.2g} FLOPs; a seed is charged "
        "with all of them."
    )


def corrected_sentence(run: Mapping[str, Any]) -> str:
    """What a model card says of it; "" where the teacher taught as given."""
    found = run.get("correction")
    return f" Its teacher was tuned on {count(found['tokens'])} tokens of the same text first." if found else ""
