"""What a student of other mixers keeps of a text, in bytes, beside the keys and values of its teacher's attention."""

from __future__ import annotations

import bisect
from typing import Any

from limbeck.planning.cost.size import Size


def kept_bytes(student: Size, teacher: Size, *, length: int, context: int, itemsize: int) -> dict[str, Any]:
    """Bytes that either keeps after ``length`` and after ``context`` tokens, and from how many tokens on the student's are fewer.

    ``fewer_from`` is None where the student keeps no fewer at the end of the context. The teacher's keys and values grow evenly
    and what the student keeps ever more slowly, so a student that keeps fewer at the end has done so since one length.
    """

    def both(tokens: int) -> tuple[int, int]:
        return teacher.state_bytes(tokens, itemsize), student.state_bytes(tokens, itemsize)

    def fewer(tokens: int) -> bool:
        theirs, ours = both(tokens)
        return ours < theirs

    since = 1 + bisect.bisect_left(range(1, context + 1), True, key=fewer) if fewer(context) else None
    kept = [dict(zip(("tokens", "teacher", "student"), (n, *both(n)), strict=True)) for n in sorted({length, context})]
    return {"kept": kept, "context": context, "fewer_from": since, "itemsize": itemsize}
