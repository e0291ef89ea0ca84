"""Learngene: whether students of several depths gain by layers that were trained once for all of them.

The papers are "Exploring Learngene via Stage-wise Weight Sharing for Initializing Variable-sized Models" (SWS, Xia et al., arXiv
2404.16897) and "Transformer as Linear Expansion of Learngene" (TLEG, Xia et al., arXiv 2312.05614). Their claim is beside random
weights. Ours is beside layers of the teacher, which costs nothing, at equal tokens and at equal FLOPs in all: those of the shared
training are charged to its students in equal parts.

    limbeck reproduce learngene --scale smoke | small | gpu        a minute | 40 minutes of a core | not yet timed
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from limbeck.papers.lab.from_teacher import teacher_parameters, text_for_teacher
from limbeck.papers.lab.paired import mean
from limbeck.papers.lab.pilots import little
from limbeck.papers.lab.plots import draw_by_depth
from limbeck.papers.lab.rates import TUNING, searched_rates
from limbeck.papers.lab.recipe import ClaimResult, Outcome, Recipe, RecipeContext, Short, of_seeds, with_failures
from limbeck.papers.lab.search import BestRates
from limbeck.papers.lab.trainings import Trainings
from limbeck.papers.learngene.judging import ByDepth, judge_flops, judge_layers, judge_linear, judge_stages
from limbeck.papers.learngene.training import (
    FROM_TEACHER,
    LAYERS,
    LINEAR,
    RANDOM,
    SHARED,
    STAGES,
    FamilyCell,
    flops_a_token,
    train_family,
)
from limbeck.report.words import count
from limbeck.run.optim import suggested_learning_rate

EQUAL_FLOPS = "layers of the teacher, equal FLOPs"
ARMS = (STAGES, LINEAR, FROM_TEACHER, LAYERS, RANDOM)


@dataclass(frozen=True)
class Scale:
    """Students of ``depths``, each for ``steps`` in all, of which shared arms have half in the auxiliary's training.

    ``factors`` of the usual learning rate are tried for each arm, with ``tuning_steps``.
    """

    depths: tuple[int, ...]
    stages: int
    steps: int
    tuning_steps: int
    rows: int
    length: int
    measured: int
    factors: tuple[float, ...]


SCALES = {
    "smoke": Scale((3,), 2, 4, 2, 2, 32, 16, (1.0,)),
    "small": Scale((2, 3, 4), 2, 100, 40, 4, 256, 96, (0.5, 1.0, 2.0)),
    "gpu": Scale((2, 3, 4), 2, 2000, 400, 16, 256, 800, (0.5, 1.0, 2.0)),
}

Families = Mapping[str, Sequence[Mapping[str, Any]]]  # the results of an arm, one a seed


def run(context: RecipeContext) -> Outcome:
    """Trains the families, and judges all claims."""
    scale = SCALES[context.scale]
    folder = context.out / "text"
    source = context.data or (str(little(context.out)) if context.scale == "smoke" else "python:stdlib")
    text_for_teacher(folder, source, scale.length)
    trainings = Trainings(context, partial(train_family, folder=folder))
    factors, found = families(scale, context, trainings)
    losses = {arm: by_depth(rows, scale.depths) for arm, rows in found.items()}
    judged: list[ClaimResult] = [
        with_failures(judge(losses[other], losses[ours]), {arm: found[arm] for arm in (other, ours)})
        for judge, other, ours in (
            (judge_stages, RANDOM, STAGES),
            (judge_linear, RANDOM, LINEAR),
            (judge_layers, LAYERS, FROM_TEACHER),
            (judge_flops, EQUAL_FLOPS, FROM_TEACHER),
        )
    ]
    figure = context.out / "learngene.png"
    draw_by_depth({arm: {depth: mean(one) for depth, one in by.items()} for arm, by in losses.items()}, figure)
    return Outcome(
        _ours(scale, factors, context),
        tuple(of_seeds(one, context.seeds) for one in judged),
        _numbers(scale, found, losses, factors),
        {figure: "Held-out loss of students by their depth, after equal tokens in all, or equal FLOPs."},
        trainings.cpu_seconds(),
    )


def families(scale: Scale, context: RecipeContext, trainings: Trainings) -> tuple[BestRates, Families]:
    """The factor of each arm's learning rate, and the results of all families. Arms of the teacher's layers have one rate."""
    factors = searched_rates(
        trainings,
        ARMS,
        scale.factors,
        lambda arm, factor: _cell(scale, arm, context.seed + TUNING, factor, scale.tuning_steps, tuning=True),
        _nats,
    )
    factors[EQUAL_FLOPS] = factors[LAYERS]
    seeds = range(context.seed, context.seed + context.seeds)
    planned = {
        arm: [_cell(scale, arm, seed, factors[arm], scale.steps) for seed in seeds] for arm in (*ARMS, EQUAL_FLOPS)
    }
    return factors, trainings.results(planned)


def by_depth(rows: Sequence[Mapping[str, Any]], depths: Sequence[int]) -> ByDepth:
    """Nats and tokens of each document by depth, (seeds, documents, 2)."""
    students = {depth: [one["students"][number] for one in rows] for number, depth in enumerate(depths)}
    return {
        depth: np.array([np.stack([one["nats"], one["tokens"]], -1) for one in many])
        for depth, many in students.items()
    }


def own_steps(arm: str, steps: int, depths: Sequence[int], length: int) -> tuple[int, ...]:
    """The steps of each student's own training: half where the others are its share of the auxiliary's.

    At equal FLOPs those are counted as steps of a student of this depth; the teacher's forward pass is part of a step.
    """
    if arm in SHARED:
        return tuple(steps - steps // 2 for _ in depths)
    if arm != EQUAL_FLOPS:
        return tuple(steps for _ in depths)
    auxiliary = sum(flops_a_token(max(depths), length))
    return tuple(steps - steps // 2 + round(steps // 2 * auxiliary / sum(flops_a_token(one, length))) for one in depths)


def _cell(scale: Scale, arm: str, seed: int, factor: float, steps: int, *, tuning: bool = False) -> FamilyCell:
    return FamilyCell(
        name=f"{arm.replace(', ', '-').replace(' ', '-')}-factor{factor:g}-steps{steps}-seed{seed}",
        arm=LAYERS if arm == EQUAL_FLOPS else arm,
        depths=scale.depths,
        steps=own_steps(arm, steps, scale.depths, scale.length),
        shared=steps // 2 * len(scale.depths) if arm in SHARED else 0,
        stages=scale.stages,
        seed=seed,
        rate=factor * suggested_learning_rate(teacher_parameters()),
        rows=scale.rows,
        length=scale.length,
        measured=scale.measured,
        tuning=tuning,
    )


def _nats(result: Mapping[str, Any]) -> float:
    """The mean over students of a family of their nats per token."""
    return float(np.mean([sum(one["nats"]) / sum(one["tokens"]) for one in result["students"]]))


def _ours(scale: Scale, factors: BestRates, context: RecipeContext) -> str:
    """What was done here, in a few sentences."""
    tokens = scale.steps * scale.rows * scale.length
    shared = scale.steps // 2 * scale.rows * scale.length
    whole = shared * len(scale.depths)
    return (
        f"Students with {', '.join(map(str, scale.depths))} layers, as wide as the built-in teacher of 5, learned its logits "
        f"with {context.seeds} seeds, for {count(tokens)} tokens each in all. In shared arms an auxiliary of "
        f"{max(scale.depths)} layers, in {scale.stages} stages or linear in depth, had {count(whole)} of these tokens, of which "
        f"each student is charged {count(shared)}; made alone, it would be charged with all. Of {factors.number} learning "
        f"rates each arm had its best, with another seed.{factors.doubt}"
    )


def _numbers(
    scale: Scale, found: Families, losses: Mapping[str, ByDepth], factors: Mapping[str, float]
) -> dict[str, Any]:
    """The figures as JSON. FLOPs are per student: its own training's, and its share of the auxiliary's."""

    def flops(arm: str, number: int, depth: int) -> dict[str, float]:
        a_step = scale.rows * scale.length
        own = (
            own_steps(arm, scale.steps, scale.depths, scale.length)[number]
            * a_step
            * sum(flops_a_token(depth, scale.length))
        )
        shared = (
            scale.steps // 2 * a_step * sum(flops_a_token(max(scale.depths), scale.length)) if arm in SHARED else 0.0
        )
        return {"own": own, "share": shared, "alone": own + shared * len(scale.depths)}

    return {
        "lr_factor": dict(factors),
        "stored_parameters": {arm: rows[0]["stored"] for arm, rows in found.items()},
        "students": [
            {
                "arm": arm,
                "layers": depth,
                "steps": own_steps(arm, scale.steps, scale.depths, scale.length)[number],
                "nats": asdict(mean(losses[arm][depth])),
                "flops": flops(arm, number, depth),
            }
            for arm in found
            for number, depth in enumerate(scale.depths)
        ],
    }


def tables(numbers: Mapping[str, Any]) -> list[str]:
    """A table of all students: their steps, what they cost, and their loss."""
    head = (
        "| arm | layers | own steps | FLOPs in all | made alone | stored parameters of the family | nats |\n"
        "|---|---|---|---|---|---|---|"
    )
    rows = [
        f"| {one['arm']} | {one['layers']} | {one['steps']} | {one['flops']['own'] + one['flops']['share']:.2e} | "
        f"{one['flops']['alone']:.2e} | {numbers['stored_parameters'][one['arm']]:,} | {one['nats']['value']:.3f} |"
        for one in numbers["students"]
    ]
    return ["\n".join([head, *rows])]


RECIPE = Recipe(
    name="learngene",
    title="Students of several depths from shared layers",
    paper="Exploring Learngene via Stage-wise Weight Sharing for Initializing Variable-sized Models, arXiv 2404.16897",
    claim="Layers that an auxiliary model shares in stages, distilled once, start models of several depths better than random "
    "weights, at a fraction of the cost of training each.",
    differences=(
        "Decoders of language with 2 to 4 layers, in place of vision transformers of up to 12; the auxiliary has 4, not 16.",
        "Norms are not shared within a stage; there they are.",
        "The students' own training is half of their tokens; there it is short beside the auxiliary's.",
        "A line begins as that of least squares through random layers.",
        "Stages that begin as layers of the teacher, and the teacher's layers without sharing, are ours.",
    ),
    run=run,
    scales=SCALES,
    tables=tables,
    short={
        "from shared stages, which": Short("Shared stages beat random weights", "difference [^;]+"),
        "linear in depth": Short("Linear layers beat random weights", "difference [^;]+"),
        "equal tokens in all": Short("Sharing beats layers of the teacher, equal tokens", "difference [^;]+"),
        "equal FLOPs in all": Short("Sharing beats layers of the teacher, equal FLOPs", "difference [^;]+"),
    },
)
