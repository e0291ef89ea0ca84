"""MixtureGrowth: whether a model of twice the width is best grown from two seeds and mixtures of their layers.

The paper is "MixtureGrowth: Growing Neural Networks by Recombining Learned Parameters" (Pham et al., arXiv 2311.04251). It trains
two networks of half the width, puts them on the diagonal of a wide one, fills the rest with new mixtures of their parameters, and
trains on. Here beside it are zeros in place of the mixtures, the average of the two seeds, one seed that trained twice as long
and is widened (`limbeck grow`), and the wide model from random weights, at equal FLOPs and at equal tokens.

    limbeck reproduce mixture-growth --scale smoke | small | gpu        a minute | 40 minutes of a core | not yet timed
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

from limbeck.papers.lab.paired import mean
from limbeck.papers.lab.pilots import little
from limbeck.papers.lab.plots import draw_frontier
from limbeck.papers.lab.rates import TUNING
from limbeck.papers.lab.recipe import ClaimResult, Outcome, Recipe, RecipeContext, Short, of_seeds
from limbeck.papers.lab.text import text_of
from limbeck.papers.lab.trainings import Trainings
from limbeck.papers.mixture_growth.arms import AVERAGE, GROWN, SCRATCH, WIDENED, ZERO
from limbeck.papers.mixture_growth.judging import judge_average, judge_flops, judge_mixtures, judge_tokens
from limbeck.papers.mixture_growth.schedule import (
    FLOPS,
    TOKENS,
    UNTRAINED,
    Plan,
    Scale,
    Trained,
    Work,
    at,
    train_all,
)
from limbeck.papers.mixture_growth.training import flops_of, parameters_of, train_cell
from limbeck.report.words import count
from limbeck.run.optim import suggested_learning_rate
from limbeck.students.shape import Shape

SCALES = {
    "smoke": Scale(300, Shape(2, 16, 2, 1, 32), 4, 2, 2, 32, 16, (1.0,)),
    "small": Scale(512, Shape(3, 48, 4, 2, 128), 200, 100, 8, 256, 96, (0.5, 1.0, 2.0)),
    "gpu": Scale(4096, Shape(6, 256, 8, 4, 704), 6000, 3000, 64, 512, 800, (0.5, 1.0, 2.0)),
}


def run(context: RecipeContext) -> Outcome:
    """Trains all arms, and judges all claims."""
    scale = SCALES[context.scale]
    folder = context.out / "text"
    source = context.data or (str(little(context.out)) if context.scale == "smoke" else "python:stdlib")
    text_of(folder, source, vocab=scale.vocab, length=scale.length)
    trainings = Trainings(context, partial(train_cell, folder=folder))
    flops = {shape: flops_of(folder, shape, scale.length) for shape in (scale.small, scale.wide)}
    plan = Plan.of(scale, flops[scale.small], flops[scale.wide])
    usual = {shape: suggested_learning_rate(parameters_of(folder, shape)) for shape in flops}
    work = Work(scale, plan, usual, trainings, context.seed + TUNING)
    found = train_all(work, range(context.seed, context.seed + context.seeds))
    judged = _judged(found)
    figure = context.out / "mixture-growth.png"
    cost = _cost(scale, plan, flops)
    draw_frontier({arm: mean(found.losses(arm)) for arm in cost}, cost, figure, axis="FLOPs of all trainings, forward")
    return Outcome(
        _ours(scale, plan, found, context),
        tuple(of_seeds(one, context.seeds) for one in judged),
        _numbers(plan, found, cost),
        {figure: "Held-out loss of each arm by the FLOPs that it took, with those of the seeds it was grown from."},
        trainings.cpu_seconds(),
    )


def _judged(found: Trained) -> list[ClaimResult]:
    mixed, zero = found.losses(found.mixture), found.losses(ZERO)
    at_flops = [at(SCRATCH, FLOPS), WIDENED, at(AVERAGE, FLOPS)]
    at_tokens = [at(SCRATCH, TOKENS), at(AVERAGE, TOKENS)]
    return [
        found.judged(judge_mixtures(zero, mixed, found.mixture), found.mixture, ZERO),
        found.judged(judge_flops(mixed, {arm: found.losses(arm) for arm in at_flops}), found.mixture, *at_flops),
        found.judged(judge_tokens(mixed, {arm: found.losses(arm) for arm in at_tokens}), found.mixture, *at_tokens),
        found.judged(judge_average(zero, found.losses(at(AVERAGE, FLOPS))), ZERO, at(AVERAGE, FLOPS)),
    ]


def _cost(scale: Scale, plan: Plan, flops: Mapping[Shape, float]) -> dict[str, float]:
    """FLOPs of forward passes of all that an arm trains, with its seeds."""
    rows = scale.rows * scale.length
    small, wide = (flops[shape] * rows for shape in (scale.small, scale.wide))
    grown = 2 * scale.before * small + scale.after * wide
    found = dict.fromkeys(GROWN, grown)
    found |= {at(SCRATCH, cost): steps * wide for cost, steps in plan.scratch.items()}
    found |= {at(AVERAGE, cost): 2 * (scale.before + steps) * small for cost, steps in plan.continued.items()}
    return found | {UNTRAINED: 2 * scale.before * small}


def _ours(scale: Scale, plan: Plan, found: Trained, context: RecipeContext) -> str:
    """What was done here, in a few sentences."""
    step = scale.rows * scale.length
    sizes = {arm: count(found.results[arm][0]["parameters"]) for arm in (UNTRAINED, ZERO)}
    return (
        f"Two decoders of {sizes[UNTRAINED]} parameters ({scale.small}) learned {count(scale.before * step)} tokens each, what "
        f"was grown from them ({sizes[ZERO]}, {scale.wide}) {count(scale.after * step)} more; one of them learned twice as many "
        f"before it was widened. From random weights the wide model learned {count(plan.scratch[FLOPS] * step)} tokens at equal "
        f"FLOPs and {count(plan.scratch[TOKENS] * step)} at equal tokens; the two that are averaged "
        f"{count(plan.continued[FLOPS] * step)} and {count(plan.continued[TOKENS] * step)} more each. {context.seeds} seeds. Of "
        f"{found.factors.number} learning rates each arm had its best, with another seed; so had the size of the mixtures, "
        f"{found.mixture}.{found.factors.doubt}"
    )


def _numbers(plan: Plan, found: Trained, cost: Mapping[str, float]) -> dict[str, Any]:
    """The figures as JSON."""
    return {
        "lr_factor": dict(found.factors),
        "mixture": found.mixture,
        "steps": {"from random weights": dict(plan.scratch), "of each of the two": dict(plan.continued)},
        "arms": [
            {
                "arm": arm,
                "parameters": found.results[arm][0]["parameters"],
                "forward_flops": cost[arm],
                "before_nats": asdict(mean(found.losses(arm, "before"))),
                "after_nats": asdict(mean(found.losses(arm))),
            }
            for arm in cost
        ],
    }


def tables(numbers: Mapping[str, Any]) -> list[str]:
    """A table of all arms, at growth and after training."""
    head = "| arm | parameters | forward FLOPs | nats before the last training | nats after |\n|---|---|---|---|---|"
    rows = [
        f"| {one['arm']} | {one['parameters']:,} | {one['forward_flops']:.3g} | {one['before_nats']['value']:.3f} | "
        f"{one['after_nats']['value']:.3f} |"
        for one in numbers["arms"]
    ]
    return ["\n".join([head, *rows])]


def _lower(seen: str) -> str:
    """How much lower the loss is than each other's, in a short cell."""
    found = re.findall(r"([+-][\d.]+ \([^)]*\)) than ([a-z ]+[a-z])", seen)
    return "nats lower: " + "; ".join(f"{difference} than {other}" for difference, other in found)


RECIPE = Recipe(
    name="mixture-growth",
    title="MixtureGrowth: a wide model grown from two seeds",
    paper="MixtureGrowth: Growing Neural Networks by Recombining Learned Parameters, arXiv 2311.04251",
    claim="A network grown from two smaller ones, with new mixtures of their learned parameters between them, is better than by "
    "other ways of growth, and close to one trained at full width, at fewer FLOPs.",
    differences=(
        "Decoders on a text in place of convolutional networks on images.",
        "Templates are a basis of the layers of a trained net, by which its coefficients are exact; there they are trained, "
        "which computes the same functions by other parameters.",
        "The new coefficients are orthogonal to those of the layer, as large or a tenth; in the released code of norm 1, and of "
        "the two new ones only one is set.",
        "Norms over the channels are over both nets after growth; batch norms have none of that.",
        "The logits are the mean of both, so that zeros in place of mixtures make nearly the average of the nets.",
        "The rate of the nets is chosen at their own length, and holds for the one that trains twice as long too.",
    ),
    run=run,
    scales=SCALES,
    tables=tables,
    short={
        "New mixtures of two seeds": Short("New mixtures are better than zeros", "^[^;]+"),
        "At equal FLOPs": Short("Grown from two seeds is best at equal FLOPs", _lower),
        "At equal tokens": Short("It is close to training at full width at equal tokens", _lower),
        "joined by zeros": Short("Two seeds are better trained together than apart", "^[^;]+"),
    },
)
