"""How reports say that a mixture of experts became a dense student."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def experts_sentence(experts: Mapping[str, Any]) -> str:
    """What a lineage holds of its experts, as a sentence."""
    used, there = experts["experts"]
    if experts["method"] == "merged":
        beside = ", beside the shared expert" if experts["shared"] else ""
        return f"The {there} experts of each layer were merged into {used} by their routing weights{beside}."
    shared = " and the shared expert" if experts["shared"] else ""
    return (
        f"Each FFN was made of {used} of its {there} experts{shared}; those chosen have {experts['routed']:.0%} of the routing "
        "weight on the calibration sample."
    )
