"""The pipeline of MiniMA and MiniChat: plan, prune, distil, tune, and alternatives for the same compute.

"Towards the Law of Capacity Gap in Distilling Language Models" (arXiv 2311.07052) chooses the teacher by a ratio, prunes the
student from it, distils, tunes on instructions, and reports a new frontier of compute and quality. Here every model is small and
trained by the recipe. The instructions are docstrings of the standard library.

    limbeck reproduce minima --scale smoke | small | gpu        a minute | 2 hours of 2 cores | an hour of an H200, with --data

The stage of MiniChat is judged by checks of answers (`papers.lab.checks`): no other model is a judge.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from limbeck.jobs.pilot.grid import CellPlan, Scale
from limbeck.papers.lab.cells import TrainedLadder, train_ladder
from limbeck.papers.lab.paired import gain, mean, nothing_in, with_interval
from limbeck.papers.lab.plots import draw_frontier
from limbeck.papers.lab.recipe import ClaimResult, Outcome, Recipe, RecipeContext, Short, Verdict, of_seeds
from limbeck.papers.lab.search import BestRates
from limbeck.papers.lab.tuning import TuningPlan, Tunings, tunings
from limbeck.papers.minima.strategies import LARGEST, LAW, Prices, Strategy, planned_teacher, prices_of, strategies_of
from limbeck.probes.interval import Interval
from limbeck.report.words import count

# Set before the first run. Our choice: 0.01 nats is one per cent of perplexity, too little to change a teacher for.
LEAST = 0.01


@dataclass(frozen=True)
class Size:
    """The size of the recipe: sizes in parameters, tokens, and ``rates``, candidate factors of the usual learning rate.

    ``modules`` is the number of modules of the library with instructions, None for all. ``questions``: how many held-out ones
    each tuned student answers.
    """

    smaller: int
    student: int
    teachers: tuple[int, ...]
    tokens: int
    tuning_tokens: int
    rates: tuple[float, ...]
    modules: int | None
    questions: int
    scale: Scale


SIZES = {
    "smoke": Size(
        smaller=12_000,
        student=18_000,
        teachers=(24_000, 45_000, 70_000),
        tokens=2_048,
        tuning_tokens=512,
        rates=(1.0,),
        modules=20,
        questions=20,
        scale=Scale(18_000, 2.0, 4.0, 259, 32, 512, 2_048, 0.1, 8.0, 8),
    ),
    "small": Size(
        smaller=30_000,
        student=60_000,
        teachers=(80_000, 150_000, 300_000, 600_000),
        tokens=2_500_000,
        tuning_tokens=1_000_000,
        rates=(0.5, 1.0, 2.0),
        modules=None,
        questions=600,
        scale=Scale(60_000, 2.0, 10.0, 259, 256, 2048, 2_500_000, 20.0, 8.0, 8),
    ),
    "gpu": Size(
        smaller=1_000_000,
        student=2_000_000,
        teachers=(2_600_000, 5_000_000, 10_000_000, 20_000_000),
        tokens=20_000_000,
        tuning_tokens=1_000_000,
        rates=(0.5, 1.0, 2.0),
        modules=None,
        questions=600,
        scale=Scale(2_000_000, 2.0, 10.0, 4096, 512, 16_384, 20_000_000, 20.0, 8.0, 32),
    ),
}


@dataclass(frozen=True)
class _Students:
    """All trained students by strategy: cells by seed, learning rates, and nats of held-out text and of held-out answers.

    ``planned``: the choice of the teacher. ``text`` and ``answers`` are (seeds, documents, 2): nats and tokens. ``checks`` are
    those of its answers that a tuned student passed, of how many, and ``before`` those of the law's student before tuning.
    """

    work: TrainedLadder
    planned: Mapping[str, Any]
    prices: Prices
    found: Mapping[str, Strategy]
    rates: Mapping[str, float]
    cells: Mapping[str, Sequence[CellPlan]]
    tuned: Tunings
    tuning_tokens: int
    text: Mapping[str, np.ndarray]
    answers: Mapping[str, np.ndarray]
    checks: Mapping[str, np.ndarray]
    before: np.ndarray

    @property
    def law(self) -> str:
        """The teacher that the ratio rule selects."""
        return str(self.planned["teacher"])

    @property
    def seeds(self) -> int:
        """The number of seeds of each strategy."""
        return len(self.cells[LAW])

    def flops(self) -> dict[str, float]:
        """All FLOPs of a student by strategy: its choice, its training with the teacher's passes, and its tuning."""
        prices = self.prices
        return {
            name: prices.spent(strategy) + 3 * prices.shapes[strategy.shape] * self.tuning_tokens
            for name, strategy in self.found.items()
        }


def run(context: RecipeContext) -> Outcome:
    """Trains and chooses teachers, then prunes, distils, tunes and measures the students of all strategies."""
    size = SIZES[context.scale]
    students = _trained(context, size)
    text, answers, checks, flops = students.text, students.answers, students.checks, students.flops()
    cheap = [name for name in students.found if name != LAW and flops[name] <= flops[LAW]]
    frontier = {name: gain(answers[name], answers[LAW]) for name in cheap}
    checked = {name: gain(checks[LAW], checks[name]) for name in cheap}
    raised = gain(checks[LAW], students.before)
    over = gain(text[LARGEST], text[LAW])
    over_at_flops = gain(text[f"{LARGEST}, equal FLOPs"], text[LAW])
    figure = context.out / "frontier.png"
    draw_frontier({name: mean(row) for name, row in answers.items()}, flops, figure)
    work = students.work
    stronger = work.teacher(work.teachers[-1].name)["loss"] < work.teacher(students.law)["loss"]
    judged = (
        judge_law(over, over_at_flops, stronger=stronger, seeds=students.seeds),
        judge_frontier(frontier, seeds=students.seeds),
        judge_chat(raised, checked, seeds=students.seeds),
    )
    differences = {
        "largest_less_law_nats": vars(over),
        "largest_at_equal_flops_less_law_nats": vars(over_at_flops),
        "answers_less_law_nats": {name: vars(found) for name, found in frontier.items()},
        "checks_law_less_others": {name: vars(found) for name, found in checked.items()},
        "checks_law_less_untuned": vars(raised),
    }
    shown = "Answers to held-out questions after tuning, by all FLOPs of a student; the training of teachers is not counted."
    numbers = _numbers(students, flops) | differences
    return Outcome(
        _ours(students, size), judged, numbers, {figure: shown}, work.cpu_seconds() + students.tuned.cpu_seconds()
    )


def _trained(context: RecipeContext, size: Size) -> _Students:
    """Trains all teachers and students, and tunes the students."""
    work = train_ladder(context, size.scale, students=[size.smaller, size.student], teachers=size.teachers)
    work.train([])
    planned = planned_teacher(work, tokens=size.tokens)
    prices = prices_of(work)
    found = strategies_of(work, prices, law=planned["teacher"], tokens=size.tokens)
    most = max(strategy.tokens for strategy in found.values() if strategy.objective == "kd")
    work = replace(work, scale=replace(work.scale, student_tokens=most))
    seeds = range(context.seed, context.seed + context.seeds)
    rates = work.rates({name: strategy.cell(seeds.stop) for name, strategy in found.items()}, size.rates)
    cells = {name: [strategy.cell(seed, rates[name]) for seed in seeds] for name, strategy in found.items()}
    work.train([cell for row in cells.values() for cell in row])
    work.tidy()
    tuned = tunings(context, length=size.scale.length, batch_tokens=size.scale.batch_tokens, modules=size.modules)
    plans = {name: [_plan(cell, size) for cell in row] for name, row in cells.items()}
    untuned = [_plan(cell, size, tokens=0) for cell in cells[LAW]]
    tuned.do([*(plan for row in plans.values() for plan in row), *untuned])
    return _Students(
        work,
        planned,
        prices,
        found,
        rates,
        cells,
        tuned,
        tuned.tokens_read(size.tuning_tokens),
        text={name: np.array([work.documents(cell.name).T for cell in row]) for name, row in cells.items()},
        answers={name: np.array([tuned.answers(plan) for plan in row]) for name, row in plans.items()},
        checks={name: np.array([tuned.checks(plan) for plan in row]) for name, row in plans.items()},
        before=np.array([tuned.checks(plan) for plan in untuned]),
    )


def _plan(cell: CellPlan, size: Size, *, tokens: int | None = None) -> TuningPlan:
    """The tuning of a student; of 0 tokens, what it is before."""
    read = size.tuning_tokens if tokens is None else tokens
    name = cell.name if read else f"{cell.name}-untuned"
    return TuningPlan(name, f"trainings/cells/{cell.name}/student", cell.seed, read, size.questions)


def _ours(students: _Students, size: Size) -> str:
    """What was done here, in two sentences."""
    work = students.work
    assert isinstance(students.rates, BestRates), "from a search"
    best = work.cell(students.cells[LAW][0].name)
    return (
        f"Of {len(work.teachers)} teachers of {' / '.join(count(work.teacher(t.name)['parameters']) for t in work.teachers)} "
        f"parameters the ratio rule named {students.law} for a student of {count(best['parameters'])}. Cut out of it, distilled "
        f"on {count(best['tokens'])} tokens and tuned on {count(students.tuning_tokens)} of questions about the standard "
        f"library, the student stands beside {len(students.found) - 1} other ways, each with {students.seeds} seeds, its "
        f"learning rate chosen out of {students.rates.number}.{students.rates.doubt}"
    )


def _numbers(students: _Students, flops: Mapping[str, float]) -> dict[str, Any]:
    """The figures of each strategy and of each teacher, as JSON."""
    work = students.work
    return {
        "plan": students.planned,
        "teachers": [work.teacher(rung.name) for rung in work.teachers],
        "lr_factor": students.rates,
        "tokens": {name: strategy.tokens for name, strategy in students.found.items()},
        "flops": flops,
        "flops_of_teacher_training": {
            rung.name: 3 * students.prices.teachers[rung.name] * work.teacher(rung.name)["tokens"]
            for rung in work.teachers
        },
        "text_nats": {name: vars(mean(row)) for name, row in students.text.items()},
        "answers_nats": {name: vars(mean(row)) for name, row in students.answers.items()},
        "checks_passed": {name: vars(mean(row)) for name, row in students.checks.items()}
        | {f"{LAW}, not tuned": vars(mean(students.before))},
    }


def judge_law(over: Interval, at_equal_flops: Interval, *, stronger: bool, seeds: int) -> ClaimResult:
    """Judges by how many nats, held out and before tuning, the student of the law's teacher is better than that of the largest.

    ``stronger``: the largest teacher has a lower loss than the law's. Otherwise there is no gap to test.
    """
    verdict: Verdict = "inconclusive"
    if stronger and over.low > 0:
        verdict = "confirmed"
    elif stronger and nothing_in(over, LEAST):
        verdict = "refuted"
    judged = ClaimResult(
        claim="Distilled from the teacher that the law names, about 2.5 times its size, a student is better than from the "
        "largest teacher (for 3B, a teacher of 7B before those of 13B and 70B).",
        criterion="Confirmed: at equal tokens the student of the law's teacher has the lower loss on held-out text, with its "
        f"95 % interval. Refuted: the interval holds 0 or less and ends below {LEAST} nats. Inconclusive otherwise, and "
        "where the largest teacher is not the better model.",
        verdict=verdict,
        seen=f"{with_interval(over)} nats better at equal tokens, {with_interval(at_equal_flops)} at equal FLOPs "
        f"({over.n} documents, {seeds} seeds)" + ("" if stronger else "; the largest teacher is not the better model"),
    )
    return of_seeds(judged, seeds)


def judge_frontier(others: Mapping[str, Interval], *, seeds: int) -> ClaimResult:
    """Judges by how many nats the law's student, after tuning, is better than each strategy of at most its cost."""
    verdict: Verdict = "inconclusive"
    if any(other.high < 0 for other in others.values()):
        verdict = "refuted"
    elif others and all(other.low > -LEAST for other in others.values()):
        verdict = "confirmed"
    n = next((other.n for other in others.values()), 0)
    judged = ClaimResult(
        claim="The student that was planned by the law, cut, distilled and tuned lies on the frontier of compute and quality.",
        criterion="Refuted: a way that costs as many FLOPs or fewer, teacher's passes counted, answers held-out questions "
        "with fewer nats, with its 95 % interval (not widened for the number of ways). Confirmed: each of them is surely "
        f"not better by {LEAST} nats. Inconclusive otherwise.",
        verdict=verdict,
        seen="; ".join(f"{with_interval(other)} nats better than {name}" for name, other in others.items())
        + f" ({n} modules asked about, {seeds} seeds)",
    )
    return of_seeds(judged, seeds)


def judge_chat(raised: Interval, others: Mapping[str, Interval], *, seeds: int) -> ClaimResult:
    """Judges by the share of checks that answers pass: what tuning adds, and what each strategy of at most its cost has less."""
    verdict: Verdict = "inconclusive"
    if raised.high <= 0 or any(other.high < 0 for other in others.values()):
        verdict = "refuted"
    elif others and raised.low > 0 and all(other.low > 0 for other in others.values()):
        verdict = "confirmed"
    judged = ClaimResult(
        claim="Tuned on instructions, the planned student answers better than others of its compute (MiniChat-3B beats other "
        "chat models of 3B by GPT-4's judgement).",
        criterion="By the share of checks that answers to held-out questions pass (they end, have the form asked for, are about "
        "the function asked for, are right). Confirmed: tuning raises the share of the law's student, and it passes more than "
        "each way that costs as many FLOPs or fewer, each with its 95 % interval. Refuted: tuning does not raise it, by the "
        "interval, or one of these ways passes more, with its own (not widened for the number of ways). Inconclusive otherwise.",
        verdict=verdict,
        seen=f"tuning adds {with_interval(raised)} of the checks; "
        + "; ".join(f"{with_interval(other)} more than {name}" for name, other in others.items())
        + f" ({raised.n} modules asked about, {seeds} seeds)",
    )
    return of_seeds(judged, seeds)


def _smallest_margin(seen: str) -> str:
    """Of the margins over all other strategies the smallest, with its interval."""
    margins = re.findall(r"[+-][\d.]+ \([^)]+\) (?:nats better|more) than [^;(]+", seen)
    return (
        f"at least {min(margins, key=lambda one: float(one.split()[0])).strip()}"
        if margins
        else "nothing costs as little"
    )


RECIPE = Recipe(
    name="minima",
    title="MiniMA: a student planned by the law, cut, distilled and tuned",
    paper="Towards the Law of Capacity Gap in Distilling Language Models, arXiv 2311.07052",
    claim="The best teacher of a student has about 2.5 times its parameters. A 3B student that was cut out of the 7B teacher so "
    "named and distilled on 126B tokens, then tuned on instructions, is a new frontier of compute and quality.",
    differences=(
        "Models tens of thousands of times smaller, each ladder trained here from nothing; there LLaMA 2.",
        "Loss on held-out text and on answers to held-out questions in place of benchmarks, and checks by a program of what the "
        "students answer in place of judgement by GPT-4.",
        "Instructions are questions about Python's standard library, answered by its own docstrings and signatures.",
        "All ways have their learning rate chosen with the same budget, before the tuning; the tuning has one rate for all.",
        "Layers are cut by what they change, those at the ends last; there the 4 at each end go.",
        "No new vocabulary, no second language, no mixture of experts, no preference tuning.",
        "FLOPs are counted with attention and with the head, and with the choice of what is cut; as there, not the training "
        "of teachers (reproduction.json has it).",
    ),
    run=run,
    scales=SIZES,
    short={
        "from the teacher that the law names": Short(
            "The law's teacher makes a better student than the largest", r"^[^;(]+\([^)]+\) nats better at equal tokens"
        ),
        "lies on the frontier": Short("Nothing that costs no more answers better", _smallest_margin),
        "Tuned on instructions": Short(
            "Its tuned student passes more checks than those of no more FLOPs", _smallest_margin
        ),
    },
)
