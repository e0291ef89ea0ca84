"""The sentence of cards about a model that was grown from a smaller one (`students.grow`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from limbeck.report.words import count

_HOW = {
    "widen": "by copies of its channels, heads and neurons",
    "stack": "by repeating its layers",
    "pad": "by channels, heads, neurons and layers that were zeros at first",
    "interleave": "by new layers between its own",
    "mixture": "side by side",
}


def grown_from(lineage: Mapping[str, Any]) -> str:
    """`grown from NAME (SIZE) by repeating its layers`, "" for a model that was not grown."""
    facts = lineage.get("grown")
    if facts is None:
        return ""
    sources = " and ".join(f"{one['name']} ({count(one['parameters'])})" for one in facts["of"])
    return f"grown from {sources} {_HOW[facts['op']]}"
