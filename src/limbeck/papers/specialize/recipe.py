"""Specialising smaller models: what one ability costs the others, and what replay removes of it.

The paper is "Specializing Smaller Language Models towards Multi-Step Reasoning" (Fu et al., arXiv 2301.12726). A small model
learns a larger one's solutions in four formats (`corpora.problem_formats`), from its distribution at each token, and loses other
abilities. Here the teacher is an exact solver of arithmetic in three steps, whose distribution over derivations is known. Beside
its formats one by one, samples in place of the distribution, and equal FLOPs, is replay: a tenth of the steps have lines of the
base, which may remove the price.

    limbeck reproduce specialize --scale smoke | small | gpu        half a minute | not yet timed
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
from limbeck.papers.specialize.judging import (
    Paid,
    judge_distribution,
    judge_price,
    judge_replay,
    judge_shots,
    judge_solutions,
)
from limbeck.papers.specialize.training import (
    ALL_KL,
    ALL_NLL,
    AO,
    ARMS,
    BASE,
    DEARER,
    EVERY,
    IC_KL,
    IC_NLL,
    KL,
    NLL,
    REPLAY,
    SKILLS,
    Cell,
    train_cell,
)
from limbeck.probes.interval import share_interval
from limbeck.report.words import share

SOFT, HARD = (
    (KL, IC_KL, ALL_KL),
    (NLL, IC_NLL, ALL_NLL),
)  # the same formats, by the teacher's distribution and its samples


@dataclass(frozen=True)
class Scale:
    """Bases of ``base_steps`` at ``base_rate``, and specialisations of ``steps`` at ``rate``, of about ``step_tokens`` tokens."""

    width: int
    layers: int
    heads: int
    base_items: int
    base_steps: int
    base_rate: float
    questions: int
    solutions: int
    shots: int
    tested: int
    step_tokens: int
    steps: int
    rate: float


SCALES = {
    "smoke": Scale(16, 1, 2, 24, 8, 3e-3, 12, 2, 2, 6, 64, 12, 1e-3),
    "small": Scale(64, 3, 4, 12_000, 8000, 3e-3, 1000, 4, 2, 600, 1024, 1500, 1e-3),
    "gpu": Scale(512, 8, 8, 200_000, 20_000, 1e-3, 20_000, 8, 4, 3000, 16_384, 4000, 1e-4),
}

Results = Mapping[str, Sequence[Mapping[str, Any]]]  # of an arm, one a seed


def run(context: RecipeContext) -> Outcome:
    """Trains all bases and all arms, and judges all claims."""
    scale = SCALES[context.scale]
    trainings = Trainings(context, partial(train_cell, folder=context.out / "nets"))
    seeds = range(context.seed, context.seed + context.seeds)
    bases = [_cell(scale, BASE, seed) for seed in seeds]
    trainings.do(bases)
    planned = {arm: [_cell(scale, arm, seed) for seed in seeds] for arm in ARMS}
    found = {BASE: [trainings.result(base) for base in bases], **trainings.results(planned)}
    figure = context.out / "specialize.png"
    series = {"the target": "target", "the target, after shots": "in_context", "the base's skills": "skills"}
    accuracies = {what: {arm: right(found, arm, key).mean(1).tolist() for arm in found} for what, key in series.items()}
    draw_by_arm(accuracies, guess=0.1, file=figure)
    return Outcome(
        _ours(scale, found, context),
        tuple(of_seeds(one, context.seeds) for one in judged(found)),
        _numbers(found),
        {
            figure: "Share of test problems whose greedy answer is right, by arm; a point for each seed. Dotted: one of ten."
        },
        trainings.cpu_seconds(),
    )


def judged(found: Results) -> list[ClaimResult]:
    """The result of each claim, from the results of all arms."""
    paid = Paid(
        *(right(found, arm, "skills") for arm in (BASE, ALL_KL, REPLAY)),
        *(right(found, arm, "target") for arm in (ALL_KL, REPLAY)),
    )
    soft, hard = (np.mean([right(found, arm, "target") for arm in arms], axis=0) for arms in (SOFT, HARD))
    results = (
        (judge_solutions(right(found, NLL, "target"), right(found, AO, "target")), (NLL, AO)),
        (judge_price(paid.base, paid.special), (BASE, ALL_KL)),
        (judge_replay(paid), (BASE, ALL_KL, REPLAY)),
        (judge_distribution(soft, hard), (*SOFT, *HARD)),
        (judge_shots(right(found, IC_NLL, "in_context"), right(found, DEARER, "in_context")), (IC_NLL, DEARER)),
    )
    return [with_failures(result, {arm: found[arm] for arm in arms}) for result, arms in results]


def right(found: Results, arm: str, test: str) -> Right:
    """The right answers of an arm in a test, by seed."""
    return np.array([one[test] for one in found[arm]], dtype=float)


def _cell(scale: Scale, arm: str, seed: int) -> Cell:
    return Cell(
        name=f"{arm.replace(',', '').replace(' ', '-')}-seed{seed}",
        arm=arm,
        seed=seed,
        rate=scale.base_rate if arm == BASE else scale.rate,
        steps=scale.base_steps if arm == BASE else scale.steps,
        step_tokens=scale.step_tokens,
        base_items=scale.base_items,
        questions=scale.questions,
        solutions=scale.solutions,
        shots=scale.shots,
        tested=scale.tested,
        width=scale.width,
        layers=scale.layers,
        heads=scale.heads,
    )


def _ours(scale: Scale, found: Results, context: RecipeContext) -> str:
    """What was done here, in a few sentences."""
    read = found[ALL_KL][0]["tokens"]
    return (
        f"Decoders of {scale.layers} layers, width {scale.width}, one token a character, learned {len(SKILLS)} skills in four "
        f"formats, single operations and Python source in {scale.base_steps:,} steps. Each specialisation begins with its seed's "
        f"base and reads about {read:,} tokens in {scale.steps:,} steps, of {scale.questions:,} questions with "
        f"{scale.solutions} sampled solutions each. Measured are {scale.tested:,} other questions of the target, without "
        f"shots and after {scale.shots}, and {scale.tested:,} of the base's skills, each in two formats; {context.seeds} seeds."
    )


def _numbers(found: Results) -> dict[str, Any]:
    """The figures as JSON, an entry for each arm."""

    def accuracy(arm: str, test: str) -> dict[str, Any]:
        answers = right(found, arm, test)
        return asdict(share_interval(answers.sum(0), np.full(answers.shape[1], float(len(answers)))))

    def of_arm(arm: str) -> dict[str, Any]:
        skills = right(found, arm, "skills")
        alone, steps = np.split(skills, 2, axis=1)
        return {
            "arm": arm,
            **{test: accuracy(arm, test) for test in ("target", "in_context", "skills")},
            "skills_alone": {skill: float(alone[:, i :: len(SKILLS)].mean()) for i, skill in enumerate(SKILLS)},
            "skills_in_steps": {skill: float(steps[:, i :: len(SKILLS)].mean()) for i, skill in enumerate(SKILLS)},
            "text_nats": float(np.mean([one["text_nats"] for one in found[arm]])),
            **{key: float(np.mean([one[key] for one in found[arm]])) for key in ("tokens", "learned", "flops")},
        }

    return {"arms": [of_arm(arm) for arm in found]}


def tables(numbers: Mapping[str, Any]) -> list[str]:
    """A table of all arms: what each gains and what it loses."""
    rows = numbers["arms"]
    base = rows[0]
    head = (
        "| arm | target | after shots | skills | gain | loss | nats of text | tokens learned | FLOPs |\n"
        "|---|---|---|---|---|---|---|---|---|"
    )
    body = [
        f"| {one['arm']} | {' | '.join(share(one[test]['value'], digits=1) for test in ('target', 'in_context', 'skills'))} | "
        f"{100 * (one['target']['value'] - base['target']['value']):+.1f} | "
        f"{100 * (base['skills']['value'] - one['skills']['value']):+.1f} | {one['text_nats']:.3f} | {one['learned']:,.0f} | "
        f"{one['flops']:.3g} |"
        for one in rows
    ]
    by_skill = f"| arm | {' | '.join(f'{skill}, alone | {skill}, in steps' for skill in SKILLS)} |\n|---|" + "---|" * (
        2 * len(SKILLS)
    )
    skills = [
        f"| {one['arm']} | "
        + " | ".join(f"{share(one['skills_alone'][s])} | {share(one['skills_in_steps'][s])}" for s in SKILLS)
        + " |"
        for one in rows
    ]
    return ["\n".join([head, *body]), "\n".join([by_skill, *skills])]


RECIPE = Recipe(
    name="specialize",
    title="Specialised in one ability, and what it costs",
    paper="Specializing Smaller Language Models towards Multi-Step Reasoning, arXiv 2301.12726",
    claim="A small model that learns a large one's chains of thought in four formats gains about ten points in arithmetic, and "
    "pays with its other abilities.",
    differences=(
        "Small decoders trained from random weights on toy tasks; the paper tunes T5 and Flan-T5 of 250M to 11B parameters on "
        "GSM8K.",
        "The teacher is a program, whose probabilities are all known and whose solutions are all right; the paper has 40 samples "
        "of code-davinci-002 for each question and the five largest probabilities of each token.",
        "Student and teacher have one vocabulary; the paper aligns two tokenizers by dynamic time warping.",
        "All arms read equally many tokens at one learning rate. Tokens of longer lines cost a little more; one arm without "
        "shots has the FLOPs of lines with shots. The paper compares arms by epochs, and has no replay.",
        f"Replay takes the place of one step in {EVERY}, so that it costs nothing but tokens of the target.",
        "Two shots at this scale, since each costs tokens; the paper has four.",
        "No other arithmetic is tested, where the paper has three further sets.",
    ),
    run=run,
    scales=SCALES,
    tables=tables,
    short={
        "learns solutions answers more": Short("Solutions beat answers alone"),
        "costs its other skills": Short("Specialising costs other skills"),
        "replay does not remove": Short("A tenth of replay does not remove the price", r"[^;]+ removed"),
        "distribution at each token": Short("The teacher's distribution beats its samples"),
        "loses the use of shots": Short("Tuning without shots loses their use"),
    },
)
