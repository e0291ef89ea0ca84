"""Two tasks with one question at the end of a row: the token after an earlier marker, or the value of an earlier key.

*Induction*: random tokens contain the marker V - 1 once, and it also ends the row. The target is the token after its first
occurrence (Fu et al., arXiv 2212.14052, sec. 3.1, table 1; after Olsson et al., arXiv 2209.11895). *Recall*: each key, below V/2,
is followed by its value in this row. Keys are sampled with repetition, and the last token is one of them.
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
    """The induction or recall task, with rows of ``length`` tokens below ``vocab``.

    Raises BadTask for an unknown variant, a row that is too short, an even length in recall, or too small a vocabulary.
    """

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
                f"induction: pairs and the key of the question take an odd number of tokens, got {self.length}: "
                f"take {self.length + 1}"
            )

    def draw(self, generator: np.random.Generator, rows: int) -> Drawing:
        """Samples rows whose only question is at the last token."""
        tokens, target = (self._induction if self.variant == "induction" else self._recall)(generator, rows)
        answers, asked = np.zeros_like(tokens), np.zeros(tokens.shape, dtype=bool)
        answers[:, -1], asked[:, -1] = target, True
        return Drawing(tokens, answers, asked)

    def _induction(self, generator: np.random.Generator, rows: int) -> tuple[np.ndarray, np.ndarray]:
        tokens = generator.integers(self.vocab - 1, size=(rows, self.length))
        place = generator.integers(self.length - 2, size=rows)  # the token after it is not the last one
        each = np.arange(rows)
        tokens[each, place] = tokens[:, -1] = self.vocab - 1
        return tokens, tokens[each, place + 1]

    def _recall(self, generator: np.random.Generator, rows: int) -> tuple[np.ndarray, np.ndarray]:
        half, pairs = self.vocab // 2, self.length // 2
        values = generator.integers(half, self.vocab, size=(rows, half))  # of each key, in this row
        keys = generator.integers(half, size=(rows, pairs))
        each = np.arange(rows)
        last = keys[each, generator.integers(pairs, size=rows)]
        bound = np.stack([keys, np.take_along_axis(values, keys, 1)], -1).reshape(rows, -1)
        return np.concatenate([bound, last[:, None]], 1), values[each, last]
