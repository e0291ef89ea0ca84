"""The trainings of the recipe mixture-growth in their order: seeds, what is grown from them, and what is compared with it.

All have their learning rate from another seed, whose trainings are measured on documents of the training text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from limbeck.papers.lab.paired import Losses
from limbeck.papers.lab.rates import searched_rates
from limbeck.papers.lab.recipe import ClaimResult, with_failures
from limbeck.papers.lab.search import BestRates
from limbeck.papers.lab.trainings import Trainings
from limbeck.papers.mixture_growth.arms import (
    AVERAGE,
    CONTINUED,
    GROWN,
    LITTLE,
    NET,
    ORTHOGONAL,
    SCRATCH,
    WIDENED,
    Cell,
)
from limbeck.students.shape import Shape

FLOPS, TOKENS = "equal FLOPs", "equal tokens"
UNTRAINED = "average of the seeds"  # before anything else is trained


def at(arm: str, cost: str) -> str:
    """The name of an arm at equal cost."""
    return f"{arm}, {cost}"


@dataclass(frozen=True)
class Scale:
    """Two nets of the ``small`` shape train for ``before`` steps each, what is grown from them for ``after`` steps.

    ``factors`` of the usual learning rate are tried for each arm.
    """

    vocab: int
    small: Shape
    before: int
    after: int
    rows: int
    length: int
    measured: int
    factors: tuple[float, ...]

    @property
    def wide(self) -> Shape:
        """The shape of what is grown."""
        small = self.small
        return replace(
            small, hidden=2 * small.hidden, heads=2 * small.heads, kv_heads=2 * small.kv_heads, ffn=2 * small.ffn
        )


@dataclass(frozen=True)
class Plan:
    """The steps of arms that have no growth: of the wide model, and of each of the two nets after growth, at equal cost."""

    scratch: Mapping[str, int]
    continued: Mapping[str, int]

    @classmethod
    def of(cls, scale: Scale, small: float, wide: float) -> Plan:
        """``small`` and ``wide``: the FLOPs of a token."""
        whole = 2 * scale.before * small + scale.after * wide
        return cls(
            scratch={FLOPS: int(whole / wide), TOKENS: 2 * scale.before + scale.after},
            continued={FLOPS: int(scale.after * wide / (2 * small)), TOKENS: scale.after // 2},
        )


@dataclass(frozen=True)
class Trained:
    """All results by arm, one a seed; the factors of the rates, and the mixture that was better with the seed of the rates."""

    results: Mapping[str, Sequence[Mapping[str, Any]]]
    factors: BestRates
    mixture: str

    def losses(self, arm: str, when: str = "after") -> Losses:
        """Nats and tokens of each document, (seeds, documents, 2)."""
        return np.array([np.stack([one[when], one["tokens"]], -1) for one in self.results[arm]])

    def judged(self, result: ClaimResult, *arms: str) -> ClaimResult:
        """A result of these arms, with those that diverged."""
        return with_failures(result, {arm: self.results[arm] for arm in arms})


@dataclass(frozen=True)
class Work:
    """What cells are made of: sizes and steps, the usual rate of each shape, the trainings, and the seed that chooses rates."""

    scale: Scale
    plan: Plan
    usual: Mapping[Shape, float]
    trainings: Trainings
    tuning: int

    def cell(
        self,
        arm: str,
        shape: Shape,
        nets: Sequence[Cell],
        seed: int,
        steps: int,
        factor: float,
        *,
        member: int,
        kept: bool = False,
    ) -> Cell:
        """A training of an arm. ``member`` numbers what a seed has, each with an order of the text.

        1 and 2 are its nets, 3 is what has their whole width, 4 and 5 are the nets that train on.
        """
        numbered = "" if member == 3 else f"-net{member}"
        name = f"{arm.replace(', ', '-').replace(' ', '-')}{numbered}-steps{steps}-factor{factor:g}-seed{seed}"
        scale = self.scale
        return Cell(
            name=name,
            arm=arm,
            shape=shape,
            nets=tuple(net.name for net in nets),
            seed=1000 * seed + member,
            data_seed=1000 * seed + member,
            rate=factor * self.usual[shape],
            steps=steps,
            rows=scale.rows,
            length=scale.length,
            measured=scale.measured,
            kept=kept,
            tuning=seed == self.tuning,
        )

    def net(self, seed: int, member: int, steps: int, factor: float) -> Cell:
        """A net of the small shape."""
        return self.cell(NET, self.scale.small, [], seed, steps, factor, member=member, kept=True)

    def pair(self, seed: int, factor: float) -> list[Cell]:
        """The two nets of a seed."""
        return [self.net(seed, member, self.scale.before, factor) for member in (1, 2)]

    def grown(self, arm: str, nets: Sequence[Cell], seed: int, factor: float) -> Cell:
        """What is grown from a pair, or from one that trained as long as both, and trained on."""
        return self.cell(arm, self.scale.wide, nets, seed, self.scale.after, factor, member=3)

    def scratch(self, seed: int, steps: int, factor: float) -> Cell:
        """The wide model from random weights."""
        return self.cell(SCRATCH, self.scale.wide, [], seed, steps, factor, member=3)

    def continued(self, pair: Sequence[Cell], seed: int, steps: int, factor: float) -> list[Cell]:
        """The two nets of a pair, each trained on, in another order of the text than before."""
        return [
            self.cell(CONTINUED, self.scale.small, [net], seed, steps, factor, member=member, kept=True)
            for member, net in enumerate(pair, 4)
        ]

    def average(self, nets: Sequence[Cell], seed: int) -> Cell:
        """The average of two nets as they are."""
        cell = self.cell(AVERAGE, self.scale.small, nets, seed, 0, 1.0, member=3)
        return replace(cell, name=f"average-of-{nets[0].name}")


def train_all(work: Work, seeds: Sequence[int]) -> Trained:
    """Trains what has no result, and gives all results of these seeds."""
    scale, trainings = work.scale, work.trainings
    nets = searched_rates(trainings, [NET], scale.factors, lambda _, f: work.net(work.tuning, 1, scale.before, f), nats)
    net = nets[NET]
    pairs = {seed: work.pair(seed, net) for seed in (*seeds, work.tuning)}
    longer = {seed: work.net(seed, 1, 2 * scale.before, net) for seed in pairs}
    trainings.do(cell for seed, pair in pairs.items() for cell in (*pair, longer[seed]))

    def nets_of(arm: str, seed: int) -> list[Cell]:
        return [longer[seed]] if arm == WIDENED else pairs[seed]

    tuned = work.tuning

    def tried(arm: str, factor: float) -> Cell:
        if arm == SCRATCH:
            return work.scratch(tuned, work.plan.scratch[FLOPS], factor)
        if arm == CONTINUED:
            return work.continued(pairs[tuned], tuned, work.plan.continued[FLOPS], factor)[0]
        return work.grown(arm, nets_of(arm, tuned), tuned, factor)

    found = searched_rates(trainings, [*GROWN, SCRATCH, CONTINUED], scale.factors, tried, nats)
    factors = BestRates({**nets, **found}, {**nets.tried, **found.tried})
    both = {arm: tried(arm, factors[arm]) for arm in (ORTHOGONAL, LITTLE)}
    trainings.do(both.values())
    mixture = min(both, key=lambda arm: nats(trainings.result(both[arm])))
    planned = {arm: [work.grown(arm, nets_of(arm, seed), seed, factors[arm]) for seed in seeds] for arm in GROWN}
    for cost, steps in work.plan.scratch.items():
        planned[at(SCRATCH, cost)] = [work.scratch(seed, steps, factors[SCRATCH]) for seed in seeds]
    further = {
        at(AVERAGE, cost): [work.continued(pairs[seed], seed, steps, factors[CONTINUED]) for seed in seeds]
        for cost, steps in work.plan.continued.items()
    }
    trainings.do(cell for row in planned.values() for cell in row)
    trainings.do(cell for rows in further.values() for pair in rows for cell in pair)
    further[UNTRAINED] = [pairs[seed] for seed in seeds]
    for arm, rows in further.items():
        planned[arm] = [work.average(pair, seed) for pair, seed in zip(rows, seeds, strict=True)]
    trainings.do(cell for row in planned.values() for cell in row)
    results = {arm: [trainings.result(cell) for cell in row] for arm, row in planned.items()}
    for arm, rows in further.items():  # an average did not diverge, but those that it is of may have
        for result, pair in zip(results[arm], rows, strict=True):
            result["failed"] = any(trainings.result(cell)["failed"] for cell in pair)
    return Trained(results, factors, mixture)


def nats(result: Mapping[str, Any]) -> float:
    """The held-out loss of a training in nats per token."""
    return float(sum(result["after"]) / sum(result["tokens"]))
