"""Settings of a distillation that exclude one another."""

from __future__ import annotations

from collections.abc import Iterable

from limbeck.errors import BadSetting


def refuse_together(what: str, others: Iterable[tuple[str, object, str]]) -> None:
    """Raises BadSetting for the first of ``others`` that is given: its flag, its value or whether it is set, and why not."""
    for flag, given, why in others:
        if given:
            raise BadSetting(f"{what} does not go with {flag}: {why}; leave one of the two out")
