"""What a teacher's logits cost its student, and what cross-entropy could have done for as many FLOPs.

A training step of the student is three of its forward passes; the teacher's forward pass comes on top, once for each use if it is
computed anew, or once for all uses if its logits are kept. Cross-entropy alone spends the same FLOPs on more tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from limbeck.plan.size import Size


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
