"""What would fit, for a training that ran out of memory with one sequence at a time."""

from __future__ import annotations

from dataclasses import replace

from limbeck.models.language_model import LanguageModel
from limbeck.planning.checks.pair import PlannedRun
from limbeck.planning.checks.resources import free_memory, what_fits
from limbeck.planning.cost.fitting import FULL, needed
from limbeck.planning.cost.size import Size


def what_would_fit(run: PlannedRun, student: LanguageModel, teacher: object, *, checkpointed: bool) -> str:
    """The fastest setting that needs less than one sequence at a time did, by the estimate; or why there is none.

    ``checkpointed``: whether layers were computed twice. ``teacher`` counts if it is a model in memory.
    """
    size = Size.of(student.config)
    other = Size.of(teacher.config) if isinstance(teacher, LanguageModel) else None
    asked = run.asked(size, other, student.config)
    peak = run.peak(size, other, student.config)
    failed = replace(asked.use, rows=1, checkpointed=checkpointed)
    return what_fits(asked, peak, min(FULL * free_memory(run.device), needed(peak, failed, asked) - 1))
