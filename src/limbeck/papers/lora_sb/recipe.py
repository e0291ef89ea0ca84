"""LoRA-SB: whether adapters are best in the subspace of the first update, and what its sign and its start add.

The paper is "Initialization using Update Approximation is a Silver Bullet for Extremely Efficient Low-Rank Fine-Tuning" (Ponkshe
et al., arXiv 2411.19557). Between two frozen matrices a square one is trained; the frozen ones are singular vectors of AdamW's
first step, and training begins after that step, cut to the rank. Here the built-in teacher of the standard library is tuned on
the same programs with all names written in another alphabet.

    limbeck reproduce lora-sb --scale smoke | small | gpu        a minute | 30 minutes of a core | not yet timed
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from limbeck.papers.lab.from_teacher import teacher_parameters, text_for_teacher
from limbeck.papers.lab.paired import Losses, gain, mean
from limbeck.papers.lab.pilots import little
from limbeck.papers.lab.plots import draw_learned_and_forgotten
from limbeck.papers.lab.rates import TUNING, searched_rates
from limbeck.papers.lab.recipe import ClaimResult, Outcome, Recipe, RecipeContext, Short, of_seeds, with_failures
from limbeck.papers.lab.search import BestRates
from limbeck.papers.lab.trainings import Trainings
from limbeck.papers.lora_sb.judging import judge_lora, judge_random, judge_start, judge_subspace
from limbeck.papers.lora_sb.training import ALL, LORA, SUBSPACES, TuningCell, flops_a_token, train, write_renamed
from limbeck.report.words import count
from limbeck.run.optim import tuning_rate

EQUAL_FLOPS = "all weights, equal FLOPs"
ARMS = (ALL, LORA, *SUBSPACES)
SB, XS, GRADIENT, RANDOM = "LoRA-SB", "LoRA-XS", "gradient, from zero", "random"


@dataclass(frozen=True)
class Scale:
    """Tunings of ``steps`` steps. ``rank`` is that of subspaces, ``lora_rank`` that of LoRA with about as many numbers.

    ``factors`` of a usual rate are tried for each arm, with ``tuning_steps``.
    """

    rank: int
    lora_rank: int
    steps: int
    tuning_steps: int
    rows: int
    length: int
    measured: int
    factors: tuple[float, ...]


SCALES = {
    "smoke": Scale(4, 1, 4, 2, 2, 32, 16, (1.0,)),
    "small": Scale(24, 2, 200, 60, 4, 256, 96, (0.1, 0.3, 1.0, 3.0)),
    "gpu": Scale(24, 2, 2000, 400, 16, 256, 800, (0.1, 0.3, 1.0, 3.0)),
}

Found = Mapping[str, Sequence[Mapping[str, Any]]]  # the results of an arm, one a seed


def run(context: RecipeContext) -> Outcome:
    """Tunes the teacher by all arms, and judges all claims."""
    scale = SCALES[context.scale]
    source = context.data or (str(little(context.out)) if context.scale == "smoke" else "python:stdlib")
    text_for_teacher(context.out / "plain", source, scale.length)
    write_renamed(context.out / "renamed.jsonl", source)
    text_for_teacher(context.out / "renamed", str(context.out / "renamed.jsonl"), scale.length)
    trainings = Trainings(context, partial(train, folder=context.out))
    factors, found = tunings(scale, context, trainings)
    losses = {arm: of_documents(rows) for arm, rows in found.items()}
    kept = {arm: of_documents([one["kept"] for one in rows]) for arm, rows in found.items()}
    judged: list[ClaimResult] = [
        with_failures(judge(losses[other], losses[ours]), {arm: found[arm] for arm in (other, ours)})
        for judge, other, ours in (
            (judge_subspace, XS, SB),
            (judge_start, GRADIENT, SB),
            (judge_lora, LORA, SB),
            (judge_random, RANDOM, GRADIENT),
        )
    ]
    figure = context.out / "lora-sb.png"
    draw_learned_and_forgotten({arm: (mean(losses[arm]), mean(kept[arm])) for arm in found}, figure)
    return Outcome(
        _ours(scale, factors, found, context),
        tuple(of_seeds(one, context.seeds) for one in judged),
        _numbers(scale, found, losses, kept, factors),
        {
            figure: "Held-out loss on the programs with other names, and on those with their own: what was learned and kept."
        },
        trainings.cpu_seconds(),
    )


def tunings(scale: Scale, context: RecipeContext, trainings: Trainings) -> tuple[BestRates, Found]:
    """The factor of each arm's learning rate, and the results of all tunings."""
    factors = searched_rates(
        trainings,
        ARMS,
        scale.factors,
        lambda arm, factor: _cell(scale, arm, context.seed + TUNING, factor, scale.tuning_steps, tuning=True),
        lambda result: float(sum(result["nats"]) / sum(result["tokens"])),
    )
    factors[EQUAL_FLOPS] = factors[ALL]
    seeds = range(context.seed, context.seed + context.seeds)
    planned = {
        arm: [_cell(scale, arm, seed, factors[arm], steps_of(scale, arm)) for seed in seeds]
        for arm in (*ARMS, EQUAL_FLOPS)
    }
    return factors, trainings.results(planned)


def steps_of(scale: Scale, arm: str) -> int:
    """The steps of an arm: as many for all, fewer of all weights for the FLOPs of adapters."""
    if arm != EQUAL_FLOPS:
        return scale.steps
    cheaper = flops_a_token(scale.length, adapters=True) / flops_a_token(scale.length, adapters=False)
    return max(1, round(scale.steps * cheaper))


def of_documents(rows: Sequence[Mapping[str, Any]]) -> Losses:
    """Nats and tokens of each document, (seeds, documents, 2)."""
    return np.array([np.stack([one["nats"], one["tokens"]], -1) for one in rows])


def _cell(scale: Scale, arm: str, seed: int, factor: float, steps: int, *, tuning: bool = False) -> TuningCell:
    own = ALL if arm == EQUAL_FLOPS else arm
    return TuningCell(
        name=f"{arm.replace(', ', '-').replace(' ', '-')}-factor{factor:g}-steps{steps}-seed{seed}",
        arm=own,
        rank=0 if own == ALL else scale.lora_rank if own == LORA else scale.rank,
        seed=seed,
        rate=factor * _usual(own),
        steps=steps,
        rows=scale.rows,
        length=scale.length,
        measured=scale.measured,
        tuning=tuning,
    )


def _usual(arm: str) -> float:
    """The rate that factors are of: that of a tuning, of all weights three times as much, so that both have rates above it."""
    return tuning_rate(teacher_parameters(), adapters=True) if arm != ALL else 3.0 * tuning_rate(teacher_parameters())


def _ours(scale: Scale, factors: BestRates, found: Found, context: RecipeContext) -> str:
    """What was done here, in a few sentences."""
    numbers = {arm: found[arm][0]["trained"] for arm in (SB, LORA, ALL)}
    tokens = scale.steps * scale.rows * scale.length
    return (
        f"The built-in teacher was tuned on {count(tokens)} tokens of programs with all names written in another alphabet, with "
        f"{context.seeds} seeds: all its {count(numbers[ALL])} weights, LoRA of rank {scale.lora_rank} ({count(numbers[LORA])} "
        f"numbers), or a square matrix of {scale.rank} for each linear layer ({count(numbers[SB])} numbers) in six subspaces. Of "
        f"{factors.number} learning rates each arm had its best, with another seed.{factors.doubt}"
    )


def _numbers(
    scale: Scale,
    found: Found,
    losses: Mapping[str, Losses],
    kept: Mapping[str, Losses],
    factors: Mapping[str, float],
) -> dict[str, Any]:
    """The figures as JSON. ``over``: nats that LoRA-SB has fewer than each arm."""
    return {
        "lr_factor": dict(factors),
        "arms": [
            {
                "arm": arm,
                "trained": rows[0]["trained"],
                "steps": steps_of(scale, arm),
                "flops": steps_of(scale, arm)
                * scale.rows
                * scale.length
                * flops_a_token(scale.length, adapters=arm not in (ALL, EQUAL_FLOPS)),
                "nats": asdict(mean(losses[arm])),
                "nats_of_own_names": asdict(mean(kept[arm])),
                "sb_over_it": asdict(gain(losses[arm], losses[SB])),
            }
            for arm, rows in found.items()
        ],
    }


def tables(numbers: Mapping[str, Any]) -> list[str]:
    """A table of all arms: what they train, what they cost, what they learned and kept."""
    head = (
        "| arm | trained numbers | steps | FLOPs | nats | LoRA-SB has fewer by | nats with own names |\n"
        "|---|---|---|---|---|---|---|"
    )
    rows = [
        f"| {one['arm']} | {one['trained']:,} | {one['steps']} | {one['flops']:.2e} | {one['nats']['value']:.3f} | "
        f"{one['sb_over_it']['value']:+.3f} | {one['nats_of_own_names']['value']:.3f} |"
        for one in numbers["arms"]
    ]
    return ["\n".join([head, *rows])]


RECIPE = Recipe(
    name="lora-sb",
    title="Adapters in the subspace of the first update",
    paper="Initialization using Update Approximation is a Silver Bullet for Extremely Efficient Low-Rank Fine-Tuning, "
    "arXiv 2411.19557",
    claim="A square matrix between two frozen ones, which are singular vectors of the first update of full fine-tuning and from "
    "which training begins, is better than LoRA-XS, and than LoRA with 27 to 90 times as many trained numbers.",
    differences=(
        "A language model of 1M parameters and programs with other names, in place of models of 0.4 to 9 billion and tasks of "
        "arithmetic, commonsense and GLUE.",
        "At a width of 128 a square matrix of the rank that helps has no fewer numbers than LoRA of rank 2, so LoRA is compared "
        "at equal numbers, not at 27 to 90 times as many.",
        "Singular vectors are in float32 and exact; the published code rounds them to bfloat16.",
        "The start is one step of the schedule's own size; in the published code it is ten to twenty times too small.",
        "Subspaces of the plain gradient, of the update from a start at the model, orthonormal ones of the weights, and random "
        "ones are ours.",
    ),
    run=run,
    scales=SCALES,
    tables=tables,
    short={
        "At equal rank": Short("LoRA-SB beats LoRA-XS", "difference [^;]+"),
        "sign and its start": Short("The sign and the start matter", "difference [^;]+"),
        "as many trained numbers": Short("LoRA-SB beats LoRA at equal numbers", "difference [^;]+"),
        "directions matter": Short("The gradient's directions beat random ones", "difference [^;]+"),
    },
)
