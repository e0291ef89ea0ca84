"""Every objective by the name of its class: limbeck's own, marked with ``@objective`` in this folder, and those of packages."""

from __future__ import annotations

import inspect

from limbeck.objectives.base import Objective
from limbeck.plugins import Marked, Registry


def is_objective(kind: object) -> bool:
    """Whether this is a class of objectives."""
    return inspect.isclass(kind) and issubclass(kind, Objective) and kind is not Objective


def _wrong(name: str, kind: object) -> str:
    if not (inspect.isclass(kind) and is_objective(kind)):
        return "expected a class that inherits from limbeck.Objective and defines forward(logits, signal, chunk)"
    # the text form of an objective has the name of its class, and must be parsed back
    return "" if kind.__name__ == name else f"expected its name to be that of its class, {kind.__name__}"


OBJECTIVES: Registry[type[Objective]] = Registry("objective", Marked("objectives", "objective"), _wrong)
