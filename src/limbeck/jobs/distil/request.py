"""The request of `limbeck distil` and `limbeck doctor`: settings, with teacher and objectives parsed once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from limbeck.config import DistilSettings
from limbeck.objectives.spec import ObjectiveSpec, any_needs_teacher
from limbeck.teachers.ref import TeacherRef, computed_here, teacher_ref


@dataclass(frozen=True)
class DistilRequest:
    """Settings of one student or of a sweep, which may have several ``objectives``."""

    settings: DistilSettings
    teacher: TeacherRef
    objectives: tuple[ObjectiveSpec, ...]

    @classmethod
    def of(cls, settings: DistilSettings) -> DistilRequest:
        """Parses teacher and objectives. Raises BadSetting or BadObjective for a text that names none."""
        teacher = teacher_ref(settings.teacher, settings.tokenizer)
        return cls(settings, teacher, tuple(map(ObjectiveSpec.of, settings.objectives)))

    @property
    def needs_teacher(self) -> bool:
        """Whether one of the objectives is computed from the teacher."""
        return any_needs_teacher(self.objectives)

    @property
    def computing(self) -> tuple[str | Path | None, ...]:
        """The models whose configurations say what a run computes with: a student that is given, a teacher that is here."""
        return self.settings.student, computed_here(self.teacher)

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
