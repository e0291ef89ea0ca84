"""Questions in an endless order, and a corpus of their known answers: what supervised tuning reads of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from limbeck.corpora.pack import ALONE, Ranks
from limbeck.corpora.tasks.checked import Checked
from limbeck.run.policy import Rollout, rows_of
from limbeck.types import Batch

_STREAM = 0x71756573  # apart from other random numbers of a run's seed


@dataclass(frozen=True)
class Question:
    """A prompt in tokens, what checks its answers, and the tokens of the known one with its end; () without one.

    Where an answer follows a rationale, ``answer`` begins with the mark between them, ``after`` is what follows the mark, and
    ``known`` its text.
    """

    name: str
    prompt: tuple[int, ...]
    check: Checked | None = None
    answer: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    known: str = ""


@dataclass
class Order:
    """Questions, shuffled anew each epoch by a seed. A place of the order has one question, whatever was read before."""

    questions: Sequence[Question]
    seed: int
    _epoch: int = field(default=-1, init=False)
    _shuffled: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64), init=False)

    def at(self, place: int) -> Question:
        """The question at a place, from 0."""
        epoch, number = divmod(place, len(self.questions))
        if epoch != self._epoch:
            self._shuffled = np.random.default_rng([_STREAM, self.seed, epoch]).permutation(len(self.questions))
            self._epoch = epoch
        return self.questions[int(self._shuffled[number])]


@dataclass
class Answers:
    """A `Corpus` with one question and its known answer in each row, of which the answer is learned."""

    questions: Sequence[Question]
    seed: int
    ranks: Ranks = ALONE
    length: int = field(init=False)
    _next: int = field(default=0, init=False)
    _tokens: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.length = max(len(one.prompt) + len(one.answer) for one in self.questions)
        self._order = Order(self.questions, self.seed)

    def take(self, rows: int) -> Batch:
        """This rank's part of the next ``rows`` global rows."""
        places = range(self._next, self._next + rows)[self.ranks.rank :: self.ranks.size]
        self._next += rows
        asked = [self._order.at(place) for place in places]
        self._tokens = sum(len(one.prompt) + len(one.answer) for one in asked)
        return rows_of([Rollout(one.prompt, (), one.answer) for one in asked])[0]

    def documents(self, rows: int) -> list[str]:
        """Names of the questions of the last ``rows`` rows."""
        return [self._order.at(place).name for place in range(self._next - rows, self._next)]

    def state_dict(self) -> dict[str, Any]:
        """The position: the number of global rows read."""
        return {"row": self._next}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues at a saved position."""
        self._next = int(state["row"])

    def facts(self) -> dict[str, int]:
        """The tokens of this rank's rows of the last step."""
        return {"row_tokens": self._tokens}
