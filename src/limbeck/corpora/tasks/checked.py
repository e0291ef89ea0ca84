"""Prompts whose answers a program checks, where no list of answers can: several parts of an answer pass or fail.

A check is a pure function of the answer's text. It is limbeck's own or the user's; what a model wrote is parsed, never executed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from limbeck.errors import BadTask


@dataclass(frozen=True)
class Checked:
    """A prompt and the check of its answer: ``check`` gives for each of ``parts`` whether it passes, for any text.

    ``longest`` is the number of bytes after which an answer without an end fails. Raises BadTask for a check that an empty
    answer passes in any part, since a model that writes nothing would have a score, and for one of other parts.

    >>> Checked("2+2=", lambda text: (text.isdecimal(), text == "4"), ("number", "right"), longest=4).passes("5", ended=True)
    False
    """

    prompt: str
    check: Callable[[str], tuple[bool, ...]]
    parts: tuple[str, ...]
    longest: int

    def __post_init__(self) -> None:
        empty = self.check("")
        if len(empty) != len(self.parts) or not self.parts:
            raise BadTask(
                f"the check of {self.prompt[:60]!r}: expected a result for each of its parts, got {len(empty)} for "
                f"{', '.join(self.parts) or 'none'}: give each part a name"
            )
        if any(empty):
            passed = ", ".join(part for part, passes in zip(self.parts, empty, strict=True) if passes)
            raise BadTask(
                f"the check of {self.prompt[:60]!r}: expected an empty answer to fail in all parts, but it passes in {passed}: "
                "let it fail where there is no text"
            )

    @cached_property
    def name(self) -> str:
        """Twelve hexadecimal digits that identify the prompt and the parts."""
        return hashlib.sha256("\0".join([self.prompt, *self.parts]).encode()).hexdigest()[:12]

    def passes(self, completion: str, *, ended: bool) -> bool | None:
        """Whether a completion passes in all parts, or None if it is undecided. ``ended`` is true after the end token.

        A completion passes only if it ended: what else a model would write is not known.
        """
        if ended:
            return all(self.check(completion))
        return False if len(completion.encode()) > self.longest else None
