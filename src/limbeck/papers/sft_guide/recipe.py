"""The SFT guide: which batch and rate suit a small model, and whether a run's first tenth tells how it ends.

The paper is "Unveiling the Secret Recipe: A Guide For Supervised Fine-Tuning Small LLMs" (Pareja et al., arXiv 2412.13337). Early
gradients are smaller in large batches, and early losses higher at low rates, so both may only say which setting a run has. Here
they are read within a setting, between runs that differ in the order of their samples.

    limbeck reproduce sft-guide --scale smoke | small | gpu        half a minute | not yet timed
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from limbeck.papers.lab.plots import draw_by_arm
from limbeck.papers.lab.recipe import ClaimResult, Outcome, Recipe, RecipeContext, Short, of_seeds, with_failures
from limbeck.papers.lab.right import Right
from limbeck.papers.lab.trainings import Trainings
from limbeck.papers.sft_guide.judging import (
    Group,
    judge_batch,
    judge_choice,
    judge_loss,
    judge_norm,
    judge_schedule,
    judge_stacked,
)
from limbeck.papers.sft_guide.training import SKILLS, Cell, Size, Tuning, train_cell
from limbeck.report.words import share


@dataclass(frozen=True)
class Scale:
    """Tunings of all ``batches`` at all ``rates``, for ``samples`` samples in each of ``orders``.

    ``middle`` is the batch of the trainings with other schedules and phases, in ``others`` orders, and its number of steps that
    of the trainings with equally many steps. Its bases are of one ``size``.
    """

    size: Size
    batches: tuple[int, ...]
    rates: tuple[float, ...]
    samples: int
    orders: int
    others: int
    middle: int


SCALES = {
    "smoke": Scale(Size(16, 1, 2, 24, 2, 4, 3e-3, 16, 4, 2, 4), (2, 4), (1e-3,), 8, 2, 1, 2),
    "small": Scale(
        Size(64, 3, 4, 60_000, 3000, 42, 3e-3, 2000, 50, 20, 400), (4, 16, 64), (3e-4, 1e-3, 3e-3), 6_144, 6, 2, 16
    ),
    "gpu": Scale(
        Size(512, 8, 8, 240_000, 20_000, 256, 1e-3, 8000, 2000, 5, 2000),
        (64, 256, 1024),
        (3e-5, 1e-4, 3e-4),
        98_304,
        6,
        2,
        256,
    ),
}

Runs = Mapping[Tuning, Mapping[tuple[int, int], Mapping[str, Any]]]  # of a setting, by seed and order


def run(context: RecipeContext) -> Outcome:
    """Trains all bases and all tunings, and judges all claims."""
    scale = SCALES[context.scale]
    trainings = Trainings(context, partial(train_cell, folder=context.out))
    seeds = range(context.seed, context.seed + context.seeds)
    bases = [Cell(f"base-seed{seed}", seed, scale.size) for seed in seeds]
    trainings.do(bases)
    planned = {
        tuning: {(seed, order): _cell(scale, tuning, seed, order) for seed in seeds for order in range(orders)}
        for tuning, orders in tunings(scale).items()
    }
    trainings.do(cell for cells in planned.values() for cell in cells.values())
    runs = {tuning: {at: trainings.result(cell) for at, cell in cells.items()} for tuning, cells in planned.items()}
    figure = context.out / "sft-guide.png"
    draw_by_arm(_series(scale, runs), guess=0.1, file=figure)
    kept = [trainings.result(base)["kept"] for base in bases]
    return Outcome(
        _ours(scale, context),
        tuple(of_seeds(one, context.seeds) for one in judged(scale, runs)),
        {"base_nats": kept, "settings": [_numbers(tuning, found.values()) for tuning, found in runs.items()]},
        {
            figure: "Share of test skills whose greedy answer is right, by rate and samples a step; a point for each seed."
        },
        trainings.cpu_seconds(),
    )


def tunings(scale: Scale) -> dict[Tuning, int]:
    """All settings, each with the number of its orders."""
    grid = [Tuning(batch, rate, scale.samples) for batch in scale.batches for rate in scale.rates]
    found = dict.fromkeys(grid, scale.orders)
    steps = max(1, scale.samples // scale.middle)
    for rate in scale.rates:
        found[Tuning(scale.middle, rate, scale.samples, "decay")] = scale.others
        found[Tuning(scale.middle, rate, scale.samples, phased=True)] = scale.others
        for batch in scale.batches:
            found.setdefault(Tuning(batch, rate, steps * batch), 1)
    return found


def judged(scale: Scale, runs: Runs) -> list[ClaimResult]:
    """The result of each claim, from all runs."""
    grid = [one for one in tunings(scale) if runs[one] and _in_grid(scale, one)]
    norms, losses = (groups(grid, runs, signal) for signal in ("early_norm", "early_loss"))
    small, large = (_best(runs, [one for one in grid if one.batch == batch]) for batch in _ends(scale))
    constant = _best(runs, [one for one in grid if one.batch == scale.middle])
    decayed = _best(runs, [one for one in runs if one.schedule == "decay"])
    phased = _best(runs, [one for one in runs if one.phased])
    orders = range(scale.others)
    every = {"all settings": [run for one in grid for run in runs[one].values()]}

    def trained(*settings: Tuning) -> dict[str, list[Mapping[str, Any]]]:
        return {one.name: list(runs[one].values()) for one in settings}

    by_norm, by_validation = (chosen(grid, runs, by) for by in ("early_norm", "early_validation"))
    return [
        with_failures(judge_norm(norms), every),
        with_failures(judge_loss(losses), every),
        with_failures(
            judge_batch(
                right(runs, large),
                right(runs, small),
                (_named(large), _named(small)),
                inside=not {large.rate, small.rate} & {min(scale.rates), max(scale.rates)},
            ),
            trained(small, large),
        ),
        with_failures(
            judge_schedule(right(runs, constant, orders), right(runs, decayed, orders)), trained(constant, decayed)
        ),
        with_failures(
            judge_stacked(right(runs, constant, orders), right(runs, phased, orders)), trained(constant, phased)
        ),
        with_failures(judge_choice(by_norm, by_validation), every),
    ]


def groups(grid: Sequence[Tuning], runs: Runs, signal: str) -> list[Group]:
    """The runs of each base in each setting of the grid, without those that diverged."""
    found = []
    for tuning in grid:
        for seed in dict.fromkeys(seed for seed, _ in runs[tuning]):
            own = [one for (at, _), one in runs[tuning].items() if at == seed and not one["failed"]]
            found.append(Group([one[signal] for one in own], [float(np.mean(one["right"])) for one in own]))
    return [group for group in found if len(group.signal) > 1]


def chosen(grid: Sequence[Tuning], runs: Runs, by: str) -> Right:
    """The accuracy of the setting with the lowest early value, chosen anew for each seed and order; a seed's mean of orders."""
    found: dict[int, list[list[int]]] = {}
    for seed, order in runs[grid[0]]:
        own = [runs[tuning][seed, order] for tuning in grid]
        best = min(own, key=lambda one: np.inf if one["failed"] or one[by] is None else one[by])
        found.setdefault(seed, []).append(best["right"])
    return np.array([np.mean(rows, axis=0) for rows in found.values()])


def right(runs: Runs, tuning: Tuning, orders: Iterable[int] | None = None) -> Right:
    """The share of a seed's runs in a setting that answer each test skill, over some orders or all."""
    kept = None if orders is None else set(orders)
    found: dict[int, list[list[int]]] = {}
    for (seed, order), one in runs[tuning].items():
        if kept is None or order in kept:
            found.setdefault(seed, []).append(one["right"])
    return np.array([np.mean(rows, axis=0) for rows in found.values()])


def _best(runs: Runs, settings: Sequence[Tuning]) -> Tuning:
    """The setting with the best validation over all its runs."""
    return max(settings, key=lambda one: float(np.mean([run["validation"] for run in runs[one].values()])))


def _in_grid(scale: Scale, one: Tuning) -> bool:
    return one.samples == scale.samples and one.schedule == "constant" and not one.phased


def _ends(scale: Scale) -> tuple[int, int]:
    """The smallest batch and the largest."""
    return min(scale.batches), max(scale.batches)


def _named(tuning: Tuning) -> str:
    return f"{tuning.batch:,} samples a step at {tuning.rate:g}"


def _cell(scale: Scale, tuning: Tuning, seed: int, order: int) -> Cell:
    return Cell(f"{tuning.name}-seed{seed}-order{order}", seed, scale.size, tuning, order)


def _series(scale: Scale, runs: Runs) -> dict[str, dict[str, list[float]]]:
    """The accuracy of each seed in the grid, by samples a step and rate."""
    return {
        f"{batch:,} samples a step": {
            f"rate {rate:g}": right(runs, Tuning(batch, rate, scale.samples)).mean(1).tolist() for rate in scale.rates
        }
        for batch in scale.batches
    }


def _ours(scale: Scale, context: RecipeContext) -> str:
    """What was done here, in a few sentences."""
    size = scale.size
    return (
        f"Decoders of {size.layers} layers, width {size.width}, one token a character, learned answers in all styles and were "
        f"tuned on {size.skills:,} answers of {len(SKILLS)} skills and {size.facts:,} facts, each {size.repeats} times: "
        f"{scale.samples:,} samples in all, {' / '.join(f'{batch:,}' for batch in scale.batches)} a step, at "
        f"{len(scale.rates)} constant rates, in {scale.orders} orders for each of {context.seeds} bases. Beside them are warm-up "
        f"with a cosine, two phases, and equally many steps. All are tested on {size.tested:,} other questions of the skills."
    )


def _numbers(tuning: Tuning, found: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The figures of a setting."""
    rows = list(found)
    means = {
        key: float(np.mean([np.mean(one[key]) for one in rows if one[key] is not None]))
        for key in ("right", "facts", "validation", "kept", "early_norm", "early_loss", "early_validation", "tokens")
    }
    return {
        "batch": tuning.batch,
        "rate": tuning.rate,
        "schedule": tuning.schedule,
        "phased": tuning.phased,
        "runs": len(rows),
        "steps": rows[0]["steps"],
        "samples": rows[0]["samples"],
        "spread": float(np.std([np.mean(one["right"]) for one in rows])),
        **means,
    }


def tables(numbers: Mapping[str, Any]) -> list[str]:
    """A table of all settings."""
    head = (
        "| samples a step | rate | how | steps | samples | tokens learned | runs | skills right | facts right | nats on "
        "answers in all styles | early gradient norm | early loss |\n|" + "---|" * 12
    )
    rows = [
        f"| {one['batch']:,} | {one['rate']:g} | "
        f"{'two phases' if one['phased'] else 'constant' if one['schedule'] == 'constant' else 'warm-up, cosine'} | "
        f"{one['steps']:,} | {one['samples']:,} | {one['tokens']:,.0f} | {one['runs']} | {share(one['right'], digits=1)} | "
        f"{share(one['facts'], digits=1)} | {one['kept']:.2f} | {one['early_norm']:.2f} | {one['early_loss']:.2f} |"
        for one in numbers["settings"]
    ]
    base = float(np.mean(numbers["base_nats"]))
    return ["\n".join([head, *rows]), f"Before tuning, bases have {base:.2f} nats per token on answers in all styles."]


RECIPE = Recipe(
    name="sft-guide",
    title="Batch, rate and early signals of instruction tuning",
    paper="Unveiling the Secret Recipe: A Guide For Supervised Fine-Tuning Small LLMs, arXiv 2412.13337",
    claim="Small models are tuned best with large batches and low rates; a low gradient norm and a high loss early predict a "
    "better end; warm-up, decay and phases can be left out.",
    differences=(
        "Small decoders, pretrained and tuned on toy tasks; the paper tunes models of 3B and 7B parameters on instructions.",
        "Batches are compared for equally many samples, and beside that for equally many steps; the paper compares best "
        "checkpoints, which have more samples in large batches.",
        "Early means are over the first tenth of the steps; the paper reads its curves by eye.",
        "Signals are judged between runs in one setting, which differ in the order of their samples, so that a signal which only "
        "tells the setting has no correlation.",
        "Decay is a cosine to a tenth of the rate, where the paper's is linear.",
        "Phases are by length of answer, with a hundredth of the first in the second.",
    ),
    run=run,
    scales=SCALES,
    tables=tables,
    short={
        "gradients are small early end": Short("Small early gradients predict a good run", "mean correlation [^;]+"),
        "training loss is high early": Short("A high early loss predicts a good run", "mean correlation [^;]+"),
        "largest batch ends better": Short("Large batches are best for equal samples", "difference [^;]+"),
        "without warm-up is as good": Short("Warm-up and decay can go"),
        "All samples in every epoch": Short("Phases can go"),
        "gradients are smallest early is as good": Short("Early gradients choose a setting as well as validation loss"),
    },
)
