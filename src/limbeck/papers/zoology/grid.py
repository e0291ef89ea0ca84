"""The grid of the recipe zoology: its mixers, widths and lengths. Cells are trained in a few processes.

Scales with enough time choose a learning rate for each arm by whole trainings on a separate seed that judges no claim. Shorter
trainings would choose wrongly, since attention has chance accuracy for hundreds of steps before it learns. Other scales use the
first rate. Gated convolutions are also trained with each rate, so that none of them fails because of its rate.

The control has short rows of the same task. An arm that solves them can be trained, so its failure on long rows has another
cause.
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
    """Two layers of mixers. ``learned`` positions are for mixers without any other order."""

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
    """The rows of a cell: their length, their vocabulary, and the numbers of pairs, which alternate from step to step."""

    length: int
    pairs: tuple[int, ...]
    vocab: int

    @property
    def most(self) -> int:
        """The largest number of pairs, which is the judged one."""
        return max(self.pairs)


@dataclass(frozen=True)
class Scale:
    """The trainings of a scale: the ``judged`` setting at ``width`` with all seeds, other widths and settings with one.

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
    """The trained grid: rates, the results of judged cells by arm and seed, and the map by arm, width and length.

    For gated convolutions it also has the control, and the first seed with the other rates.
    """

    scale: Scale
    rates: Mapping[str, float]
    judged: Mapping[str, Sequence[Mapping[str, Any]]]
    other_rates: Mapping[str, Sequence[Mapping[str, Any]]]
    control: Mapping[str, Mapping[str, Any]]
    mapped: Mapping[str, Mapping[tuple[int, int], Mapping[str, Any]]]  # by arm, then by (width, length)
    cpu_seconds: float


def run_grid(context: RecipeContext) -> Found:
    """Trains the cells without a result, and gives all results."""
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
    """The rate of each arm with the lowest loss on the selection rows at the end of a training; the first rate if not tuned."""
    if not scale.tuned:
        return dict.fromkeys(ARMS, scale.rates[0])
    tried = {
        arm: {rate: _with_rate(_cell(scale, arm, scale.judged, rate, seed + TUNING), rate) for rate in scale.rates}
        for arm in ARMS
    }
    return best_rates(trainings, tried, _nats)


def _nats(result: Mapping[str, Any]) -> float:
    """The loss on the selection rows at the end of a training; infinite if it diverged or has no such loss."""
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
