"""Dynamics of generalisation: the formula of over-training beside simulations, and on hidden states of a language model.

The paper is "High-dimensional dynamics of generalization error in neural networks" (Advani, Saxe and Sompolinsky, arXiv
1710.03667). Part one is its formula, on inputs made by chance. Part two is ours: read-outs of random features of hidden states.

    limbeck reproduce generalization --scale smoke | small | gpu        half a minute | a few minutes of a core | not yet timed
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from limbeck.papers.generalization.hidden import FLIPPED, ReadoutCell, read_out
from limbeck.papers.generalization.judging import Errors, judge_formula, judge_peak, judge_stop
from limbeck.papers.generalization.simulated import SNR, TIMES, SimulationCell, simulate
from limbeck.papers.lab.from_teacher import text_for_teacher
from limbeck.papers.lab.pilots import little
from limbeck.papers.lab.plots import draw_by_width
from limbeck.papers.lab.recipe import Outcome, Recipe, RecipeContext, Short, of_seeds
from limbeck.papers.lab.trainings import Trainings
from limbeck.planning.overtraining import Readout, Spectrum

SHOWN = {
    "end": "to the end",
    "formula": "stop by the formula",
    "left_out": "stop by samples left out",
    "best": "best stop",
}


@dataclass(frozen=True)
class Scale:
    """``draws`` a seed of ``numbers`` inputs with so many samples per number; and ``samples`` of hidden states, each number of
    them read out through each of the ``widths``."""

    numbers: int
    ratios: tuple[float, ...]
    draws: int
    samples: tuple[int, ...]
    widths: tuple[int, ...]
    rows: int
    length: int
    tested: int


SCALES = {
    "smoke": Scale(40, (0.5, 2.0), 1, (40,), (20, 40, 80), 2, 32, 30),
    "small": Scale(400, (0.5, 1.0, 2.0), 10, (200, 400, 800), (50, 100, 200, 400, 800, 2000), 32, 256, 2000),
    "gpu": Scale(400, (0.5, 1.0, 2.0), 30, (500, 1000, 2000), (50, 200, 500, 1000, 2000, 5000), 128, 256, 8000),
}


def run(context: RecipeContext) -> Outcome:
    """Simulates, reads out, and judges all claims."""
    scale = SCALES[context.scale]
    simulations = Trainings(context, simulate)
    simulated = simulations_of(scale, context, simulations)
    errors = readouts(scale, context)
    judged = (
        judge_formula(differences(simulated), scale.draws * context.seeds),
        judge_peak(errors),
        judge_stop(errors),
    )
    figure, samples = context.out / "generalization.png", sorted(scale.samples)[len(scale.samples) // 2]
    draw_by_width(
        {
            said: {width: [one[how] for one in rows] for width, rows in errors[samples].items()}
            for how, said in SHOWN.items()
        },
        samples,
        figure,
    )
    shown = (
        f"Test error of read-outs of hidden states with {samples:,} samples, by the number of random features and by when the "
        "training stops. A point is a seed; the dotted line is at as many features as samples."
    )
    return Outcome(
        _ours(scale, context),
        tuple(of_seeds(one, context.seeds) for one in judged),
        _numbers(simulated, errors),
        {figure: shown},
        simulations.cpu_seconds(),
    )


def simulations_of(scale: Scale, context: RecipeContext, trainings: Trainings) -> dict[float, np.ndarray]:
    """The held-out error after each time, a mean over all draws, for each number of samples per number."""
    cells = {
        ratio: [
            SimulationCell(
                name=f"simulated-{ratio:g}-seed{seed}",
                numbers=scale.numbers,
                samples=round(ratio * scale.numbers),
                draws=scale.draws,
                seed=seed,
            )
            for seed in range(context.seed, context.seed + context.seeds)
        ]
        for ratio in scale.ratios
    }
    trainings.do(cell for row in cells.values() for cell in row)
    return {
        ratio: np.mean([trainings.result(cell)["held_out"] for cell in row], axis=0) for ratio, row in cells.items()
    }


def differences(simulated: Mapping[float, np.ndarray]) -> dict[float, float]:
    """The largest relative difference of a simulation from the formula, for each number of samples per number."""
    return {ratio: float(np.abs(found / formula(ratio) - 1).max()) for ratio, found in simulated.items()}


def formula(ratio: float) -> np.ndarray:
    """The held-out error after each time."""
    return Readout(Spectrum.isotropic(ratio), SNR).held_out(np.array(TIMES))


def readouts(scale: Scale, context: RecipeContext) -> Errors:
    """The errors of all read-outs."""
    folder = context.out / "text"
    source = context.data or (str(little(context.out)) if context.scale == "smoke" else "python:stdlib")
    text_for_teacher(folder, source, scale.length)
    trainings = Trainings(context, partial(read_out, folder=folder))
    seeds = range(context.seed, context.seed + context.seeds)
    cells = {samples: [_cell(scale, samples, seed) for seed in seeds] for samples in scale.samples}
    trainings.do(cell for row in cells.values() for cell in row)
    found = {samples: [trainings.result(cell)["widths"] for cell in row] for samples, row in cells.items()}
    return {
        samples: {width: [one[place] for one in rows] for place, width in enumerate(scale.widths)}
        for samples, rows in found.items()
    }


def _cell(scale: Scale, samples: int, seed: int) -> ReadoutCell:
    return ReadoutCell(
        name=f"readout-{samples}-seed{seed}",
        samples=samples,
        widths=scale.widths,
        rows=scale.rows,
        length=scale.length,
        tested=scale.tested,
        seed=seed,
    )


def _ours(scale: Scale, context: RecipeContext) -> str:
    """What was done here, in a few sentences."""
    return (
        f"{scale.draws * context.seeds} draws of {scale.numbers} inputs with {', '.join(f'{one:g}' for one in scale.ratios)} "
        f"samples per number, at a signal-to-noise ratio of {SNR:g}. Then hidden states of the built-in teacher, labelled by "
        f"whether the next token begins with a space, {FLIPPED:.0%} of the labels flipped also in the test: "
        f"{', '.join(map(str, scale.samples))} samples, {', '.join(map(str, scale.widths))} random ReLU features, with "
        f"{context.seeds} seeds. All are trained by gradient flow in closed form. The formula knows the eigenvalues of the "
        "features and the signal-to-noise ratio under which the training labels are most probable; the control chooses its "
        "stop by a fifth of the samples."
    )


def _numbers(simulated: Mapping[float, np.ndarray], errors: Errors) -> dict[str, Any]:
    """The figures as JSON."""
    return {
        "times": list(TIMES),
        "simulated": {f"{ratio:g}": found.tolist() for ratio, found in simulated.items()},
        "formula": {f"{ratio:g}": formula(ratio).tolist() for ratio in simulated},
        "readouts": [
            {"samples": samples, "width": width, "errors": [dict(one) for one in rows]}
            for samples, by in errors.items()
            for width, rows in by.items()
        ],
    }


def tables(numbers: Mapping[str, Any]) -> list[str]:
    """A table of the test errors of all read-outs, means over seeds."""
    names = {**SHOWN, "ridge": "best ridge", "weighted": "formula, directions by size"}
    head = f"| samples | features | {' | '.join(names.values())} |\n|{'---|' * (len(names) + 2)}"
    rows = [
        f"| {one['samples']:,} | {one['width']:,} | "
        + " | ".join(f"{np.mean([row[how] for row in one['errors']]):.3f}" for how in names)
        + " |"
        for one in numbers["readouts"]
    ]
    return ["\n".join([head, *rows])]


RECIPE = Recipe(
    name="generalization",
    title="Dynamics of generalisation",
    paper="High-dimensional dynamics of generalization error in neural networks, arXiv 1710.03667",
    claim="Gradient descent over-trains most where trained numbers are about as many as samples; how the error goes follows from "
    "the spectrum of the inputs and the signal-to-noise ratio, and so does the best time to stop.",
    differences=(
        "The paper's networks with hidden layers that are trained are left out: only read-outs are trained here.",
        "Labels are a property of text with flipped signs, not a linear teacher with normal noise; features are not "
        "isotropic. The formula is given their eigenvalues, and counts all directions alike.",
        "Adapters of few numbers (LoRA-XS), where trained numbers meet samples in practice, are left out.",
    ),
    run=run,
    scales=SCALES,
    tables=tables,
    short={
        "at each time of its training": Short("The formula gives the error at each time", "largest difference [^;]+"),
        "errs most": Short("Trained to the end, as many features as samples is worst", "error of that [^;]+"),
        "says when to stop": Short("The formula says when to stop", "[0-9]+% [^;]+"),
    },
)
