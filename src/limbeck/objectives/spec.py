"""An objective's text, parsed once: its properties, and a new objective for each training."""

from __future__ import annotations

import math
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass, field

from limbeck.objectives.base import Objective, terms_of
from limbeck.objectives.basic import CrossEntropy
from limbeck.objectives.parse import code_of, parse
from limbeck.objectives.preference import single


@dataclass(frozen=True)
class ObjectiveSpec:
    """``text`` as the user wrote it, and the objective that it names. Two specs with the same text are equal.

    ``objective`` is for reading only: trainings change state, so each uses its own from `make`.
    """

    text: str
    objective: Objective = field(compare=False, repr=False)

    @classmethod
    def of(cls, text: str, *, pairs: bool = False) -> ObjectiveSpec:
        """Parses a text. ``pairs``: whether pairs of completions may be compared, as `limbeck tune` can.

        Raises BadObjective with what was expected at which column, and for an objective of pairs where there are none.
        """
        found = parse(text)
        if found.compares_pairs and not pairs:
            raise single(found)
        return cls(text, found)

    def make(self) -> Objective:
        """A new objective at the start of its schedules."""
        return deepcopy(self.objective)

    @property
    def needs_teacher(self) -> bool:
        """Whether its loss is computed from a teacher."""
        return self.objective.needs_teacher

    @property
    def is_cross_entropy(self) -> bool:
        """Whether it is cross-entropy of the text alone, whose weights add up to 1."""
        terms = terms_of(self.objective)
        return all(type(term) is CrossEntropy for _, term in terms) and math.isclose(sum(w for w, _ in terms), 1.0)

    @property
    def compares_pairs(self) -> bool:
        """Whether it is a loss of two completions of a prompt."""
        return self.objective.compares_pairs

    @property
    def canonical(self) -> str:
        """The text with every parameter named, the same for all ways to write one objective."""
        return repr(self.objective)

    @property
    def terms(self) -> list[Objective]:
        """The terms of a sum, or the objective alone. For reading: `make` gives one to train with."""
        return [term for _, term in terms_of(self.objective)]

    @property
    def parts(self) -> Iterable[Objective]:
        """All objectives in it, including the arguments of others. For reading only."""
        return (part for part in self.objective.modules() if isinstance(part, Objective))

    @property
    def code(self) -> dict[str, str]:
        """SHA-256 of the files with the user's own classes in it, by class."""
        return code_of(self.objective)


def any_needs_teacher(objectives: Iterable[ObjectiveSpec]) -> bool:
    """Whether one of these is computed from a teacher."""
    return any(spec.needs_teacher for spec in objectives)
