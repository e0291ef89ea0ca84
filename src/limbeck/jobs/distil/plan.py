"""What a run of `limbeck distil` is to do, from its settings and configurations, before any weights are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transformers.configuration_utils import PreTrainedConfig

from limbeck.corpora.source import resolve as resolve_source
from limbeck.jobs.common.environment import Environment, batch_rows, row_length
from limbeck.jobs.common.folder import signature_of
from limbeck.jobs.common.rates import schedule_of
from limbeck.jobs.common.text import columns_of
from limbeck.jobs.distil.align import check_align
from limbeck.jobs.distil.conversion import Conversion, Planned, check_conversion
from limbeck.jobs.distil.request import DistilRequest
from limbeck.jobs.pair.student import target_shape
from limbeck.models.configuration import load_config
from limbeck.run.optim import Schedule
from limbeck.students.shape import Shape, config_of
from limbeck.teachers.ref import CapturedRef


@dataclass(frozen=True)
class Budget:
    """How much is trained on: ``steps`` optimiser steps of ``rows`` rows of ``length`` tokens each."""

    length: int
    rows: int
    steps: int

    @property
    def tokens(self) -> int:
        """Positions of all rows, padding included."""
        return self.steps * self.rows * self.length


@dataclass(frozen=True)
class DistilPlan:
    """The plan of one student, made once by `of` and handed to every stage.

    ``target``: the shape to prune to, None for a student as it is. ``conversion``: None where mixers stay. Of the budget's steps
    the first ``matched`` are a conversion's.
    """

    request: DistilRequest
    target: Shape | None
    conversion: Conversion | None
    budget: Budget
    matched: int
    schedule: Schedule

    @classmethod
    def of(cls, request: DistilRequest, environment: Environment) -> DistilPlan:
        """Checks the settings, whether the text is there, and the configuration. Raises a LimbeckError for what does not fit."""
        settings = request.settings
        check_align(request)
        target = target_shape(settings, request.teacher)
        conversion = check_conversion(request, target)
        if not isinstance(request.teacher, CapturedRef):  # which holds the text
            for text in filter(None, (settings.data, settings.eval_data)):
                resolve_source(text, columns_of(settings))
        config = load_config(settings.student or request.teacher.config_source)
        first = settings.student or settings.teacher
        context = getattr(config, "max_position_embeddings", None)
        extra = 0 if settings.student else request.teacher.extra_tokens
        length = row_length(settings, context, environment.world.device, name=first, extra=extra)
        rows, steps = batch_rows(settings, length, environment.world.size)
        matched = sum(conversion.steps(steps).values()) if conversion else 0
        schedule = schedule_of(settings, planned_config(request, target, conversion, config))
        return cls(request, target, conversion, Budget(length, rows, steps), matched, schedule)

    def signature(self, answers: dict[str, Any], environment: Environment) -> dict[str, Any]:
        """What decides the result of the run, as run.json keeps it; ``answers``: the same of captured logits."""
        objective, budget = self.request.objective, self.budget
        derived = {"objective": objective.canonical, "length": budget.length, "rows": budget.rows}
        derived |= {"steps": budget.steps, "bf16": environment.bf16} | answers | {"schedule": self.schedule}
        if code := objective.code:
            derived["objective_code"] = code
        return signature_of(self.request.settings, "distil", **derived)


def planned_config(
    request: DistilRequest, target: Shape | None, conversion: Conversion | None, config: PreTrainedConfig
) -> PreTrainedConfig:
    """The configuration of the student that is still to be made, or of the one that is given (``config``)."""
    if conversion:
        return Planned.of(request, conversion, target).student
    return config if target is None else config_of(target, config)
