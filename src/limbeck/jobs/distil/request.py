"""The request of `limbeck distil` and `limbeck doctor`: settings, with teacher and objectives parsed once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from limbeck.config import DistilSettings
from limbeck.jobs.distil.domains import Domains
from limbeck.objectives.spec import ObjectiveSpec, any_needs_teacher
from limbeck.teachers.ref import TeacherRef, computed_here, teacher_ref


@dataclass(frozen=True)
class DistilRequest:
    """Settings of one student or of a sweep, which may have several ``objectives``.

    ``teacher`` is the one that a student is made from: the only one, or the first of those of the ``domains``.
    """

    settings: DistilSettings
    teacher: TeacherRef
    objectives: tuple[ObjectiveSpec, ...]
    domains: Domains | None = None

    @classmethod
    def of(cls, settings: DistilSettings) -> DistilRequest:
        """Parses teachers and objectives. Raises BadSetting or BadObjective for a text that names none."""
        settings, domains = Domains.of(settings)
        teacher = domains.teachers[0] if domains else teacher_ref(settings.teacher, settings.tokenizer)
        return cls(settings, teacher, tuple(map(ObjectiveSpec.of, settings.objectives)), domains)

    @property
    def needs_teacher(self) -> bool:
        """Whether one of the objectives is computed from the teacher."""
        return any_needs_teacher(self.objectives)

    @property
    def computing(self) -> tuple[str | Path | None, ...]:
        """The models whose configurations say what a run computes with: a student that is given, teachers that are here."""
        others = self.domains.teachers[1:] if self.domains else ()
        return self.settings.student, *map(computed_here, (self.teacher, *others))

    @property
    def objective(self) -> ObjectiveSpec:
        """The only objective. Call it for one student, not for a sweep."""
        (spec,) = self.objectives
        return spec

    def but(self, **settings: Any) -> DistilRequest:
        """The request with some settings replaced; not for the teacher or the objective."""
        return replace(self, settings=self.settings.model_copy(update=settings))

    def member(self, objective: ObjectiveSpec, **settings: Any) -> DistilRequest:
        """The request of one student of a sweep."""
        own = self.settings.model_copy(update=settings | {"objective": objective.text})
        return replace(self, settings=own, objectives=(objective,))
