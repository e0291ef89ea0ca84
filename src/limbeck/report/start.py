"""The start of a run: the student before training (pruned, given or converted), and the cost of the teacher's logits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from limbeck.planning.checks.price import Price
from limbeck.report.experts import experts_sentence


@dataclass(frozen=True)
class Start:
    """The names of the baseline "cut" in a report: ``label`` in tables, ``name`` in sentences, ``means`` where it is explained.

    ``made`` is the first word of the baselines that train from the same start, ``trained`` the name of what was trained.
    ``shared`` is what several seeds have in common, and no interval over them shows; "" where nothing was drawn.
    """

    label: str
    name: str
    means: str
    shared: str = ""
    made: str = "pruned"
    trained: str = "student"


CUT = Start(
    "pruned, untrained",
    "the untrained student",
    "The student as it was pruned from the teacher, before any training.",
    "all seeds start from one pruned student",  # of units that were chosen on a sample of the text
)
GIVEN = Start(
    "given, untrained",
    "the student before training",
    "The student as it was given with --student, before any training here.",
    made="given",
)
CONVERTED = Start(
    "converted, untrained",
    "the converted student before training",
    "The student with other mixers in place of attention, before any training.",
    "all seeds start from one converted student",
)
MATCHED = Start(
    "matched, not distilled",
    "the student after matching",
    "The student after its mixers or layers were matched to those with attention, before distillation.",
    "all seeds start from one matched student",
)

ROUNDED = Start(
    "pruned in rounds, before the last training",
    "the student after the last pruning",
    "The student as the last round pruned it from a larger one, which was trained after the rounds before.",
    "all seeds start from one student pruned in rounds",
)

EXPANDED = Start(
    "expanded, before its own training",
    "the student as expanded",
    "The student as it was expanded from the layers that its family shares, which were distilled before.",
    "all seeds start from one training of shared layers",
    made="expanded",
)


BEFORE = Start(
    "before tuning",
    "the model before tuning",
    "The model as it was given with --student, before any training here.",
    "all seeds start from one model",
    made="given",
    trained="tuned",
)

FACTORED = Start(
    "factored, untrained",
    "the student before training",
    "The student of low-rank factors of its teacher's matrices, before any training.",
    "all seeds start from one factored student",
    made="factored",
)


def start_of(run: Mapping[str, Any]) -> Start:
    """The start of a run, from what its run.json holds."""
    if is_tuning(run):
        return BEFORE
    conversion, lineage = run.get("conversion"), run.get("lineage") or {}
    if not conversion:
        if lineage.get("rounds"):
            return ROUNDED
        if lineage.get("learngene"):
            return EXPANDED
        if run.get("signature", {}).get("student"):
            return GIVEN
        if lineage.get("low_rank"):
            return FACTORED
        if experts := lineage.get("experts"):
            return replace(CUT, label="made dense, untrained", means=f"{CUT.means} {experts_sentence(experts)}")
        return CUT
    return MATCHED if conversion["tokens"] else CONVERTED


def is_tuning(run: Mapping[str, Any]) -> bool:
    """Whether it is a run of `limbeck tune`, which has a model before and after, and no teacher."""
    return bool((run.get("signature") or {}).get("job") == "tune")


def price_of(run: Mapping[str, Any]) -> Price | None:
    """The price of the teacher's logits, from run.json; estimated from the parameters for runs of older versions."""
    teacher, student = run["teacher"], run["student"]
    forward = teacher.get("passes", 1.0)
    if not forward:
        return None
    once = teacher.get("price", teacher["parameters"] / (3 * student["parameters"]))
    return Price(
        once,
        1 / forward,
        generated=teacher.get("generated", 0.0),
        forward=teacher.get("forward", 1 / 3),
        corrected=teacher.get("corrected", 0.0),
        judged=teacher.get("judged", 0.0),
    )
