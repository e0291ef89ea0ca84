"""The price of a teacher's logits, and how many tokens cross-entropy alone could train on for the same FLOPs.

A training step of the student costs three of its forward passes, one of adapters about two. The teacher's forward pass is added
once for each use, or once for all uses if its logits are captured. Cross-entropy alone spends the same FLOPs on more tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from limbeck.planning.checks.finding import Finding
from limbeck.planning.cost.adapters import AdapterSize, step_flops
from limbeck.planning.cost.size import Size

# How many times the tokens distillation was worth on text that is read once: cross-entropy needed 1.45 times as many for the same
# loss (a student of 0.39 of its teacher, 1.0M tokens, 3 seeds). It is a first guess; other pairs of models differ.
WORTH = 1.45


@dataclass(frozen=True)
class Price:
    """The teacher's cost per token that the student trains on, relative to the student's.

    ``step`` is the FLOPs of one forward pass of the teacher, in training steps of the student on as many tokens. ``uses`` is how
    often the logits of one pass are trained on: by epochs, and by students that share them. ``generated`` is the share of the
    tokens that the student generates itself, each by a forward pass of its own; ``forward`` are the FLOPs of one, in training
    steps: a third where all weights are trained, more of adapters. ``corrected``: FLOPs of tuning the teacher first,
    by token of the student's training, in training steps. ``judged``: passes of the teacher over what the student generated, by
    token of its training, beside those whose logits were captured.
    """

    step: float
    uses: float = 1.0
    generated: float = 0.0
    forward: float = 1 / 3
    corrected: float = 0.0
    judged: float = 0.0

    @classmethod
    def of(
        cls,
        student: Size,
        teacher: Size,
        *,
        length: int,
        uses: float = 1.0,
        generated: float = 0.0,
        judged: float = 0.0,
        adapters: AdapterSize | None = None,
    ) -> Price:
        """The price between models of these sizes in rows of ``length`` tokens; ``adapters``: those that alone are trained."""
        step = step_flops(student, length, adapters)
        forward = 1 / 3 if adapters is None else student.forward_flops(length) / step
        return cls(teacher.forward_flops(length) / step, uses, generated, forward, judged=judged)

    @property
    def ratio(self) -> float:
        """Tokens that cross-entropy alone trains on for the FLOPs of one distilled token."""
        return self.ratio_at(self.uses)

    def ratio_at(self, uses: float) -> float:
        """The same ratio if each pass were used ``uses`` times."""
        return 1 + self.step / uses + self._besides

    @property
    def ratio_off_policy(self) -> float:
        """Tokens of distillation on a text alone for the FLOPs of one token of a training in which the student generates some."""
        return self.ratio / replace(self, generated=0.0, judged=0.0).ratio

    def uses_at(self, ratio: float) -> float:
        """Uses of each pass at which cross-entropy would have ``ratio`` times the tokens; inf for a ratio of 1 or less."""
        left = ratio - 1 - self._besides
        return self.step / left if left > 0 else math.inf

    @property
    def _besides(self) -> float:
        """What a distilled token costs besides the student's step and the logits that can be used again."""
        return self.generated * self.forward + self.step * self.judged + self.corrected


def chances(price: Price, *, tokens: int, kept: bool = False) -> Iterator[Finding]:
    """Whether distillation on ``tokens`` tokens can beat cross-entropy at equal FLOPs, estimated before any training.

    ``kept``: the teacher's logits were captured, with the text.
    """
    message = (
        f"for its FLOPs cross-entropy alone could train on {price.ratio:.2f} times as many tokens: a forward pass of the teacher "
        f"costs {price.step:.2f} training steps of the student, and is used {_times(price.uses)}"
    )
    if price.generated:
        message += (
            f", and the student generates {price.generated:.0%} of the rows, each token by a forward pass of its own"
        )
    if price.judged:
        message += " and one of the teacher's, which judges it"
    if price.ratio <= WORTH:
        yield Finding("equal compute", "ok", f"{message}; distillation can be worth that")
        return
    if price.generated:
        yield Finding(
            "equal compute",
            "warning",
            f"{message}. Distillation was worth {WORTH} times the tokens where that was measured, on a text alone, so "
            "cross-entropy will probably be better at equal compute",
            "if compute is scarce, let the student generate less (--rollouts), or distil from captured logits first and "
            "on-policy for a short time after that, or use a smaller teacher",
        )
        return
    uses = price.uses_at(WORTH)
    most = f"{math.ceil(100 * uses) / 100:.2f} times or more"
    how = "keep the logits (--cache-logits, or limbeck capture) and train on"
    how = "train on them longer (--tokens), on" if kept else how
    yield Finding(
        "equal compute",
        "warning",
        f"{message}. Distillation was worth {WORTH} times the tokens where that was measured, so cross-entropy will probably be "
        "better at equal compute",
        f"if compute is scarce, use each pass {most}: {how} {_round(tokens / uses)} tokens of text "
        "that often, or share the logits among several students (--params 6M,3M,1M); or use a smaller teacher. If text is "
        "scarce, compare at equal tokens",
    )


def _times(uses: float) -> str:
    return "once" if uses == 1 else f"{uses:.1f} times"


def _round(tokens: float) -> str:
    return f"{float(f'{tokens:.2g}'):,.0f}"
