"""What a teacher's logits cost its student, and what cross-entropy could have done for as many FLOPs.

A training step of the student is three of its forward passes; the teacher's forward pass comes on top, once for each use if it is
computed anew, or once for all uses if its logits are kept. Cross-entropy alone spends the same FLOPs on more tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from limbeck.planning.checks.finding import Finding
from limbeck.planning.cost.size import Size

# How many times the tokens distilling was worth on text that is read once: cross-entropy needed 1.45 times as many to end where
# the student did (a student of 0.39 of its teacher, 1.0M tokens, 3 seeds). Another pair has another number; it is a first guess.
WORTH = 1.45


@dataclass(frozen=True)
class Price:
    """The teacher's share of the FLOPs that distilling one student takes, per token that the student trains on.

    ``step`` is one forward pass of the teacher, in training steps of the student on as many tokens. ``uses`` is how often the
    logits of one pass are trained with: by epochs, and by students that share them.
    """

    step: float
    uses: float = 1.0

    @classmethod
    def of(cls, student: Size, teacher: Size, *, length: int, uses: float = 1.0) -> Price:
        """The price between models of these sizes in rows of ``length`` tokens."""
        return cls(teacher.forward_flops(length) / (3 * student.forward_flops(length)), uses)

    @property
    def ratio(self) -> float:
        """Tokens that cross-entropy alone trains on for the FLOPs of one distilled token."""
        return self.ratio_at(self.uses)

    def ratio_at(self, uses: float) -> float:
        """The same, if each pass were used so often."""
        return 1 + self.step / uses

    def uses_at(self, ratio: float) -> float:
        """How often a pass has to be used for cross-entropy to have ``ratio`` times the tokens; inf where that is 1 or less."""
        return self.step / (ratio - 1) if ratio > 1 else math.inf


def chances(price: Price, *, tokens: int, kept: bool = False) -> Iterator[Finding]:
    """Whether a run of so many ``tokens`` a student can beat cross-entropy on the same FLOPs, before anything is trained.

    ``kept``: the teacher's logits were captured, with the text.
    """
    said = (
        f"for its FLOPs cross-entropy alone could train on {price.ratio:.2f} times as many tokens: a forward pass of the teacher "
        f"costs {price.step:.2f} training steps of the student, and is used {_times(price.uses)}"
    )
    if price.ratio <= WORTH:
        yield Finding("equal compute", "ok", f"{said}; distilling can be worth that")
        return
    uses = price.uses_at(WORTH)
    how = "keep the logits (--cache-logits, or limbeck capture) and read"
    how = "train on them longer (--tokens), reading" if kept else how
    yield Finding(
        "equal compute",
        "warning",
        f"{said}. Distilling was worth {WORTH} times the tokens where that was measured, so cross-entropy will probably be "
        "better at equal compute",
        f"if compute is what is scarce, use each pass {uses:.1f} times or more: {how} {_round(tokens / uses)} tokens of text "
        "that often, or share them among several students (--params 6M,3M,1M); or take a smaller teacher. If text is what is "
        "scarce, equal tokens are what counts",
    )


def _times(uses: float) -> str:
    return "once" if uses == 1 else f"{uses:.1f} times"


def _round(tokens: float) -> str:
    return f"{float(f'{tokens:.2g}'):,.0f}"
