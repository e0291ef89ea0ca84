"""Rich and lazy training: whether a start of low rank changes more, and whether early change tells good starts of a student.

The paper is "How connectivity structure shapes rich and lazy learning in neural circuits" (Liu et al., arXiv 2310.08513). Part
one is its claim, on recurrent networks. Part two is ours: several starts of one student of a language model.

    limbeck reproduce rich-lazy --scale smoke | small | gpu        a minute | 40 minutes of a core | not yet timed
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from limbeck.papers.lab.from_teacher import teacher_parameters, text_for_teacher
from limbeck.papers.lab.paired import t_interval
from limbeck.papers.lab.pilots import little
from limbeck.papers.lab.plots import draw_by_rank
from limbeck.papers.lab.rates import TUNING, searched_rates
from limbeck.papers.lab.recipe import ClaimResult, Outcome, Recipe, RecipeContext, Short, of_seeds, with_failures
from limbeck.papers.lab.search import BestRates
from limbeck.papers.lab.trainings import Trainings
from limbeck.papers.rich_lazy.judging import ByTask, judge_moved, judge_selector, judge_tangent
from limbeck.papers.rich_lazy.networks import CHOICE, MATCH, NetworkCell, train_network
from limbeck.papers.rich_lazy.starts import STARTS, StartCell, train_start
from limbeck.report.words import count
from limbeck.run.optim import suggested_learning_rate

TASKS = (CHOICE, MATCH)
CHANGES = {"representation": "the alignment of representations", "moved": "how far its weights have moved"}


@dataclass(frozen=True)
class Scale:
    """``networks`` a seed of ``units`` from starts of each rank, and the trainings of the student's starts.

    ``factors`` of the usual learning rate are tried for each start, in ``tuning_steps``.
    """

    networks: int
    units: int
    ranks: tuple[int, ...]
    level: float
    matched: int
    most: int
    layers: int
    steps: int
    early: int
    tuning_steps: int
    rows: int
    length: int
    measured: int
    factors: tuple[float, ...]


SCALES = {
    "smoke": Scale(1, 20, (2, 20), 0.6, 5, 60, 3, 3, 1, 1, 2, 32, 16, (1.0,)),
    "small": Scale(5, 100, (2, 5, 20, 100), 0.2, 60, 4000, 3, 100, 20, 40, 4, 256, 96, (0.5, 1.0, 2.0)),
    "gpu": Scale(20, 300, (1, 30, 100, 300), 0.2, 60, 10_000, 3, 1000, 100, 200, 16, 256, 800, (0.5, 1.0, 2.0)),
}

Results = Mapping[str, Mapping[int, Sequence[Mapping[str, Any]]]]  # of networks: by task, then by rank
Students = Mapping[str, Sequence[Mapping[str, Any]]]  # by start, one a seed


def run(context: RecipeContext) -> Outcome:
    """Trains networks and students, and judges all claims."""
    scale = SCALES[context.scale]
    trainings = Trainings(context, train_network)
    found = recurrent(scale, context, trainings)
    factors, students = language(scale, context)
    of_networks = {f"{task}, rank {rank}": rows for task, by in found.items() for rank, rows in by.items()}
    judged: list[ClaimResult] = [
        with_failures(judge(read(found, "at_loss", part)), of_networks)
        for judge, part in ((judge_tangent, "tangent"), (judge_moved, "moved"))
    ]
    nats = {start: [sum(one["nats"]) / sum(one["tokens"]) for one in rows] for start, rows in students.items()}
    judged += [
        with_failures(
            judge_selector(said, {s: [r[part] for r in rows] for s, rows in students.items()}, nats), students
        )
        for part, said in CHANGES.items()
    ]
    figure = context.out / "rich-lazy.png"
    draw_by_rank(
        {
            task: {rank: t_interval(values) for rank, values in by.items()}
            for task, by in read(found, "at_loss", "tangent").items()
        },
        figure,
    )
    shown = (
        "Alignment of a network's tangent kernel with that before training, at equal loss, by the rank of its start."
    )
    return Outcome(
        _ours(scale, factors, context),
        tuple(of_seeds(one, context.seeds) for one in judged),
        _numbers(found, students, factors),
        {figure: shown},
        trainings.cpu_seconds(),
    )


def recurrent(scale: Scale, context: RecipeContext, trainings: Trainings) -> Results:
    """Trains the recurrent networks without a result, and gives all results."""
    seeds = [1000 * (context.seed + seed) + number for seed in range(context.seeds) for number in range(scale.networks)]

    def cells(task: str, rank: int) -> list[NetworkCell]:
        return [
            NetworkCell(
                name=f"{task.replace(' ', '-')}-rank{rank}-seed{seed}",
                task=task,
                rank=rank,
                units=scale.units,
                level=scale.level,
                matched=scale.matched,
                most=scale.most,
                seed=seed,
            )
            for seed in seeds
        ]

    planned = {task: {rank: cells(task, rank) for rank in scale.ranks} for task in TASKS}
    trainings.do(cell for by in planned.values() for row in by.values() for cell in row)
    return {
        task: {rank: [trainings.result(cell) for cell in row] for rank, row in by.items()}
        for task, by in planned.items()
    }


def language(scale: Scale, context: RecipeContext) -> tuple[BestRates, Students]:
    """The factor of each start's rate, and the results of all students. Their trainings are in the folder of the networks."""
    folder = context.out / "text"
    source = context.data or (str(little(context.out)) if context.scale == "smoke" else "python:stdlib")
    text_for_teacher(folder, source, scale.length)
    trainings = Trainings(context, partial(train_start, folder=folder))
    factors = searched_rates(
        trainings,
        STARTS,
        scale.factors,
        lambda start, factor: _cell(scale, start, context.seed + TUNING, factor, scale.tuning_steps, tuning=True),
        lambda one: float(sum(one["nats"]) / sum(one["tokens"])),
    )
    seeds = range(context.seed, context.seed + context.seeds)
    planned = {start: [_cell(scale, start, seed, factors[start], scale.steps) for seed in seeds] for start in STARTS}
    return factors, trainings.results(planned)


def read(found: Results, when: str, part: str) -> ByTask:
    """A reading of all networks. One that was not reached is NaN."""
    return {
        task: {rank: [_number((one[when] or {}).get(part)) for one in rows] for rank, rows in by.items()}
        for task, by in found.items()
    }


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def _cell(scale: Scale, start: str, seed: int, factor: float, steps: int, *, tuning: bool = False) -> StartCell:
    return StartCell(
        name=f"{start.replace(' ', '-')}-factor{factor:g}-steps{steps}-seed{seed}",
        start=start,
        layers=scale.layers,
        seed=seed,
        rate=factor * suggested_learning_rate(teacher_parameters()),
        steps=steps,
        early=min(scale.early, steps),
        rows=scale.rows,
        length=scale.length,
        measured=scale.measured,
        tuning=tuning,
    )


def _ours(scale: Scale, factors: BestRates, context: RecipeContext) -> str:
    """What was done here, in a few sentences."""
    tokens = scale.steps * scale.rows * scale.length
    return (
        f"{scale.networks * context.seeds} networks of {scale.units} units from starts of each rank "
        f"({', '.join(map(str, scale.ranks))}), trained to a loss of {scale.level:g} nats in two tasks. A student with "
        f"{scale.layers} of the built-in teacher's layers from {len(STARTS)} starts, trained on {count(tokens)} tokens by the "
        f"teacher's logits with {context.seeds} seeds, and read after {scale.early} of {scale.steps} steps. Of "
        f"{factors.number} learning rates each start had its best, with another seed.{factors.doubt}"
    )


def _numbers(found: Results, students: Students, factors: Mapping[str, float]) -> dict[str, Any]:
    """The figures as JSON."""
    return {
        "networks": [
            {
                "task": task,
                "rank": rank,
                "stable_rank": float(np.mean([one["stable_rank"] for one in rows])),
                "steps": [one["steps"] for one in rows],
                **{
                    when: {
                        part: asdict(t_interval(read(found, when, part)[task][rank]))
                        for part in ("moved", "representation", "tangent")
                    }
                    for when in ("at_loss", "at_steps")
                },
            }
            for task, by in found.items()
            for rank, rows in by.items()
        ],
        "lr_factor": dict(factors),
        "starts": {
            start: {
                "moved": [one["moved"] for one in rows],
                "representation": [one["representation"] for one in rows],
                "nats": [sum(one["nats"]) / sum(one["tokens"]) for one in rows],
            }
            for start, rows in students.items()
        },
    }


def tables(numbers: Mapping[str, Any]) -> list[str]:
    """A table of networks by rank, and one of the starts of the student."""
    head = "| task | rank of the start | moved | representations | tangent kernel | moved after equal steps | steps |"
    rows = [
        f"| {one['task']} | {one['rank']} | {one['at_loss']['moved']['value']:.2f} | "
        f"{one['at_loss']['representation']['value']:.2f} | {one['at_loss']['tangent']['value']:.2f} | "
        f"{_shown(one['at_steps']['moved']['value'])} | {np.mean(one['steps']):.0f} |"
        for one in numbers["networks"]
    ]
    starts = [
        f"| {name} | {np.mean(one['moved']):.1%} | {np.mean(one['representation']):.3f} | {np.mean(one['nats']):.3f} |"
        for name, one in numbers["starts"].items()
    ]
    return [
        "\n".join([head, "|" + "---|" * 7, *rows]),
        "\n".join(
            ["| start of the student | moved early | representations | nats at the end |", "|---|---|---|---|", *starts]
        ),
    ]


def _shown(value: float | None) -> str:
    return "–" if value is None or value != value else f"{value:.2f}"


RECIPE = Recipe(
    name="rich-lazy",
    title="Rich and lazy training by the rank of the start",
    paper="How connectivity structure shapes rich and lazy learning in neural circuits, arXiv 2310.08513",
    claim="The effective rank of initial recurrent weights biases training: starts of high rank change less (lazy), those of low "
    "rank more (rich), unless these are aligned with the task.",
    differences=(
        "100 units in place of 300, and two tasks of our own in 8 steps, made as those of the paper's toolbox.",
        "Trainings end at one loss, since starts of low rank need more steps; there all have as many. Equal steps are beside it.",
        "Starts that are aligned with the task are left out: as large as the others they grow without bound in 8 steps.",
        "Starts of a student of a language model are ours.",
    ),
    run=run,
    scales=SCALES,
    tables=tables,
    short={
        "tangent kernel has changed": Short("A start of low rank changes its tangent kernel more", "difference [^;]+"),
        "moves further": Short("A start of low rank moves further to the same loss", "difference [^;]+"),
        "alignment of representations": Short("Early alignment says which start ends best", "rank correlation [^;]+"),
        "how far its weights": Short("Early movement says which start ends best", "rank correlation [^;]+"),
    },
)
