"""MiniChat: a student that was planned, pruned, distilled and tuned on instructions, beside one from scratch and its teacher.

The second half of "Towards the Law of Capacity Gap in Distilling Language Models" (arXiv 2311.07052): MiniMA-3B is tuned on
instructions, and compared with other chat models of its size and with larger ones. Here all models are small and trained by
the recipe: the student is made as in `minima`, its teacher is tuned too, and so is a model of its size from random weights, with
as many tokens and with as many FLOPs. Answers are compared by checks (`papers.lab.checks`), and by a larger model as judge, which
has to prefer known answers to corrupted ones before it counts.

    limbeck reproduce minichat --scale smoke | small | gpu        a minute | 2 hours of a core | not yet timed
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from limbeck.jobs.pilot.grid import CellPlan, Scale
from limbeck.papers.lab.answers import chosen_questions
from limbeck.papers.lab.cells import TrainedLadder, train_ladder
from limbeck.papers.lab.conversations import held_out_conversations, sums_by_module
from limbeck.papers.lab.measured import measure_all
from limbeck.papers.lab.paired import mean, with_interval
from limbeck.papers.lab.plots import draw_by_arm
from limbeck.papers.lab.recipe import Outcome, Recipe, RecipeContext, Short, of_seeds
from limbeck.papers.lab.search import BestRates
from limbeck.papers.lab.trainings import device_of
from limbeck.papers.lab.tuning import TuningPlan, Tunings, tunings
from limbeck.papers.minichat.judge import CORRUPTED, RIGHT, Marks
from limbeck.papers.minichat.judging import admission, judge_checks, judge_marks, judge_teacher
from limbeck.papers.minima.strategies import LAW, Strategy, planned_teacher, prices_of
from limbeck.probes.interval import Interval
from limbeck.report.words import count, share_within

CHAT, TEACHER, UNTUNED = "MiniChat", "its teacher", "MiniMA, not tuned"
TOKENS, FLOPS = "from scratch, equal tokens", "from scratch, equal FLOPs"
SCRATCH = (TOKENS, FLOPS)


@dataclass(frozen=True)
class Size:
    """The size of the recipe: sizes in parameters, tokens, and candidate factors of the usual rates.

    The last of ``teachers`` is the judge. ``modules``: of the library with instructions, None for all. ``judge_tokens``: those of
    the judge's tuning.
    """

    student: int
    teachers: tuple[int, ...]
    tokens: int
    rates: tuple[float, ...]
    tuning_tokens: int
    tuning_rates: tuple[float, ...]
    judge_tokens: int
    modules: int | None
    questions: int
    scale: Scale


SIZES = {
    "smoke": Size(
        student=18_000,
        teachers=(24_000, 45_000, 70_000),
        tokens=2_048,
        rates=(1.0,),
        tuning_tokens=512,
        tuning_rates=(1.0,),
        judge_tokens=512,
        modules=20,
        questions=20,
        scale=Scale(18_000, 2.0, 4.0, 259, 32, 512, 2_048, 0.1, 8.0, 8),
    ),
    "small": Size(
        student=60_000,
        teachers=(80_000, 150_000, 600_000),
        tokens=2_500_000,
        rates=(1.0, 2.0, 4.0),
        tuning_tokens=1_000_000,
        tuning_rates=(1.0, 3.0, 10.0),
        judge_tokens=2_000_000,
        modules=None,
        questions=600,
        scale=Scale(60_000, 2.0, 10.0, 259, 256, 2048, 2_500_000, 20.0, 8.0, 8),
    ),
    "gpu": Size(
        student=2_000_000,
        teachers=(2_600_000, 5_000_000, 20_000_000),
        tokens=20_000_000,
        rates=(0.5, 1.0, 2.0),
        tuning_tokens=2_000_000,
        tuning_rates=(1.0, 3.0, 10.0),
        judge_tokens=4_000_000,
        modules=None,
        questions=600,
        scale=Scale(2_000_000, 2.0, 10.0, 4096, 512, 16_384, 20_000_000, 20.0, 8.0, 32),
    ),
}


@dataclass(frozen=True)
class Answered:
    """Tuned models by arm: nats and checks of answers (seeds, modules, 2), and ``wins`` of the distilled student over the others
    in the judge's eyes, less a half (seeds, modules, 2). ``admitted``: how often the judge prefers right answers.
    """

    work: TrainedLadder
    tuned: Tunings
    planned: Mapping[str, Any]
    rates: Mapping[str, BestRates]
    tokens: Mapping[str, int]
    answers: Mapping[str, np.ndarray]
    checks: Mapping[str, np.ndarray]
    wins: Mapping[str, np.ndarray]
    admitted: Mapping[str, Interval]


def run(context: RecipeContext) -> Outcome:
    """Trains teachers and students, tunes them, lets the judge mark their answers, and judges all claims."""
    size = SIZES[context.scale]
    found = _answered(context, size)
    checks = found.checks
    judged = (
        judge_checks(checks[CHAT], {name: checks[name] for name in SCRATCH}),
        judge_marks({name: found.wins[name] for name in SCRATCH}, found.admitted),
        judge_teacher(checks[CHAT], checks[TEACHER]),
    )
    figure = context.out / "checks.png"
    series = {"greedy answers": {name: _by_seed(one) for name, one in checks.items()}}
    draw_by_arm(series, guess=0.0, file=figure, axis="checks passed")
    return Outcome(
        _ours(found, size, context),
        tuple(of_seeds(one, context.seeds) for one in judged),
        _numbers(found),
        {figure: "Share of the checks that answers to held-out questions pass, by model; a point for each seed."},
        found.work.cpu_seconds() + found.tuned.cpu_seconds(),
    )


def _answered(context: RecipeContext, size: Size) -> Answered:
    """Trains, tunes and marks all models."""
    seeds = range(context.seed, context.seed + context.seeds)
    work = train_ladder(context, size.scale, students=[size.student], teachers=size.teachers)
    work.train([])
    planned = planned_teacher(work, tokens=size.tokens)
    strategies = _strategies(work, planned["teacher"], size.tokens)
    work = replace(work, scale=replace(work.scale, student_tokens=strategies[CHAT].tokens))
    rates = work.rates({name: one.cell(seeds.stop) for name, one in strategies.items()}, size.rates)
    cells = {name: [one.cell(seed, rates[name]) for seed in (*seeds, seeds.stop)] for name, one in strategies.items()}
    work.train([cell for row in cells.values() for cell in row])
    work.tidy()
    tuned = tunings(context, length=size.scale.length, batch_tokens=size.scale.batch_tokens, modules=size.modules)
    starts = {name: {cell.seed: _student(cell) for cell in row} for name, row in cells.items()}
    starts[TEACHER] = dict.fromkeys((*seeds, seeds.stop), f"trainings/teachers/{planned['teacher']}/model")
    plans, factors = _tuned(tuned, starts, seeds, size)
    judge = TuningPlan(
        "judge",
        f"trainings/teachers/{work.teachers[-1].name}/model",
        0,
        size.judge_tokens,
        size.questions,
        size.tuning_rates[len(size.tuning_rates) // 2],
    )
    tuned.do([judge])
    wins, admitted = _marked(context, tuned, plans, judge)
    return Answered(
        work,
        tuned,
        planned,
        {"training": rates, "tuning": factors},
        {name: one.tokens for name, one in strategies.items()},
        answers={name: np.array([tuned.answers(one) for one in row]) for name, row in plans.items()},
        checks={name: np.array([tuned.checks(one) for one in row]) for name, row in plans.items()},
        wins=wins,
        admitted=admitted,
    )


def _strategies(work: TrainedLadder, law: str, tokens: int) -> dict[str, Strategy]:
    """The distilled student, and those of its shape from random weights."""
    prices, shape = prices_of(work), work.students[-1]
    chat = prices.whole_steps(Strategy(LAW, shape, law, "kd", tokens))
    scratch = Strategy(TOKENS, shape, None, "ce", chat.tokens)
    return {
        CHAT: chat,
        TOKENS: scratch,
        FLOPS: prices.fitted(replace(scratch, name=FLOPS), prices.spent(chat)),
    }


def _student(cell: CellPlan) -> str:
    return f"trainings/cells/{cell.name}/student"


def _tuned(
    tuned: Tunings, starts: Mapping[str, Mapping[int, str]], seeds: range, size: Size
) -> tuple[dict[str, list[TuningPlan]], BestRates]:
    """The tunings of each arm, done, and the factor of the rate that each has by its held-out loss with another seed."""

    def plan(name: str, seed: int, factor: float = 1.0, *, tokens: int = size.tuning_tokens) -> TuningPlan:
        title = f"{name.lower().replace(', ', '-').replace(' ', '-')}-seed{seed}{'' if tokens else '-untuned'}"
        return TuningPlan(title, starts[name][seed], seed, tokens, size.questions, factor)

    factors = tuned.rates({name: plan(name, seeds.stop) for name in starts}, size.tuning_rates)
    plans = {name: [plan(name, seed, factors[name]) for seed in seeds] for name in starts}
    plans[UNTUNED] = [plan(CHAT, seed, tokens=0) for seed in seeds]
    tuned.do([one for row in plans.values() for one in row])
    return plans, factors


def _marked(
    context: RecipeContext, tuned: Tunings, plans: Mapping[str, Sequence[TuningPlan]], judge: TuningPlan
) -> tuple[dict[str, np.ndarray], dict[str, Interval]]:
    """How often the judge prefers the distilled student to each other model, less a half, and how it marks known answers."""

    def work(name: str, answers: str) -> Marks:
        return Marks(
            context.out / "marks" / name,
            answers,
            tuned.folder / judge.name / "student",
            tuned.folder,
            context.out / "trainings" / "tokenizer",
            judge.questions,
            device_of(context),
        )

    known = {kind: work(kind.replace(" ", "-"), kind) for kind in (RIGHT, *CORRUPTED)}
    of_plans = {
        name: [work(one.name, str(tuned.folder / one.name / "student")) for one in row] for name, row in plans.items()
    }
    measure_all([*known.values(), *(one for row in of_plans.values() for one in row)], context.workers)
    marks = {name: np.array([one.result() for one in row]) for name, row in of_plans.items()}
    rows = held_out_conversations(tuned.folder)
    asked, modules = chosen_questions(rows, judge.questions), [row["module"] for row in rows]

    def by_module(won: np.ndarray) -> np.ndarray:
        return np.array([sums_by_module(modules, asked, np.stack([one - 0.5, np.ones(len(one))], -1)) for one in won])

    chat = marks[CHAT]
    wins = {name: by_module((chat > one) + 0.5 * (chat == one)) for name, one in marks.items() if name != CHAT}
    right = known[RIGHT].result()
    return wins, admission(right, {kind: known[kind].result() for kind in CORRUPTED})


def _by_seed(checks: np.ndarray) -> list[float]:
    """The share of checks of each seed."""
    sums = checks.sum(1)
    return (sums[:, 0] / np.maximum(sums[:, 1], 1)).tolist()


def _ours(found: Answered, size: Size, context: RecipeContext) -> str:
    """What was done here, in a few sentences."""
    work = found.work
    teacher = work.teacher(found.planned["teacher"])["parameters"]
    return (
        f"A student of {count(found.planned['student_parameters'])} parameters was pruned out of the teacher that the ratio rule "
        f"named, of {count(teacher)}, and distilled on {count(found.tokens[CHAT])} tokens of the standard library; models of its "
        f"shape from random weights read as many, or {count(found.tokens[FLOPS])}, which cost as many FLOPs. They and the "
        f"teacher were tuned on {count(found.tuned.tokens_read(size.tuning_tokens))} tokens of questions about the library, "
        f"{context.seeds} seeds each. The judge has {count(work.teacher(work.teachers[-1].name)['parameters'])} parameters, and "
        f"was tuned on {count(found.tuned.tokens_read(size.judge_tokens))}. Rates of training and of tuning are the best of "
        f"{found.rates['training'].number} and of {found.rates['tuning'].number} each, with another seed."
        f"{found.rates['training'].doubt}{found.rates['tuning'].doubt}"
    )


def _numbers(found: Answered) -> dict[str, Any]:
    """The figures as JSON."""
    return {
        "plan": found.planned,
        "lr_factors": found.rates,
        "tokens": found.tokens,
        "answers_nats": {name: vars(mean(one)) for name, one in found.answers.items()},
        "checks_passed": {name: vars(mean(one)) for name, one in found.checks.items()},
        "preferred_over": {name: vars(mean(one)) for name, one in found.wins.items()},
        "right_preferred": {name: vars(one) for name, one in found.admitted.items()},
    }


def tables(numbers: Mapping[str, Any]) -> list[str]:
    """A table of all models, and one of what the judge does with known answers."""

    def cell(group: str, name: str) -> str:
        one = numbers[group].get(name)
        if one is None or one["value"] is None:
            return ""
        return f"{one['value']:+.4f}" if one["low"] is None else with_interval(Interval(**one))

    head = "| model | checks passed | nats per token of the library's answers | MiniChat preferred by the judge, less a half |"
    rows = [
        f"| {name} | {cell('checks_passed', name)} | {cell('answers_nats', name)} | {cell('preferred_over', name)} |"
        for name in numbers["checks_passed"]
    ]
    known = [
        f"| {name} | {share_within(one['value'], one['low'], one['high'])} |"
        for name, one in numbers["right_preferred"].items()
    ]
    return [
        "\n".join([head, "|---|---|---|---|", *rows]),
        "\n".join(["| corrupted answers | the right one preferred |", "|---|---|", *known]),
    ]


RECIPE = Recipe(
    name="minichat",
    title="MiniChat: the distilled student tuned on instructions",
    paper="Towards the Law of Capacity Gap in Distilling Language Models, arXiv 2311.07052",
    claim="MiniMA-3B, tuned on instructions, beats other chat models of 3B parameters in GPT-4's judgement, and competes with "
    "some of 7B.",
    differences=(
        "Models tens of thousands of times smaller, trained here from nothing; there LLaMA 2 and 1.1M instructions.",
        "Instructions are questions about Python's standard library, answered by its own docstrings and signatures.",
        "The rivals are models of its shape from random weights, with equal tokens and with equal FLOPs, and its teacher; there "
        "chat models of others.",
        "Checks by a program, and a larger model of the ladder as judge in place of GPT-4. It marks each answer alone by its "
        "log-probability per token, and has to prefer known answers to corrupted ones first.",
        "FLOPs are counted as in minima; the training of teachers and of the judge is not.",
    ),
    run=run,
    scales=SIZES,
    tables=tables,
    short={
        "by checks of its answers": Short(
            "The distilled chat student passes more checks than from scratch", "[+-][^;]+ more than [^;(]+"
        ),
        "A judge prefers": Short("A judge prefers it to from scratch", "[+-][^;]+ beside [^;(]+"),
        "competes with its teacher": Short(
            "It passes about as many checks as its teacher", r"difference [^(]+\([^)]+\)"
        ),
    },
)
