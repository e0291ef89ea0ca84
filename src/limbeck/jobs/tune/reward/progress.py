"""What a tuning by a reward says while it runs: how rewarded its answers are, and a warning where they grow without an end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from limbeck.report.rewarded import GROWN, Means, grows, means
from limbeck.report.words import share
from limbeck.run.log import console

_LINES = 10  # of a training
_FEWEST = 5  # steps of which a line is the mean, at least


@dataclass
class Progress:
    """The facts of a training's steps, which it passes on, and of which it prints means now and then.

    Of several processes the first prints the means of its own samples.
    """

    of_step: Callable[[], Mapping[str, float]]
    steps: int
    reward: str
    _rows: list[Mapping[str, float]] = field(default_factory=list, init=False)
    _first: Means | None = field(default=None, init=False)
    _warned: bool = field(default=False, init=False)
    _count: int = field(default=0, init=False)

    def facts(self) -> Mapping[str, float]:
        """Those of the last step."""
        row = self.of_step()
        self._rows.append(row)
        self._count += 1
        if len(self._rows) >= max(_FEWEST, self.steps // _LINES):
            self._show(means(self._rows))
            self._rows = []
        return row

    def _show(self, now: Means) -> None:
        self._first = self._first or now
        without = "" if now.unmarked is None else f", {share(now.unmarked)} without the mark"
        console.print(
            f"{self.reward}: reward {now.reward:.3f}, {share(now.passed)} pass all; {now.tokens:.0f} tokens an answer, "
            f"{share(now.cut)} cut off{without}; {share(now.alike)} of prompts without variance; entropy {now.entropy:.2f} nats "
            f"a token, KL from the start {now.kl:.2f} nats an answer"
        )
        if grows(self._first, now) and not self._warned:
            self._warned = True
            console.print(f"warning: {GROWN}")
