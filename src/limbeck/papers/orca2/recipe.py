"""Orca 2: whether a student that never reads the teacher's instructions learns by itself which strategy fits a task.

The paper is "Orca 2: Teaching Small Language Models How to Reason" (Mitra et al., arXiv 2311.11045). Its teacher reads a
strategy for each kind of task, and the student learns the answers with that instruction erased. No ablation there isolates
erasure. Here a program is the teacher (`corpora.tasks.strategies`), so that every strategy can be had for every task. Beside the
erased arm are instructions kept, kept for half of the lines, strategies at random, and a single one for all tasks, at equal
tokens.

    limbeck reproduce orca2 --scale smoke | small | gpu        half a minute | not yet timed
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from limbeck.corpora.tasks.strategies import KINDS, STYLES
from limbeck.papers.lab.plots import draw_by_arm
from limbeck.papers.lab.recipe import ClaimResult, Outcome, Recipe, RecipeContext, Short, of_seeds, with_failures
from limbeck.papers.lab.right import Right
from limbeck.papers.lab.trainings import Trainings
from limbeck.papers.orca2.judging import judge_erasure, judge_instructed, judge_single, judge_strategy
from limbeck.papers.orca2.training import (
    ARMS,
    ERASED,
    FEWER,
    INSTRUCTED,
    INSTRUCTIONS,
    KEPT,
    RANDOM,
    SINGLE,
    Cell,
    Sets,
    train_cell,
)
from limbeck.probes.interval import share_interval
from limbeck.report.words import share

READINGS = (*list(ARMS)[:4], INSTRUCTED, *list(ARMS)[4:])  # the arms, and the one that is measured a second time


@dataclass(frozen=True)
class Scale:
    """Decoders that learn ``known`` tasks in ``steps`` of about ``step_tokens`` tokens, at one ``rate``."""

    known: int
    tested: int
    width: int
    layers: int
    heads: int
    step_tokens: int
    steps: int
    rate: float


SCALES = {
    "smoke": Scale(60, 12, 16, 1, 2, 64, 4, 3e-3),
    "small": Scale(12_000, 1200, 64, 3, 4, 1024, 3000, 3e-3),
    "gpu": Scale(120_000, 6000, 512, 8, 8, 16_384, 20_000, 3e-4),
}

Results = Mapping[str, Sequence[Mapping[str, Any]]]  # of an arm, one a seed


def run(context: RecipeContext) -> Outcome:
    """Trains all arms, and judges all claims."""
    scale = SCALES[context.scale]
    trainings = Trainings(context, train_cell)
    seeds = range(context.seed, context.seed + context.seeds)
    planned = {arm: [_cell(scale, arm, seed) for seed in seeds] for arm in ARMS}
    found = trainings.results(planned)
    kinds = [item.kind for item in Sets.of(planned[ERASED][0]).test]
    figure = context.out / "orca2.png"
    draw_by_arm({"all tasks": {name: right(found, name).mean(1).tolist() for name in READINGS}}, guess=0.1, file=figure)
    return Outcome(
        _ours(scale, found, context),
        tuple(of_seeds(one, context.seeds) for one in judged(found)),
        _numbers(found, kinds),
        {
            figure: "Share of test tasks whose greedy answer is right, by arm; a point for each seed. Dotted: one of ten."
        },
        trainings.cpu_seconds(),
    )


def judged(found: Results) -> list[ClaimResult]:
    """The result of each claim, from the results of all arms."""
    erased, fewer = right(found, ERASED), right(found, FEWER)
    single = max(SINGLE, key=lambda arm: float(np.mean([one["validation"] for one in found[arm]])))
    lengths = tuple(float(_readings(found, name, "tokens").mean()) for name in (ERASED, single))
    return [
        with_failures(judge_erasure(fewer, right(found, KEPT)), _of(found, KEPT, FEWER)),
        with_failures(judge_strategy(erased, right(found, RANDOM)), _of(found, RANDOM)),
        with_failures(judge_single(erased, right(found, single), (lengths[0], lengths[1]), single), _of(found, single)),
        with_failures(judge_instructed(fewer, right(found, INSTRUCTED)), _of(found, KEPT, FEWER)),
    ]


def right(found: Results, reading: str) -> Right:
    """The right answers of a reading, by seed."""
    return _readings(found, reading, "right")


def _readings(found: Results, reading: str, what: str) -> Right:
    rows = found[KEPT if reading == INSTRUCTED else reading]
    return np.array([one["readings"][reading][what] for one in rows], dtype=float)


def _of(found: Results, other: str, ours: str = ERASED) -> Results:
    return {arm: found[arm] for arm in (ours, other)}


def _cell(scale: Scale, arm: str, seed: int) -> Cell:
    return Cell(name=f"{arm.replace(',', '').replace(' ', '-')}-seed{seed}", arm=arm, seed=seed, **asdict(scale))


def _ours(scale: Scale, found: Results, context: RecipeContext) -> str:
    """What was done here, in a few sentences."""
    read = found[ERASED][0]["tokens"]
    return (
        f"Decoders of {scale.layers} layers, width {scale.width}, one token a character, learned answers to {scale.known:,} "
        f"tasks of {len(KINDS)} kinds from a program, which answers each right in any of {len(STYLES)} styles. Each of "
        f"{len(ARMS) - 1} arms read about {read:,} tokens in {scale.steps:,} steps, instructions counted, with equal FLOPs; one "
        f"more had as many answers as where instructions are kept. All are tested on {scale.tested:,} other tasks without an "
        "instruction, and the one that read instructions also with "
        f"them; {context.seeds} seeds."
    )


def _numbers(found: Results, kinds: Sequence[str]) -> dict[str, Any]:
    """The figures as JSON, an entry for each reading."""

    def of_reading(name: str) -> dict[str, Any]:
        answers, styles = right(found, name), _readings(found, name, "style").astype(int)
        best = np.array([STYLES.index(KINDS[kind][1]) for kind in kinds])
        count = np.full(answers.shape[1], float(len(answers)))
        rows = found[KEPT if name == INSTRUCTED else name]
        return {
            "reading": name,
            "accuracy": asdict(share_interval(answers.sum(0), count)),
            "by_kind": {kind: float(answers[:, [kind == one for one in kinds]].mean()) for kind in KINDS},
            "fitting": float((styles == best).mean()),
            "tokens_an_answer": float(_readings(found, name, "tokens").mean()),
            "lines_a_step": [one["rows"] for one in rows],
            "validation": [one["validation"] for one in rows],
        }

    return {"readings": [of_reading(name) for name in READINGS]}


def tables(numbers: Mapping[str, Any]) -> list[str]:
    """A table of all readings, and one of their accuracy by kind of task."""
    rows = numbers["readings"]
    first = "| arm | right | in the fitting style | tokens an answer | lines a step |\n|---|---|---|---|---|"
    second = f"| arm | {' | '.join(KINDS)} |\n|---|" + "---|" * len(KINDS)
    overall = [
        f"| {one['reading']} | {share(one['accuracy']['value'], digits=1)} | {share(one['fitting'])} | "
        f"{one['tokens_an_answer']:.1f} | {one['lines_a_step'][0]} |"
        for one in rows
    ]
    by_kind = [f"| {one['reading']} | {' | '.join(share(one['by_kind'][kind]) for kind in KINDS)} |" for one in rows]
    return ["\n".join([first, *overall]), "\n".join([second, *by_kind])]


RECIPE = Recipe(
    name="orca2",
    title="Strategies taught with their instructions erased",
    paper="Orca 2: Teaching Small Language Models How to Reason, arXiv 2311.11045",
    claim="A small model that learns a larger one's answers, written with a fitting strategy for each task while the instruction "
    "for it is erased, learns to choose the strategy by itself and to reason better.",
    differences=(
        "Small decoders trained from random weights on toy tasks; the paper tunes LLaMA 2 of 7B and 13B parameters on 817 "
        "thousand answers of GPT-4 and more.",
        "The teacher is a program whose answers are all right; the paper names no filter for wrong ones.",
        "Which strategy fits a kind of task is set here beforehand; the paper takes it from where its first model failed.",
        "Nothing stands in the place of an erased instruction, where the paper has one general system message.",
        "A student that read instructions and is tested without them is asked what it never saw, so that the first claim is near "
        "to certain here. What tests the idea are strategies at random, a single strategy, and instructions at test.",
        "The paper has none of these arms; all are at equal tokens and so at equal FLOPs, at one learning rate. Instructions "
        "cost tokens, so what is compared with kept ones has as many answers as these, and fewer tokens.",
        f"Instructions are short ({', '.join(repr(text.strip()) for text in INSTRUCTIONS.values())}); longer ones would cost the "
        "kept arms more of their tokens.",
    ),
    run=run,
    scales=SCALES,
    tables=tables,
    short={
        "answers more tasks without any": Short("Erased instructions beat kept ones"),
        "fitting strategy for each task teaches": Short("Fitting strategies beat random ones"),
        "best single one": Short(
            "Fitting strategies are as good as the best single one, and shorter", "difference [^;]+"
        ),
        "costs nothing": Short("Erasure costs nothing beside instructions at test"),
    },
)
