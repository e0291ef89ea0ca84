"""Bytes of the state of a student with other mixers, compared with its teacher's key-value cache."""

from __future__ import annotations

import bisect
from typing import Any

from limbeck.planning.cost.size import Size


def kept_bytes(student: Size, teacher: Size, *, length: int, context: int, itemsize: int) -> dict[str, Any]:
    """State bytes of teacher and student after ``length`` and ``context`` tokens, and when the student's state gets smaller.

    ``fewer_from`` is the number of tokens from which the student's state is smaller, or None if it never is within the context.
    The teacher's cache grows linearly and the student's state ever more slowly, so there is one such number.
    """

    def both(tokens: int) -> tuple[int, int]:
        return teacher.state_bytes(tokens, itemsize), student.state_bytes(tokens, itemsize)

    def fewer(tokens: int) -> bool:
        theirs, ours = both(tokens)
        return ours < theirs

    since = 1 + bisect.bisect_left(range(1, context + 1), True, key=fewer) if fewer(context) else None
    kept = [dict(zip(("tokens", "teacher", "student"), (n, *both(n)), strict=True)) for n in sorted({length, context})]
    return {"kept": kept, "context": context, "fewer_from": since, "itemsize": itemsize}
