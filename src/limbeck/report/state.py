"""The cost of a converted student beside its teacher, in words: parameters, and bytes of state kept for a text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from limbeck.report.words import count, size


def state_rows(run: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Rows of the table of costs: (what, teacher's, student's, student's share of the teacher's)."""
    return [
        (
            f"kept of a text of {row['tokens']:,} tokens",
            size(row["teacher"]),
            size(row["student"]),
            f"{row['student'] / row['teacher']:.2f}×",
        )
        for row in (run.get("state") or {}).get("kept", ())
    ]


def fewer(run: Mapping[str, Any]) -> str:
    """The length from which the student keeps fewer bytes than its teacher; "" where that was not counted."""
    state = run.get("state")
    if not state:
        return ""
    if state["fewer_from"] is None:
        return f"never fewer bytes within the teacher's context of {state['context']:,} tokens"
    if state["fewer_from"] == 1:
        return "fewer bytes from the first token on"
    return f"fewer bytes from {state['fewer_from']:,} tokens on"


def state_sentence(run: Mapping[str, Any]) -> str:
    """A converted student's cost in a sentence; "" where it was not counted."""
    state = run.get("state")
    if not state:
        return ""
    ours, theirs = (run[model]["parameters"] for model in ("student", "teacher"))
    texts = " and ".join(
        f"{size(row['student'])} of a text of {row['tokens']:,} tokens (the teacher {size(row['teacher'])})"
        for row in state["kept"]
    )
    return (
        f"The student has {count(ours)} parameters, {ours / theirs:.2f} of the teacher's, and keeps {texts}: "
        f"{fewer(run)}, with numbers of {state['itemsize']} bytes."
    )
