"""The sentence of reports and cards about pruning in rounds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from limbeck.report.words import count


def pruned_in(lineage: Mapping[str, Any]) -> str:
    """A sentence about the rounds in which a student was pruned, "" for a single one."""
    rounds = lineage.get("rounds")
    if not rounds:
        return ""
    trained = ", ".join(f"{count(one['parameters'])} parameters for {count(one['tokens'])} tokens" for one in rounds)
    return f"It was pruned in {len(rounds) + 1} rounds, and trained between them: {trained}."
