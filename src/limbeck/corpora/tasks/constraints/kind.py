"""A kind of constraint: what follows it, and what arguments it takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

AT_LEAST, AT_MOST = "at_least", "at_most"  # bounds of a count, both included
BOUNDS: Mapping[str, type] = {AT_LEAST: int, AT_MOST: int}


def _faultless(**arguments: object) -> str:
    return ""


@dataclass(frozen=True)
class Kind:
    """A kind of constraint. ``follows(answer, **arguments)`` says whether an answer does.

    ``arguments`` and ``optional`` ones have their types, a list is of texts; ``choices`` are the values of those that have few.
    ``fault(**arguments)`` is what is wrong with arguments of these types, "" for nothing.
    """

    follows: Callable[..., bool]
    arguments: Mapping[str, type] = field(default_factory=dict)
    optional: Mapping[str, type] = field(default_factory=dict)
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    fault: Callable[..., str] = _faultless


def bounded(count: int, at_least: int = 0, at_most: int | None = None) -> bool:
    """Whether a count lies within bounds, which are included; without ``at_most`` there is none above."""
    return at_least <= count and (at_most is None or count <= at_most)


def bounds_fault(*, at_least: int | None = None, at_most: int | None = None, **others: object) -> str:
    """What is wrong with bounds."""
    if at_least is None and at_most is None:
        return f"expected {AT_LEAST!r}, {AT_MOST!r} or both, got neither"
    if min(bound for bound in (at_least, at_most) if bound is not None) < 0:
        return f"expected {AT_LEAST!r} and {AT_MOST!r} to be 0 or more"
    if at_least is not None and at_most is not None and at_least > at_most:
        return f"expected {AT_LEAST!r} not to be above {AT_MOST!r}, got {at_least} and {at_most}"
    return ""
