"""LaTRO: whether the likelihood of a known answer, as a reward, teaches a small model better rationales.

The paper is "Language Models are Hidden Reasoners: Unlocking Latent Reasoning Capabilities via Self-Rewarding" (Chen et al.,
arXiv 2411.04282). A model samples rationales of questions whose answers are known, and is rewarded by how likely they make the
answer. Ours are chains of operations modulo 10 (`corpora.tasks.chains`), after a warm-up on chains with derivations. Beside it
are the two halves of its gradient alone, a reward for right answers, imitation of rationales with right answers (STaR) at equal
samples, and tuning on the answers alone.

    limbeck reproduce latro --scale smoke | small | gpu        half a minute | half an hour of a core | not yet timed
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from limbeck.papers.lab.plots import draw_by_arm
from limbeck.papers.lab.rates import TUNING, searched_rates
from limbeck.papers.lab.recipe import ClaimResult, Outcome, Recipe, RecipeContext, Short, of_seeds, with_failures
from limbeck.papers.lab.right import Right
from limbeck.papers.lab.search import BestRates
from limbeck.papers.lab.trainings import Trainings
from limbeck.papers.latro.judging import (
    Gaps,
    judge_answer_half,
    judge_answers,
    judge_reward,
    judge_verifier,
    judged_from,
)
from limbeck.papers.latro.training import (
    ANSWERS,
    EXACT,
    LATRO,
    LIKELIHOOD,
    RELEASE,
    STAR,
    WARM_UP,
    Cell,
    train_cell,
)
from limbeck.probes.interval import share_interval
from limbeck.report.words import share

ARMS = (LATRO, RELEASE, LIKELIHOOD, EXACT, STAR, ANSWERS)


@dataclass(frozen=True)
class Scale:
    """Chains of ``length`` operations, and the decoder that answers them.

    A step has ``questions`` chains with ``samples`` each. The warm-up has at most ``warm_steps`` on ``examples`` chains, with
    ``warm_rate``; of ``rates`` each arm has its best.
    """

    length: int
    examples: int
    width: int
    layers: int
    heads: int
    questions: int
    samples: int
    tested: int
    steps: int
    warm_steps: int
    warm_rate: float
    rates: tuple[float, ...]


SCALES = {
    "smoke": Scale(2, 64, 16, 1, 2, 2, 2, 8, 2, 4, 3e-3, (3e-4,)),
    "small": Scale(3, 4000, 64, 2, 4, 16, 8, 1000, 200, 2000, 3e-3, (1e-4, 3e-4, 1e-3)),
    "gpu": Scale(6, 200_000, 768, 8, 12, 64, 16, 1000, 200, 10_000, 3e-4, (1e-5, 3e-5, 1e-4)),
}

Results = Mapping[str, Sequence[Mapping[str, Any]]]  # of an arm, one a seed


def run(context: RecipeContext) -> Outcome:
    """Trains the starts and all arms, and judges all claims."""
    scale = SCALES[context.scale]
    trainings = Trainings(context, partial(train_cell, folder=context.out / "nets"))
    rates, found = _found(trainings, scale, context)
    right = {arm: _right(rows) for arm, rows in found.items()}
    gaps = Gaps(_gaps(found[WARM_UP]), _gaps(found[LATRO]))
    judged: list[ClaimResult] = [
        with_failures(result, {arm: found[arm] for arm in arms})
        for result, arms in (
            (judge_reward(right[LATRO], right[LIKELIHOOD], right[STAR], gaps), (LATRO, LIKELIHOOD, STAR)),
            (judge_answer_half(right[LATRO], right[RELEASE]), (LATRO, RELEASE)),
            (judge_answers(right[LATRO], right[ANSWERS]), (LATRO, ANSWERS)),
            (judge_verifier(right[LATRO], right[EXACT]), (LATRO, EXACT)),
        )
    ]
    starts = right[WARM_UP].mean(1).tolist()
    figure = context.out / "latro.png"
    draw_by_arm({"greedy": {arm: one.mean(1).tolist() for arm, one in right.items()}}, guess=0.1, file=figure)
    return Outcome(
        _ours(scale, rates, found, context),
        tuple(of_seeds(judged_from(one, starts), context.seeds) for one in judged),
        _numbers(found, rates),
        {
            figure: "Share of test chains whose greedy answer is right, by arm; a point for each seed. Dotted: by chance."
        },
        trainings.cpu_seconds(),
    )


def _found(trainings: Trainings, scale: Scale, context: RecipeContext) -> tuple[BestRates, Results]:
    """The learning rate of each arm, and the results of all."""
    seeds, tuning = range(context.seed, context.seed + context.seeds), context.seed + TUNING
    starts = {seed: _warm_up(scale, seed) for seed in (*seeds, *([tuning] if len(scale.rates) > 1 else []))}
    trainings.do(starts.values())
    rates = searched_rates(
        trainings,
        ARMS,
        scale.rates,
        lambda arm, rate: _cell(scale, arm, tuning, rate, tuning=True),
        lambda result: 1 - float(np.mean(result["right"])),
    )
    planned = {arm: [_cell(scale, arm, seed, rates[arm]) for seed in seeds] for arm in ARMS}
    found = trainings.results(planned)
    return rates, {WARM_UP: [trainings.result(starts[seed]) for seed in seeds], **found}


def _warm_up(scale: Scale, seed: int) -> Cell:
    return _of_scale(scale, f"start-seed{seed}", WARM_UP, "", seed, scale.warm_rate, scale.warm_steps)


def _cell(scale: Scale, arm: str, seed: int, rate: float, *, tuning: bool = False) -> Cell:
    name = f"{arm.replace(' ', '-')}-rate{rate:.1e}-seed{seed}"
    return _of_scale(scale, name, arm, f"start-seed{seed}", seed, rate, scale.steps, tuning=tuning)


def _of_scale(
    scale: Scale, name: str, arm: str, start: str, seed: int, rate: float, steps: int, *, tuning: bool = False
) -> Cell:
    return Cell(
        name=name,
        arm=arm,
        start=start,
        seed=seed,
        rate=rate,
        steps=steps,
        length=scale.length,
        examples=scale.examples,
        width=scale.width,
        layers=scale.layers,
        heads=scale.heads,
        questions=scale.questions,
        samples=scale.samples,
        tested=scale.tested,
        tuning=tuning,
    )


def _right(rows: Sequence[Mapping[str, Any]]) -> Right:
    return np.array([one["right"] for one in rows], dtype=float)


def _gaps(rows: Sequence[Mapping[str, Any]]) -> list[float]:
    """The shuffle gap of each seed in nats."""
    return [one["own"] - one["other"] for one in rows]


def _ours(scale: Scale, rates: BestRates, found: Results, context: RecipeContext) -> str:
    """What was done here, in a few sentences."""
    steps = ", ".join(f"{one['trained_steps']:,}" for one in found[WARM_UP])
    return (
        f"Decoders of {scale.layers} layers, width {scale.width}, one token a character, learned chains of {scale.length} "
        f"operations modulo 10 with their derivations, from {scale.examples:,} examples, until enough of them were answered "
        f"({steps} steps); then {scale.steps} steps of {scale.questions} further chains with {scale.samples} samples each, of "
        f"which only the answers are known; {context.seeds} seeds. Tuning on answers alone had as many chains a step as the "
        f"others had samples. Of {rates.number} learning rates each arm had its best, with another seed.{rates.doubt}"
    )


def _numbers(found: Results, rates: Mapping[str, float]) -> dict[str, Any]:
    """The figures as JSON, an entry for each arm."""

    def of_arm(arm: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        right = _right(rows).sum(0)
        return {
            "arm": arm,
            "rate": rates.get(arm),
            "accuracy": asdict(share_interval(right, np.full(len(right), float(len(rows))))),
            "shuffle_gap_nats": _gaps(rows),
            "answer_nats": [-one["own"] for one in rows],
            "rationale_tokens": [one["length"] for one in rows],
            "kl_from_start_nats": [one["kl"] for one in rows],
        }

    return {"arms": [of_arm(arm, rows) for arm, rows in found.items()]}


def tables(numbers: Mapping[str, Any]) -> list[str]:
    """A table of all arms."""
    head = (
        "| arm | right | nats of the answer | shuffle gap, nats | tokens of a rationale | KL from the start, nats |\n"
        "|---|---|---|---|---|---|"
    )
    rows = [
        f"| {one['arm']} | {share(one['accuracy']['value'], digits=1)} | {_mean(one['answer_nats'])} | "
        f"{_mean(one['shuffle_gap_nats'])} | {_mean(one['rationale_tokens'])} | {_mean(one['kl_from_start_nats'])} |"
        for one in numbers["arms"]
    ]
    return ["\n".join([head, *rows])]


def _mean(values: Sequence[float]) -> str:
    return f"{np.mean(values):.2f}"


RECIPE = Recipe(
    name="latro",
    title="Rationales rewarded by the likelihood of the answer",
    paper="Language Models are Hidden Reasoners: Unlocking Latent Reasoning Capabilities via Self-Rewarding, arXiv 2411.04282",
    claim="A model learns to reason from answers alone, without a verifier, if it is rewarded by how likely its own rationales "
    "make the right answer.",
    differences=(
        "Small decoders trained here on chains of operations modulo 10, where the paper has language models of 3.8B to 8B "
        "parameters on word problems.",
        "Rationales are cut at a marker; one without a marker in its tokens is followed by it, and makes the answer unlikely. "
        "In the published code such rationales have twice the mean reward.",
        "The gradient of the answer's likelihood counts 1, as in the paper; the published code has 0, which is an arm here.",
        "8 samples a question in place of 16, and learning rates of small models; beta is 0.05 as published.",
        "The likelihood alone, exact match, STaR and answers alone are ours to compare with.",
    ),
    run=run,
    scales=SCALES,
    tables=tables,
    short={
        "teaches better rationales": Short("The reward beats its answer half alone, and STaR", "difference from [^;]+"),
        "published code leaves out": Short("The answer half is needed", "difference [^;]+"),
        "by the answers alone": Short("Sampled rationales beat tuning on answers", "difference [^;]+"),
        "No verifier": Short("As good as a reward for right answers", "difference [^;]+"),
    },
)
