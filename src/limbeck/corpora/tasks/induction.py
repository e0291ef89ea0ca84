"""Two tasks that ask one token at the end of a row: what followed a sign before, and what was paired with a key before.

*Induction*: random tokens, among them once the sign V - 1, which also ends the row: what followed it? (Fu et al., arXiv
2212.14052, sec. 3.1, table 1; after Olsson et al., arXiv 2209.11895). *Recall*: keys below V/2 each before the value that the row
gives it, keys as they come, so that some are told again; the last token is a key that was told.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from limbeck.config import nearest
from limbeck.corpora.tasks.synthetic import Drawing
from limbeck.errors import BadTask

VARIANTS = ("induction", "recall")


@dataclass(frozen=True)
class Induction:
    """The task. Raises BadTask where a row is too short, has a length that pairs cannot fill, or there are too few tokens."""

    vocab: int = 32
    length: int = 31
    variant: str = "induction"

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise BadTask(
                f"induction: unknown variant {self.variant!r}{nearest(self.variant, VARIANTS)} There are: {', '.join(VARIANTS)}."
            )
        if self.vocab < 4 or self.length < 3:
            raise BadTask(f"induction: expected vocab >= 4 and length >= 3, got {self.vocab} and {self.length}")
        if self.variant == "recall" and self.length % 2 == 0:
            raise BadTask(
                f"induction: pairs and the key that is asked take an odd number of tokens, got {self.length}: "
                f"take {self.length + 1}"
            )

    def draw(self, generator: np.random.Generator, rows: int) -> Drawing:
        """Rows that ask at their last token."""
        tokens, said = (self._induction if self.variant == "induction" else self._recall)(generator, rows)
        answers, asked = np.zeros_like(tokens), np.zeros(tokens.shape, dtype=bool)
        answers[:, -1], asked[:, -1] = said, True
        return Drawing(tokens, answers, asked)

    def _induction(self, generator: np.random.Generator, rows: int) -> tuple[np.ndarray, np.ndarray]:
        tokens = generator.integers(self.vocab - 1, size=(rows, self.length))
        place = generator.integers(self.length - 2, size=rows)  # with a token behind it that is not the last
        each = np.arange(rows)
        tokens[each, place] = tokens[:, -1] = self.vocab - 1
        return tokens, tokens[each, place + 1]

    def _recall(self, generator: np.random.Generator, rows: int) -> tuple[np.ndarray, np.ndarray]:
        half, pairs = self.vocab // 2, self.length // 2
        values = generator.integers(half, self.vocab, size=(rows, half))  # of each key, in this row
        keys = generator.integers(half, size=(rows, pairs))
        each = np.arange(rows)
        last = keys[each, generator.integers(pairs, size=rows)]
        told = np.stack([keys, np.take_along_axis(values, keys, 1)], -1).reshape(rows, -1)
        return np.concatenate([told, last[:, None]], 1), values[each, last]
