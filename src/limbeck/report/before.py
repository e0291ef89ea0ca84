"""The sentences of reports and cards about trainings before the student's own: rounds of pruning, and shared layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from limbeck.report.words import count


def trained_before(lineage: Mapping[str, Any]) -> str:
    """The sentences about what was trained before the student, "" where nothing was."""
    return pruned_in(lineage) or expanded_from(lineage)


def pruned_in(lineage: Mapping[str, Any]) -> str:
    """A sentence about the rounds in which a student was pruned, "" for a single one."""
    rounds = lineage.get("rounds")
    if not rounds:
        return ""
    trained = ", ".join(f"{count(one['parameters'])} parameters for {count(one['tokens'])} tokens" for one in rounds)
    return f"It was pruned in {len(rounds) + 1} rounds, and trained between them: {trained}."


def expanded_from(lineage: Mapping[str, Any]) -> str:
    """Sentences about the shared layers that a student was expanded from and what their training cost, "" without.

    The cost is given as the student's share among its family and as a whole, FLOPs without the teacher's.
    """
    shared = lineage.get("learngene")
    if not shared or "tokens" not in shared:
        return ""
    how = "linear in depth (TLEG)"
    if shared["kind"] == "stages":
        how = f"in {1 + max(shared['stages'])} stages (SWS), of which its layers are {' '.join(map(str, shared['stages']))}"
    students = shared["students"]
    return (
        f"It was expanded from {shared['layers']} layers that shared weights {how}: {count(shared['parameters'])} parameters, "
        f"distilled for {count(shared['tokens'])} tokens ({shared['flops']:.2g} FLOPs beside those of the teacher) before. Of "
        f"{students} students each is charged {count(shared['tokens'] / students)} tokens ({shared['flops'] / students:.2g} "
        f"FLOPs) of that beside its own {count(shared['own_tokens'])} ({shared['own_flops']:.2g}); made alone, it would be "
        "charged with all."
    )
