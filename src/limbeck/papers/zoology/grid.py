"""The grid of the recipe zoology: which mixers at which width and length, trained cell by cell in a few processes.

Where there is time for it a learning rate is chosen for each arm by whole trainings on a seed that nothing is judged by; shorter
ones would choose wrongly, since attention alone guesses for hundreds of steps before it answers everything. Else the first rate
is everyone's. Either way gated convolutions get each rate once more, so that none of them fails by its rate alone.

The short rows of the control are the same task made easy: an arm that answers those can be trained, so that what it cannot do on
long ones is not for want of that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from limbeck.papers.lab.rates import TUNING, best_rates
from limbeck.papers.lab.recall import Cell, train
from limbeck.papers.lab.recipe import RecipeContext
from limbeck.papers.lab.trainings import Trainings

_BASECONV = ("conv", "longconv:implicit,gated=true")


@dataclass(frozen=True)
class Arm:
    """Two layers of mixers; ``learned`` positions where nothing else tells the order."""

    mixers: tuple[str, ...]
    learned: bool = False


ATTENTION = {
    "attention": Arm(("attention:rope=false", "attention:rope=false"), learned=True),
    "conv, attention": Arm(("conv", "attention:rope=false")),
}
REPEATS = {"conv, repeats": Arm(("conv", "repeats:rope=false"))}
BASED = {f"conv, based {features}": Arm(("conv", f"based:{features}")) for features in (2, 4, 8, 16)}
WINDOW = 16
WINDOWS = {f"conv, window {WINDOW}": Arm(("conv", f"swa:{WINDOW},rope=false"))}
GATED = {"BaseConv": Arm(_BASECONV), "Hyena": Arm(("hyena", "hyena")), "H3": Arm(("h3", "h3"))}
ARMS: Mapping[str, Arm] = ATTENTION | REPEATS | BASED | WINDOWS | GATED
MAPPED = (*ATTENTION, *GATED)


@dataclass(frozen=True)
class Setting:
    """Rows: their length, their vocabulary, and the numbers of pairs that training goes round through."""

    length: int
    pairs: tuple[int, ...]
    vocab: int

    @property
    def most(self) -> int:
        """The most pairs, which are asked about in what is judged."""
        return max(self.pairs)


@dataclass(frozen=True)
class Scale:
    """What is trained: the ``judged`` setting at ``width`` with all seeds; others of ``widths`` and ``settings`` with one.

    ``tuned``: each arm has the best of the ``rates``, else the first.
    """

    width: int
    judged: Setting
    control: Setting
    widths: tuple[int, ...]
    settings: tuple[Setting, ...]
    rates: tuple[float, ...]
    tuned: bool
    steps: int
    rows: int
    tested: int


PUBLISHED_RATES = (1e-2, 10 ** (-8 / 3), 10 ** (-10 / 3), 1e-4)
SCALES = {
    "smoke": Scale(16, Setting(16, (1, 2), 64), Setting(8, (2,), 32), (16,), (), (1e-2,), False, 20, 16, 50),
    "small": Scale(
        64, Setting(64, (2, 4, 8), 256), Setting(16, (2,), 64), (32, 64), (Setting(32, (2, 4), 256),), PUBLISHED_RATES[:2], False,
        1000, 64, 1000,
    ),
    "gpu": Scale(
        64, Setting(256, (4, 8, 16), 8192), Setting(16, (2,), 64), (64, 128, 256),
        (Setting(64, (2, 4), 8192), Setting(128, (2, 4, 8), 8192)), PUBLISHED_RATES, True, 8000, 256, 3000,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Found:
    """What was trained: of each arm the rate, the results of the judged cells by seed, the map by setting; of gated convolutions
    also the control and the first seed with the other rates."""

    scale: Scale
    rates: Mapping[str, float]
    judged: Mapping[str, Sequence[Mapping[str, Any]]]
    other_rates: Mapping[str, Sequence[Mapping[str, Any]]]
    control: Mapping[str, Mapping[str, Any]]
    mapped: Mapping[str, Mapping[tuple[int, int], Mapping[str, Any]]]  # by arm, then by width and length
    cpu_seconds: float


def run_grid(context: RecipeContext) -> Found:
    """Trains what is not trained yet, and gives all results."""
    scale, trainings = SCALES[context.scale], Trainings(context, train)
    rates = _rates(trainings, scale, context.seed)
    seeds = range(context.seed, context.seed + context.seeds)
    judged = {(arm, seed): _cell(scale, arm, scale.judged, rates[arm], seed) for arm in ARMS for seed in seeds}
    other_rates = {
        arm: [_with_rate(judged[arm, context.seed], rate) for rate in scale.rates if rate != rates[arm]]
        for arm in GATED
    }
    control = {(arm, rate): _control(scale, arm, rate, context.seed) for arm in GATED for rate in scale.rates}
    mapped = {
        (arm, width, setting): _cell(scale, arm, setting, rates[arm], context.seed, width)
        for setting in (*scale.settings, scale.judged)
        for width in scale.widths
        for arm in MAPPED
        if (width, setting) != (scale.width, scale.judged)
    }
    others = [cell for cells in other_rates.values() for cell in cells]
    trainings.do([*judged.values(), *control.values(), *others, *mapped.values()])
    found: dict[str, dict[tuple[int, int], Mapping[str, Any]]] = {arm: {} for arm in MAPPED}
    for (arm, width, setting), cell in mapped.items():
        found[arm][width, setting.length] = trainings.result(cell)
    for arm in MAPPED:
        found[arm][scale.width, scale.judged.length] = trainings.result(judged[arm, context.seed])
    return Found(
        scale,
        rates,
        {arm: [trainings.result(judged[arm, seed]) for seed in seeds] for arm in ARMS},
        {arm: [trainings.result(cell) for cell in cells] for arm, cells in other_rates.items()},
        {arm: min((trainings.result(control[arm, rate]) for rate in scale.rates), key=_nats) for arm in GATED},
        found,
        trainings.cpu_seconds(),
    )


def _rates(trainings: Trainings, scale: Scale, seed: int) -> dict[str, float]:
    """For each arm the rate with which a training ends with the fewest nats on the rows that end trainings, if so wanted."""
    if not scale.tuned:
        return dict.fromkeys(ARMS, scale.rates[0])
    tried = {
        arm: {rate: _with_rate(_cell(scale, arm, scale.judged, rate, seed + TUNING), rate) for rate in scale.rates}
        for arm in ARMS
    }
    return best_rates(trainings, tried, _nats)


def _nats(result: Mapping[str, Any]) -> float:
    """At the end of a training, on the rows that may end it; infinite where it came to no end, or to no number."""
    curve = result["curve"]
    nats = None if result["failed"] or not curve else curve[-1]["nats"]
    return math.inf if nats is None else float(nats)


def _cell(scale: Scale, arm: str, setting: Setting, rate: float, seed: int, width: int | None = None) -> Cell:
    chosen, width = ARMS[arm], width or scale.width
    return Cell(
        name=f"{_slug(arm)}-d{width}-l{setting.length}-k{setting.most}-seed{seed}",
        mixers=chosen.mixers,
        width=width,
        length=setting.length,
        vocab=setting.vocab,
        pairs=setting.pairs,
        steps=scale.steps,
        rate=rate,
        seed=seed,
        rows=scale.rows,
        tested=scale.tested,
        learned=chosen.learned,
    )


def _control(scale: Scale, arm: str, rate: float, seed: int) -> Cell:
    return _with_rate(_cell(scale, arm, scale.control, rate, seed), rate)


def _with_rate(cell: Cell, rate: float) -> Cell:
    return replace(cell, name=f"{cell.name}-rate{rate:.1e}", rate=rate)


def _slug(arm: str) -> str:
    return arm.lower().replace(", ", "-").replace(" ", "")
