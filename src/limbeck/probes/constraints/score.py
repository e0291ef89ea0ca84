"""How many constraints answers follow, strictly and loosely, and how many they would follow by chance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from limbeck.probes.constraints.items import Item

_OTHERS = 10  # other prompts whose answers are checked against a prompt's constraints


def followed(answer: str, item: Item, *, loose: bool = False) -> int:
    """The number of an item's constraints that an answer follows.

    ``loose``: a constraint is followed where it is so by the answer without its first line, last line, both or neither, with or
    without its asterisks: IFEval's loose accuracy, which forgives an opening such as "Sure, here is ...".
    """
    forms = _forms(answer) if loose else [answer]
    return sum(any(constraint.follows(form) for form in forms) for constraint in item.constraints)


def by_chance(answers: Sequence[str], items: Sequence[Item]) -> Float[np.ndarray, " items"]:
    """The mean number of each item's constraints that answers to other prompts follow, strictly; NaN for a single item.

    Many constraints are followed by almost any text, such as words to avoid.
    """
    others = range(1, min(_OTHERS, len(items) - 1) + 1)
    if not others:
        return np.full(len(items), np.nan)
    found = [[followed(answers[(i + k) % len(items)], item) for k in others] for i, item in enumerate(items)]
    return np.mean(found, axis=1)


def _forms(answer: str) -> list[str]:
    lines = answer.split("\n")
    parts = [answer, *("\n".join(some).strip() for some in (lines[1:], lines[:-1], lines[1:-1]))]
    return [form for part in parts for form in (part, part.replace("*", ""))]
