"""What a user asks of `limbeck distil` and `limbeck doctor`: settings, and what their texts name, parsed once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from limbeck.config import DistilSettings
from limbeck.objectives.spec import ObjectiveSpec, any_needs_teacher
from limbeck.teachers.ref import TeacherRef, teacher_ref


@dataclass(frozen=True)
class DistilRequest:
    """Settings of one student or a sweep of them; ``objectives``: one, or as many as a sweep has."""

    settings: DistilSettings
    teacher: TeacherRef
    objectives: tuple[ObjectiveSpec, ...]

    @classmethod
    def of(cls, settings: DistilSettings) -> DistilRequest:
        """Parses teacher and objectives. Raises BadSetting or BadObjective where a text names none."""
        teacher = teacher_ref(settings.teacher, settings.tokenizer)
        return cls(settings, teacher, tuple(map(ObjectiveSpec.of, settings.objectives)))

    @property
    def needs_teacher(self) -> bool:
        """Whether one of the objectives is computed from the teacher."""
        return any_needs_teacher(self.objectives)

    @property
    def objective(self) -> ObjectiveSpec:
        """The objective of one student."""
        (spec,) = self.objectives
        return spec

    def but(self, **settings: Any) -> DistilRequest:
        """With other settings, of which teacher and objective are none."""
        return replace(self, settings=self.settings.model_copy(update=settings))

    def member(self, objective: ObjectiveSpec, **settings: Any) -> DistilRequest:
        """The request of one student of a sweep."""
        own = self.settings.model_copy(update=settings | {"objective": objective.text})
        return replace(self, settings=own, objectives=(objective,))
