"""Facts and their reversals: a r b and b r⁻¹ a. Some entities have both directions in training, others only one.

Facts of the first ``entities`` things appear in both directions, so that training shows that relations have inverses. Facts of
0.6 times as many other things appear in one random direction, and the test has the other. Each relation pairs a group at
random (arXiv 2504.01928, sec. 2). At *concept* level, a thing is one token. At *name* level, it is a first and a last name, each
shared by ``shared`` things; no two things share both.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Int64

from limbeck.config import nearest
from limbeck.corpora.tasks.sampling import distinct
from limbeck.corpora.tasks.synthetic import Drawing
from limbeck.errors import BadTask

LEVELS = ("concept", "name")
_ONE_WAY = 0.6  # ratio of things with facts in one direction to things with both

Facts = Int64[np.ndarray, "n 3"]  # head, relation, tail; relation 2 i + 1 is the inverse of 2 i


@dataclass(frozen=True)
class Reversal:
    """The reversal task with the facts of the seed ``world``. Raises BadTask if its numbers do not fit together."""

    entities: int = 600
    relations: int = 6
    level: str = "concept"
    shared: int = 5
    world: int = 0

    def __post_init__(self) -> None:
        if self.level not in LEVELS:
            raise BadTask(
                f"reversal: unknown level {self.level!r}{nearest(self.level, LEVELS)} There are: {', '.join(LEVELS)}."
            )
        if self.entities < 4 or self.entities % 2 or self.relations < 1:
            raise BadTask(
                f"reversal: expected an even number of entities >= 4 and a relation, got {self.entities} and {self.relations}"
            )
        if self.shared < 1:
            raise BadTask(f"reversal: expected names shared by at least 1 thing, got {self.shared}")
        if self.level == "name" and self.shared > self.names:
            raise BadTask(
                f"reversal: {self.things} things whose names are shared by {self.shared} have {self.names} first names, fewer "
                f"than {self.shared}, so two things would have one name: take more entities or fewer that share"
            )

    @property
    def one_way(self) -> int:
        """The number of things whose facts appear in one direction only."""
        return 2 * round(_ONE_WAY * self.entities / 2)

    @property
    def things(self) -> int:
        """The number of all things. Things with facts in both directions have the lowest numbers."""
        return self.entities + self.one_way

    @property
    def names(self) -> int:
        """The number of first names, which is also the number of last names."""
        return -(-self.things // self.shared)

    @property
    def vocab(self) -> int:
        """The vocabulary size: tokens of things or names, then two tokens for each relation."""
        return self._named + 2 * self.relations

    @property
    def length(self) -> int:
        """The number of tokens of a row: a thing, a relation, and the other thing without its last token."""
        return 2 if self.level == "concept" else 4

    @property
    def training_facts(self) -> Facts:
        """The facts of training rows, in both directions or one."""
        return self._facts[0]

    @property
    def test_facts(self) -> Facts:
        """The test facts: reversals of the facts that appear in one direction only."""
        return self._facts[1]

    def draw(self, generator: np.random.Generator, rows: int) -> Drawing:
        """Samples rows of one training fact each."""
        return self.rows(self.training_facts[generator.integers(len(self.training_facts), size=rows)])

    def rows(self, facts: Facts) -> Drawing:
        """Facts as rows. The tokens of the tail are the targets."""
        spelled = self.spelling
        relation = self._named + facts[:, 1:2]
        row = np.concatenate([spelled[facts[:, 0]], relation, spelled[facts[:, 2]]], 1)
        asked = np.zeros((len(row), self.length), dtype=bool)
        asked[:, spelled.shape[1] :] = True
        return Drawing(row[:, :-1].copy(), row[:, 1:].copy(), asked)

    @cached_property
    def spelling(self) -> Int64[np.ndarray, "things tokens"]:
        """The tokens of each thing: one token, or a first and a last name."""
        if self.level == "concept":
            return np.arange(self.things)[:, None]
        order = np.random.default_rng([self.world, 1]).permutation(self.things)
        first, turn = np.divmod(order, self.shared)
        return np.stack([first, self.names + (first + turn) % self.names], -1)

    @property
    def _named(self) -> int:
        return self.things if self.level == "concept" else 2 * self.names

    @cached_property
    def _facts(self) -> tuple[Facts, Facts]:
        generator = np.random.default_rng([self.world, 0])
        training, test = [], []
        for relation in range(self.relations):
            both = _paired(generator, 0, self.entities, 2 * relation)
            one = _paired(generator, self.entities, self.one_way, 2 * relation)
            turned = generator.random(len(one)) < 0.5
            one[turned] = reversed_facts(one[turned])
            training += [both, reversed_facts(both), one]
            test.append(reversed_facts(one))
        return np.concatenate(training), np.concatenate(test)


def reversed_facts(facts: Facts) -> Facts:
    """The reversal b r⁻¹ a of each fact a r b."""
    return np.stack([facts[:, 2], facts[:, 1] ^ 1, facts[:, 0]], -1)


def _paired(generator: np.random.Generator, first: int, count: int, relation: int) -> Facts:
    """Facts of one relation that pair ``count`` things, from number ``first`` on, at random."""
    order = first + distinct(generator, 1, count, count)[0]
    return np.stack([order[::2], np.full(count // 2, relation), order[1::2]], -1)
