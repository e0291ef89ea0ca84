"""Multi-query associative recall: pairs of a key and its value, then all keys again in another order, each as a question.

    tokens   2 8 4 7 0 0 4 0 0 0 0 0 2 0 0 0
    answers              7           8

Keys are 1 to V/2 - 1 and values V/2 to V - 1, without repetition in a row. Questions stand in slots of two tokens after the
pairs. Slots are sampled without replacement, slot s with weight s^(a - 1) (Arora et al., arXiv 2312.04927, app. E.1). The answer
is the target at the question itself and does not appear in the row. Slots are counted from the end of the pairs, not from their
key. With random fillers and a small vocabulary, a row often contains a key once more by chance.

Two variants: *forgetting* gives some keys a second value after all pairs, and the last value counts. *compositional* has keys
of two tokens, all combinations of sqrt(K) first and sqrt(K) second tokens, so that neither token alone determines the value.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64
from torch import Tensor

from limbeck.config import nearest
from limbeck.corpora.tasks.sampling import distinct, one_by_one
from limbeck.corpora.tasks.synthetic import Drawing
from limbeck.errors import BadTask
from limbeck.types import Batch

VARIANTS = ("plain", "forgetting", "compositional")
FILLERS = ("zero", "random")


@dataclass(frozen=True)
class MQAR:
    """The MQAR task: ``pairs`` (K) in rows of ``length`` (L) tokens of a vocabulary of ``vocab`` (V).

    In the variant forgetting, ``rebound`` keys get a second value. ``power`` is a in the weights s^(a - 1) of slots; 1 is
    uniform. Raises BadTask if the numbers do not fit together.
    """

    vocab: int = 8192
    length: int = 64
    pairs: int = 8
    variant: str = "plain"
    filler: str = "zero"
    power: float = 0.01
    rebound: int = 4

    def __post_init__(self) -> None:
        for value, names, what in ((self.variant, VARIANTS, "variant"), (self.filler, FILLERS, "filler")):
            if value not in names:
                raise BadTask(f"mqar: unknown {what} {value!r}{nearest(value, names)} There are: {', '.join(names)}.")
        if self.pairs < 1 or not 0 < self.power < math.inf:
            raise BadTask(f"mqar: expected pairs >= 1 and a finite power > 0, got {self.pairs} and {self.power}")
        if self.length % 2:
            raise BadTask(f"mqar: expected an even length, got {self.length}: take {self.length + 1}")
        if self.variant == "forgetting" and not 0 <= self.rebound <= self.pairs:
            raise BadTask(f"mqar: expected 0 <= rebound <= pairs, got {self.rebound} of {self.pairs} pairs")
        if self.variant == "compositional" and math.isqrt(self.pairs) ** 2 != self.pairs:
            raise BadTask(f"mqar: compositional keys are a square grid, so pairs are 4, 9, 16, ...; got {self.pairs}")
        self._require_length()

    @property
    def context(self) -> int:
        """The number of tokens of the pairs, before the first slot."""
        return self._width * (self.pairs + self._again)

    @property
    def slots(self) -> int:
        """The number of slots for questions."""
        return (self.length - self.context) // self._width

    @property
    def slot_chances(self) -> Float[np.ndarray, " slots"]:
        """The probability of each slot for the first question."""
        weights = np.arange(1, self.slots + 1, dtype=float) ** (self.power - 1)
        return weights / weights.sum()

    def draw(self, generator: np.random.Generator, rows: int) -> Drawing:
        """Samples rows with their questions."""
        bound = self._bindings(generator, rows)
        tokens = self._filler(generator, rows)
        tokens[:, : self.context] = bound.reshape(rows, -1)
        keys, answers = self._last(bound)
        slots = one_by_one(generator, rows, self.pairs, self.slot_chances)
        each = np.arange(rows)[:, None]
        place = self.context + self._width * slots  # (rows, K)
        for part in range(self._width - 1):
            tokens[each, place + part] = keys[:, :, part]
        place += self._width - 2  # the last token of the key
        targets, asked = np.zeros_like(tokens), np.zeros(tokens.shape, dtype=bool)
        targets[each, place] = answers
        asked[each, place] = True
        return Drawing(tokens, targets, asked)

    def distance(self, batch: Batch) -> Tensor:
        """The number of tokens from each question back to its key in the pairs, (B, T); 0 at other positions."""
        width = self._width
        keys = batch.tokens[:, : self.context].unflatten(1, (-1, width))[:, :, : width - 1]
        here = batch.tokens.unfold(1, width - 1, 1)  # (B, T - width + 2, width - 1)
        same = (here[:, :, None] == keys[:, None]).all(-1)  # (B, T - width + 2, bindings)
        number = same.long().cumsum(-1).argmax(-1)  # the last binding
        found = batch.position.new_zeros(batch.tokens.shape)
        ends = batch.position[:, width - 2 :]
        found[:, width - 2 :] = ends - (width * number + width - 2)
        return found * (batch.weight > 0)

    @property
    def _width(self) -> int:
        """The number of tokens of a pair and of a slot."""
        return 3 if self.variant == "compositional" else 2

    @property
    def _again(self) -> int:
        return self.rebound if self.variant == "forgetting" else 0

    @property
    def _parts(self) -> tuple[int, int]:
        """Tokens of the vocabulary for each part of a key (the first with the filler 0), and for values."""
        part = self.vocab // self._width
        return part, self.vocab - (self._width - 1) * part

    def _require_length(self) -> None:
        width, part = self._width, self._parts[0]
        needed = width * (2 * self.pairs + self._again)
        if needed > self.length:
            second = f" + {width} x {self._again} bound again" if self._again else ""
            raise BadTask(
                f"mqar: {self.pairs} pairs and their questions take {2 * width} x {self.pairs}{second} = {needed} tokens, more "
                f"than the length of {self.length}: take fewer pairs or a longer row"
            )
        different = math.isqrt(self.pairs) if width == 3 else self.pairs
        if different > part - 1 or self.pairs > self._parts[1]:
            raise BadTask(
                f"mqar: {self.pairs} pairs need {different} different keys of {part - 1} and {self.pairs} values of "
                f"{self._parts[1]} in a vocabulary of {self.vocab}: take fewer pairs or a larger vocabulary"
            )

    def _bindings(self, generator: np.random.Generator, rows: int) -> Int64[np.ndarray, "rows bindings width"]:
        part, values_count = self._parts
        values = self.vocab - values_count + distinct(generator, rows, self.pairs, values_count)
        if self.variant == "compositional":
            return np.concatenate([self._grid(generator, rows, part), values[..., None]], -1)
        keys = 1 + distinct(generator, rows, self.pairs, part - 1)
        pairs = np.stack([keys, values], -1)
        if not self._again:
            return pairs
        which = distinct(generator, rows, self._again, self.pairs)
        again = np.take_along_axis(pairs, which[..., None], 1)
        first = self.vocab - values_count
        other = generator.integers(1, values_count, size=which.shape)  # never 0, so that the second value differs
        again[..., 1] = first + (again[..., 1] - first + other) % values_count
        return np.concatenate([pairs, again], 1)

    def _grid(self, generator: np.random.Generator, rows: int, part: int) -> Int64[np.ndarray, "rows K 2"]:
        side = math.isqrt(self.pairs)
        first = 1 + distinct(generator, rows, side, part - 1)
        second = part + distinct(generator, rows, side, part)
        order = generator.permuted(np.broadcast_to(np.arange(self.pairs), (rows, self.pairs)), axis=1)
        keys = [np.take_along_axis(first, order // side, 1), np.take_along_axis(second, order % side, 1)]
        return np.stack(keys, -1)

    def _filler(self, generator: np.random.Generator, rows: int) -> Int64[np.ndarray, "rows L"]:
        shape = (rows, self.length)
        return generator.integers(self.vocab, size=shape) if self.filler == "random" else np.zeros(shape, np.int64)

    def _last(self, bound: np.ndarray) -> tuple[Int64[np.ndarray, "rows K parts"], Int64[np.ndarray, "rows K"]]:
        """The K keys, and the last value of each."""
        pairs, again = bound[:, : self.pairs], bound[:, self.pairs :]
        keys, values = pairs[..., :-1], pairs[..., -1]
        if not self._again:
            return keys, values
        same = keys[:, :, None, 0] == again[:, None, :, 0]  # (rows, K, rebound): each key is bound again once at most
        return keys, np.where(same.any(-1), (same * again[:, None, :, 1]).sum(-1), values)
