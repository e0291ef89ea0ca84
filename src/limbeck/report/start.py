"""What a run began with: the student before it was trained, which is the bare cut or a converted one, and the teacher's price."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from limbeck.planning.checks.price import Price


@dataclass(frozen=True)
class Start:
    """What the arm "cut" is called: ``label`` in tables, ``name`` in sentences, ``means`` where a report explains it.

    ``made`` is what "cut" stands for in the names of baselines.
    ``shared`` is what several seeds have in common, and no interval over them shows; "" where nothing was drawn.
    """

    label: str
    name: str
    means: str
    shared: str = ""
    made: str = "cut"


CUT = Start("cut only", "the untrained cut", "The student as it was cut out of the teacher, untrained.")
GIVEN = Start(
    "given, untrained",
    "the student before training",
    "The student as it was given with --student, not yet trained here.",
    made="given",
)
CONVERTED = Start(
    "converted only",
    "the student as it was converted",
    "The student with other mixers in the place of attention, untrained.",
    "all seeds start from one converted student",
)
MATCHED = Start(
    "matched only",
    "the student after matching",
    "The student after its mixers or layers were matched to attention's, before it was distilled.",
    "all seeds start from one matched student",
)


def start_of(run: Mapping[str, Any]) -> Start:
    """The start of a run, from what its run.json holds."""
    conversion = run.get("conversion")
    if not conversion:
        return GIVEN if run.get("signature", {}).get("student") else CUT
    return MATCHED if conversion["tokens"] else CONVERTED


def price_of(run: Mapping[str, Any]) -> Price | None:
    """What the teacher's logits cost, from what run.json holds; by the parameters alone in a run from before it held that."""
    teacher, student = run["teacher"], run["student"]
    forward = teacher.get("passes", 1.0)
    if not forward:
        return None
    return Price(teacher.get("price", teacher["parameters"] / (3 * student["parameters"])), 1 / forward)
