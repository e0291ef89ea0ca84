"""Low-resource code: what to do with few examples of a programming language, by the size of the model.

The paper is "Enhancing Code Generation for Low-Resource Languages: No Silver Bullet" (Giagnorio et al., arXiv 2501.19085). It
tunes, translates or shows examples in context, for models of 1 to 33 billion parameters. Here both languages are small
(`corpora.tasks.small_languages`), and bases were pretrained on episodes, so that examples in context can help at all. A fifth of
the pairs chooses when a tuning stops, never the test.

    limbeck reproduce low-resource-code --scale smoke | small | gpu        half a minute | not yet timed
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from limbeck.papers.lab.plots import draw_by_arm
from limbeck.papers.lab.recipe import ClaimResult, Outcome, Recipe, RecipeContext, Short, of_seeds, with_failures
from limbeck.papers.lab.right import Right
from limbeck.papers.lab.trainings import Trainings
from limbeck.papers.low_resource_code.judging import (
    judge_forgetting,
    judge_interaction,
    judge_replay,
    judge_small,
    judge_translation,
)
from limbeck.papers.low_resource_code.training import (
    ARMS,
    REPLAYED,
    SHOTS,
    TRANSLATED,
    TUNED,
    Budget,
    Cell,
    Size,
    train_cell,
)
from limbeck.probes.interval import share_interval
from limbeck.report.words import count, share

SHOWN = "in context"


@dataclass(frozen=True)
class Scale:
    """``sizes`` from the smallest, whose widths double; tunings on each number of ``pairs``. ``judged`` is that of all claims."""

    sizes: tuple[Size, ...]
    budget: Budget
    pairs: tuple[int, ...]
    judged: int


SCALES = {
    "smoke": Scale((Size(16, 1, 2), Size(32, 1, 2)), Budget(60, 4, 256, 3e-3, 8, 64, 1e-3, 2, 12), (10, 20), 20),
    "small": Scale(
        (Size(24, 3, 2), Size(48, 3, 4), Size(96, 3, 4)),
        Budget(60_000, 1600, 4096, 3e-3, 400, 1024, 1e-3, 3, 500),
        (25, 50, 200),
        50,
    ),
    "gpu": Scale(
        (Size(256, 6, 4), Size(512, 8, 8), Size(1024, 8, 16)),
        Budget(600_000, 20_000, 65_536, 3e-4, 1000, 4096, 1e-4, 4, 4000),
        (50, 200, 1000),
        200,
    ),
}

Key = tuple[int, str, int]  # width, arm (empty for bases), pairs
Results = Mapping[Key, Sequence[Mapping[str, Any]]]  # one a seed


def run(context: RecipeContext) -> Outcome:
    """Trains all bases and all tunings, and judges all claims."""
    scale = SCALES[context.scale]
    trainings = Trainings(context, partial(train_cell, folder=context.out))
    seeds = range(context.seed, context.seed + context.seeds)
    found = trainings.results(
        {(size.width, "", 0): [_base(scale, size, seed) for seed in seeds] for size in scale.sizes}
    )
    planned = {
        (size.width, arm, pairs): [_tuning(scale, size, arm, pairs, seed) for seed in seeds]
        for size in scale.sizes
        for arm in ARMS
        for pairs in scale.pairs
    }
    results: Results = {**found, **trainings.results(planned)}
    figure = context.out / "low-resource-code.png"
    draw_by_arm(series(scale, results), guess=0.0, file=figure)
    return Outcome(
        _ours(scale, results, context),
        tuple(of_seeds(one, context.seeds) for one in judged(scale, results)),
        {"readings": [_numbers(key, rows) for key, rows in results.items()]},
        {
            figure: f"Share of test descriptions with a right program after {scale.judged} pairs, by width; points are seeds."
        },
        trainings.cpu_seconds(),
    )


def judged(scale: Scale, results: Results) -> list[ClaimResult]:
    """The result of each claim, all with as many pairs."""
    widths = [size.width for size in scale.sizes]

    def poor(width: int, arm: str) -> Right:
        return right(results[width, arm, scale.judged if arm else 0], "poor")

    def rich(arm: str) -> Right:
        return right(results[widths[-1], arm, scale.judged if arm else 0], "rich")

    def of(*keys: tuple[int, str]) -> dict[str, Sequence[Mapping[str, Any]]]:
        return {
            f"{arm or SHOWN}, width {width}": results[width, arm, scale.judged if arm else 0] for width, arm in keys
        }

    least, most = widths[0], widths[-1]
    tuned, shown = [poor(width, TUNED) for width in widths], [poor(width, "") for width in widths]
    every = of(*((width, arm) for width in widths for arm in ("", TUNED)))
    return [
        with_failures(judge_small(tuned[0], shown[0]), of((least, ""), (least, TUNED))),
        with_failures(judge_interaction(tuned, shown), every),
        with_failures(judge_translation(poor(most, TRANSLATED), tuned[-1]), of((most, TRANSLATED), (most, TUNED))),
        with_failures(judge_forgetting(rich(""), rich(TUNED)), of((most, ""), (most, TUNED))),
        with_failures(
            judge_replay(rich(""), rich(TUNED), rich(REPLAYED), (poor(most, REPLAYED), tuned[-1])),
            of((most, ""), (most, TUNED), (most, REPLAYED)),
        ),
    ]


def right(rows: Sequence[Mapping[str, Any]], language: str) -> Right:
    """The right programs of a language, by seed."""
    return np.array([one[language] for one in rows], dtype=float)


def series(scale: Scale, results: Results) -> dict[str, dict[str, list[float]]]:
    """By width and arm: the share of right programs of the new language, one a seed."""
    return {
        f"width {size.width}": {
            arm or SHOWN: right(results[size.width, arm, scale.judged if arm else 0], "poor").mean(1).tolist()
            for arm in ("", *ARMS)
        }
        for size in scale.sizes
    }


def _base(scale: Scale, size: Size, seed: int) -> Cell:
    return Cell(f"base-width{size.width}-seed{seed}", seed, size, scale.budget, most=max(scale.pairs))


def _tuning(scale: Scale, size: Size, arm: str, pairs: int, seed: int) -> Cell:
    base, slug = _base(scale, size, seed), arm.replace(",", "").replace(" ", "-")
    name = f"{slug}-pairs{pairs}-width{size.width}-seed{seed}"
    return Cell(name, seed, size, scale.budget, base.name, arm, pairs, max(scale.pairs))


def _ours(scale: Scale, results: Results, context: RecipeContext) -> str:
    """What was done here, in a few sentences."""
    budget, sizes = scale.budget, [results[size.width, "", 0][0]["parameters"] for size in scale.sizes]
    read = results[scale.sizes[0].width, "", 0][0]["tokens"]
    return (
        f"Decoders of {', '.join(map(count, sizes))} parameters, one token a character, read about {count(read)} tokens of "
        f"descriptions with programs in one language, and of episodes of {SHOTS} pairs in languages that are drawn. Each was "
        f"tuned for {budget.steps:,} steps of about {budget.tokens:,} tokens on {', '.join(map(str, scale.pairs))} pairs of a "
        f"language that it never read, a fifth of which chose when to stop; or had {SHOTS} of them in its context. All write "
        f"programs for {budget.tested:,} other descriptions of {budget.operations} operations, and are run on every input; "
        f"{context.seeds} seeds. Claims are judged at {scale.judged} pairs."
    )


def _numbers(key: Key, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The figures of one kind of training as JSON."""
    width, arm, pairs = key

    def of(language: str) -> dict[str, Any]:
        answers = right(rows, language)
        return asdict(share_interval(answers.sum(0), np.full(answers.shape[1], float(len(answers)))))

    more = {name: [one[name] for one in rows] for name in ("dev", "kept") if arm}
    tokens = [one["tokens"] for one in rows]
    return {
        "width": width,
        "arm": arm or SHOWN,
        "pairs": pairs,
        "poor": of("poor"),
        "rich": of("rich"),
        "tokens": tokens,
    } | more


def tables(numbers: Mapping[str, Any]) -> list[str]:
    """A table of all models."""
    head = "| width | arm | pairs | right in the new language | right in the other | tokens read |\n|---|---|---|---|---|---|"
    rows = [
        f"| {one['width']} | {one['arm']} | {one['pairs'] or SHOTS} | {share(one['poor']['value'], digits=1)} | "
        f"{share(one['rich']['value'], digits=1)} | {count(one['tokens'][0])} |"
        for one in numbers["readings"]
    ]
    return ["\n".join([head, *rows])]


RECIPE = Recipe(
    name="low-resource-code",
    title="A programming language with few examples",
    paper="Enhancing Code Generation for Low-Resource Languages: No Silver Bullet, arXiv 2501.19085",
    claim="Fine-tuning is usually best for small models, in-context learning helps more the larger a model is, and very large "
    "models can get worse when they are tuned on few examples.",
    differences=(
        "Small decoders trained from random weights on two toy languages of expressions; the paper uses DeepSeek-Coder and Code "
        "Llama of 1 to 33 billion parameters, with R and Racket as the languages of few examples.",
        "Bases read episodes of pairs in languages that are drawn, without which so small a model learns nothing in context.",
        "A tuning's weights are chosen by a fifth of its pairs; the paper's released runs score every epoch on the benchmark.",
        "A program is right if it is equal to its description on every input; the paper runs unit tests.",
        "In-context answers cost no training, and tokens of pairs with each answer. All tunings have equal steps of about as "
        "many tokens, so translation takes half of its steps from tuning.",
    ),
    run=run,
    scales=SCALES,
    tables=tables,
    short={
        "A small model writes more": Short("Small models: tuning beats examples in context"),
        "The larger the model": Short("The gain of tuning falls with size", "slope [^;]+"),
        "Translations between": Short("Translation before tuning helps, equal steps"),
        "costs the other": Short("Tuning costs the language that was known", "lost [^;]+"),
        "prevents most of that": Short("A tenth of replay prevents most of that", "prevented [^;]+"),
    },
)
