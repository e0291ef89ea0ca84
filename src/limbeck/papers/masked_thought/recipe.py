"""Masked thought: whether a model learns more from few derivations if a part of what it reads of them is masked.

The paper is "Masked Thought: Simply Masking Partial Reasoning Steps Can Improve Mathematical Reasoning Learning of Language
Models" (Chen et al., arXiv 2403.02178). Ours are chains of operations modulo 10 with derivations (`corpora.tasks.chains`), some
of which have a clause that is to be left out. Beside masking are plain training, dropout, and training on half the epochs; each
has the same budget at most, and is measured at its own best validation.

    limbeck reproduce masked-thought --scale smoke | small | gpu        half a minute | not yet timed
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from limbeck.papers.lab.plots import draw_by_arm
from limbeck.papers.lab.recipe import ClaimResult, Outcome, Recipe, RecipeContext, Short, of_seeds, with_failures
from limbeck.papers.lab.right import Right
from limbeck.papers.lab.trainings import Trainings
from limbeck.papers.masked_thought.judging import (
    Plain,
    judge_clause,
    judge_longer,
    judge_same,
    judge_warmup,
    judged_by_plain,
)
from limbeck.papers.masked_thought.training import (
    ARMS,
    CLAUSE,
    CLAUSES,
    GRADUAL,
    LONG,
    LONGER,
    MASKED,
    PLAIN,
    SAME,
    SFT,
    UNWARMED,
    Cell,
    train_cell,
)
from limbeck.probes.interval import share_interval
from limbeck.report.words import share

TESTS = (SAME, CLAUSE, LONG)


@dataclass(frozen=True)
class Scale:
    """Decoders that learn ``examples`` chains of ``length`` operations in ``steps`` of ``rows`` lines, at one ``rate``."""

    length: int
    examples: int
    width: int
    layers: int
    heads: int
    rows: int
    steps: int
    tested: int
    rate: float


SCALES = {
    "smoke": Scale(2, 16, 16, 1, 2, 2, 4, 8, 3e-3),
    "small": Scale(3, 300, 64, 2, 4, 16, 2600, 1000, 3e-3),
    "gpu": Scale(4, 1000, 512, 8, 8, 32, 40_000, 1000, 3e-4),
}

Results = Mapping[str, Sequence[Mapping[str, Any]]]  # of an arm, one a seed


def run(context: RecipeContext) -> Outcome:
    """Trains all arms, and judges all claims."""
    scale = SCALES[context.scale]
    trainings = Trainings(context, train_cell)
    seeds = range(context.seed, context.seed + context.seeds)
    planned = {arm: [_cell(scale, arm, seed) for seed in seeds] for arm in ARMS}
    found = trainings.results(planned)
    figure = context.out / "masked-thought.png"
    draw_by_arm({test: _accuracies(found, test) for test in TESTS}, guess=0.1, file=figure)
    return Outcome(
        _ours(scale, found, context),
        tuple(of_seeds(one, context.seeds) for one in judged(found)),
        _numbers(found),
        {
            figure: "Share of test chains whose greedy answer is right, by arm; a point for each seed. Dotted: by chance."
        },
        trainings.cpu_seconds(),
    )


def judged(found: Results) -> list[ClaimResult]:
    """The result of each claim, from the results of all arms."""
    masked, other = best(found, MASKED), best(found, PLAIN)
    plain = Plain(
        [float(one.mean()) for one in right(found[SFT], SAME)],
        [None if one["fitted"] is None else one["fitted"] / one["steps"] for one in found[SFT]],
    )
    results = [
        with_failures(
            judge(right(found[ours], test), right(found[theirs], test), (ours, theirs)), _both(found, ours, theirs)
        )
        for judge, test, ours, theirs in (
            (judge_clause, CLAUSE, masked, other),
            (judge_same, SAME, masked, other),
            (judge_longer, LONG, masked, other),
            (judge_warmup, CLAUSE, GRADUAL, UNWARMED),
        )
    ]
    return [judged_by_plain(one, plain) for one in results]


def best(found: Results, arms: Sequence[str]) -> str:
    """The arm with the best validation over all seeds; of equally good ones the first."""
    return max(arms, key=lambda arm: float(np.mean([one["validation"] for one in found[arm]])))


def right(rows: Sequence[Mapping[str, Any]], test: str) -> Right:
    """The right answers to the chains of a test, by seed."""
    return np.array([one["right"][test] for one in rows], dtype=float)


def _both(found: Results, ours: str, theirs: str) -> Results:
    return {arm: found[arm] for arm in (ours, theirs)}


def _cell(scale: Scale, arm: str, seed: int) -> Cell:
    return Cell(
        name=f"{arm.replace(', ', '-').replace(' ', '-')}-seed{seed}",
        arm=arm,
        seed=seed,
        rate=scale.rate,
        steps=scale.steps,
        rows=scale.rows,
        examples=scale.examples,
        length=scale.length,
        width=scale.width,
        layers=scale.layers,
        heads=scale.heads,
        tested=scale.tested,
    )


def _accuracies(found: Results, test: str) -> dict[str, list[float]]:
    return {arm: right(rows, test).mean(1).tolist() for arm, rows in found.items()}


def _ours(scale: Scale, found: Results, context: RecipeContext) -> str:
    """What was done here, in a few sentences."""
    fitted = ", ".join("none" if one["fitted"] is None else f"{one['fitted']:,}" for one in found[SFT])
    return (
        f"Decoders of {scale.layers} layers, width {scale.width}, one token a character, learned {scale.examples:,} chains of "
        f"{scale.length} operations modulo 10 with derivations that write each result twice; {share(CLAUSES)} of them had a "
        f"clause that is to be left out. Each of {len(ARMS)} arms had {scale.steps:,} steps of {scale.rows} chains at most, half "
        f"as many where it says so, and is measured at its best validation; plain training knew its chains after {fitted} steps. "
        f"Tests are other chains of that length, chains with a clause, and chains of {scale.length + LONGER} operations; "
        f"{context.seeds} seeds."
    )


def _numbers(found: Results) -> dict[str, Any]:
    """The figures as JSON, an entry for each arm."""

    def of_arm(arm: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        count = np.full(len(right(rows, SAME)[0]), float(len(rows)))
        return {
            "arm": arm,
            "settings": asdict(ARMS[arm]),
            "accuracy": {test: asdict(share_interval(right(rows, test).sum(0), count)) for test in TESTS},
            "validation": [one["validation"] for one in rows],
            "train": [one["train"] for one in rows],
            "best_step": [one["best_step"] for one in rows],
            "steps": rows[0]["steps"],
        }

    return {"arms": [of_arm(arm, rows) for arm, rows in found.items()]}


def tables(numbers: Mapping[str, Any]) -> list[str]:
    """A table of all arms."""
    head = f"| arm | {' | '.join(TESTS)} | validation | training chains | best step |\n|---|" + "---|" * (
        len(TESTS) + 3
    )
    rows = [
        f"| {one['arm']} | "
        + " | ".join(share(one["accuracy"][test]["value"], digits=1) for test in TESTS)
        + f" | {share(float(np.mean(one['validation'])), digits=1)} | {share(float(np.mean(one['train'])), digits=1)} | "
        f"{' / '.join(map(str, one['best_step']))} of {one['steps']:,} |"
        for one in numbers["arms"]
    ]
    return ["\n".join([head, *rows])]


RECIPE = Recipe(
    name="masked-thought",
    title="Masked derivations as a regulariser",
    paper="Masked Thought: Simply Masking Partial Reasoning Steps Can Improve Mathematical Reasoning Learning of Language "
    "Models, arXiv 2403.02178",
    claim="Masking a part of the reasoning that a model reads while it is tuned, with its targets unchanged, improves its "
    "answers to mathematical questions, most where the question has irrelevant context.",
    differences=(
        "Small decoders trained from random weights on chains of operations modulo 10, where the paper tunes language models of "
        "7B parameters on GSM8K and larger sets.",
        "Derivations write each result twice, as in 7+5=2, so 2; arithmetic notation has no redundancy, and a value that stands "
        "nowhere else is lost where it is masked.",
        "All arms have one budget at most, at least twice what plain training needs to know its chains, and each is measured at "
        "its own best validation; the paper has equal epochs.",
        "One learning rate for all arms, with warm-up and a cosine.",
        "Random tokens are of the 64 lowest codes, of which about a third occur.",
        "Dropout, half the epochs, masking without warm-up and random tokens are here to compare with; all masks are of one "
        "token that occurs nowhere.",
    ),
    run=run,
    scales=SCALES,
    tables=tables,
    short={
        "with a clause that is to be left out": Short("Masking helps to leave a clause out", "difference [^;]+"),
        "of the length that it learned": Short("Masking helps at the learned length", "difference [^;]+"),
        "longer than those": Short("Masking helps on longer chains", "difference [^;]+"),
        "has to rise": Short("The share has to rise", "difference [^;]+"),
    },
)
