"""The teachers of a pilot compared with a unigram model of its text: one at least must be better."""

from __future__ import annotations

import math
from collections.abc import Sequence

from limbeck.jobs.common.task import Task
from limbeck.jobs.pair.unigram import UnigramComparison, knowledge
from limbeck.jobs.pilot.tasks import result_of
from limbeck.planning.checks.finding import Finding, check


def known_of(task: Task) -> UnigramComparison | None:
    """The comparison of a trained teacher with a unigram model; None for other tasks, and for those of earlier versions."""
    found = result_of(task.folder).get("known") if task.kind == "teacher" and task.done else None
    return found and UnigramComparison(
        math.nan if found["teacher"] is None else found["teacher"], found["unigram"], found["documents"]
    )


def warnings_of(task: Task) -> list[Finding]:
    """Warnings about teachers that are hardly better. They are not errors, since a pilot has small teachers too."""
    return [f for f in knowledge(known_of(task), f"teacher {task.name}", anyway=True) if f.level != "ok"]


def require_one(tasks: Sequence[Task], *, anyway: bool) -> None:
    """Raises Mismatch if all teachers are trained and none is better than a unigram model, unless ``anyway``."""
    found = [known_of(task) for task in tasks if task.kind == "teacher"]
    if anyway or not found or any(one is None or one.teacher < one.unigram for one in found):
        return
    bits = "; ".join(f"{one.teacher:.3f} where it has {one.unigram:.3f}" for one in found if one is not None)
    remedy = "give larger teachers, a larger --scale or more text; --any-teacher continues anyway"
    message = (
        f"none of the {len(found)} teachers knows more of this text than a unigram model, in bits per byte: {bits}"
    )
    check([Finding("knowledge", "error", message, remedy)])
