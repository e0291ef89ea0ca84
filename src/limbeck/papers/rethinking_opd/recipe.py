"""Rethinking on-policy distillation: when a student learns from a teacher's judgement of its own answers.

The paper is "Rethinking On-Policy Distillation of Large Language Models" (arXiv 2604.13016). It names two conditions: student and
teacher have to think alike, seen in the most probable tokens that they share, and the teacher has to know what the student was
not trained on. Ours are small decoders on chains of operations modulo 10: teachers write derivations as the student does, or
otherwise, and learned the student's chains, or more.

    limbeck reproduce rethinking-opd --scale smoke | small | gpu      half a minute | one and a half hours of a core | not timed
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from limbeck.papers.lab.on_policy import OFF, ON
from limbeck.papers.lab.plots import draw_gain_by_overlap
from limbeck.papers.lab.rates import TUNING, searched_rates
from limbeck.papers.lab.recipe import ClaimResult, Outcome, Recipe, RecipeContext, Short, of_seeds, with_failures
from limbeck.papers.lab.right import Right
from limbeck.papers.lab.search import BestRates
from limbeck.papers.lab.trainings import Trainings
from limbeck.papers.rethinking_opd.judging import judge_knowledge, judge_on_policy, judge_overlap, judge_pattern
from limbeck.papers.rethinking_opd.training import PATTERNS, START, Cell, train_cell
from limbeck.probes.interval import share_interval
from limbeck.report.words import share


@dataclass(frozen=True)
class Scale:
    """A student of ``width`` that learns ``examples`` chains of ``length`` operations, and its teachers.

    There is a teacher for each pattern, each of ``widths``, and each number of chains: the student's, and ``further``. A
    distillation learns ``tokens``; of ``rates`` each kind has its best, by pattern.
    """

    length: int
    examples: int
    further: tuple[int, ...]
    width: int
    widths: tuple[int, ...]
    layers: int
    heads: int
    rows: int
    steps: int
    student_steps: int
    rate: float
    tokens: int
    tested: int
    rates: tuple[float, ...]


SCALES = {
    "smoke": Scale(2, 20, (40,), 16, (24,), 1, 2, 4, 3, 3, 3e-3, 100, 8, (1e-3,)),
    "small": Scale(3, 150, (190, 240, 320, 600), 64, (96,), 2, 4, 64, 500, 200, 3e-3, 100_000, 500, (3e-4, 1e-3, 3e-3)),
    "gpu": Scale(
        6, 1500, (2200, 3000, 10_000, 50_000), 256, (512,), 6, 8, 256, 3000, 1000, 1e-3, 3_000_000, 1000, (1e-4, 3e-4, 1e-3)
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """A kind of teacher: how it writes, the chains that it learned, and its width."""

    pattern: str
    examples: int
    width: int

    @property
    def name(self) -> str:
        """The kind as part of a cell's name."""
        return f"{self.pattern}-{self.examples}-{self.width}"


@dataclass(frozen=True)
class _Found:
    """All results: of students and teachers by seed, and of distillations of each kind of teacher by seed."""

    students: Sequence[Mapping[str, Any]]
    teachers: Mapping[Kind, Sequence[Mapping[str, Any]]]
    on: Mapping[Kind, Sequence[Mapping[str, Any]]]
    off: Mapping[Kind, Sequence[Mapping[str, Any]]]


def run(context: RecipeContext) -> Outcome:
    """Trains students, teachers and distillations, and judges all claims."""
    scale = SCALES[context.scale]
    trainings = Trainings(context, partial(train_cell, folder=context.out / "nets"))
    rates, found = _found(trainings, scale, context)
    kinds = [*found.on]
    numbers = _numbers(found, rates)
    judged = [
        with_failures(result, {"on-policy": [one for rows in found.on.values() for one in rows]})
        for result in _judged(scale, found, kinds)
    ]
    figure = context.out / "rethinking-opd.png"
    draw_gain_by_overlap(
        {
            pattern: [(one["overlap"], one["gain"]) for one in numbers["pairs"] if one["pattern"] == pattern]
            for pattern in PATTERNS
        },
        figure,
    )
    return Outcome(
        _ours(scale, rates, found, context),
        tuple(of_seeds(one, context.seeds) for one in judged),
        numbers,
        {
            figure: "What on-policy distillation gained in accuracy by the overlap of the most probable tokens before, a point "
            "for each teacher: means over seeds."
        },
        trainings.cpu_seconds(),
    )


def _judged(scale: Scale, found: _Found, kinds: Sequence[Kind]) -> list[ClaimResult]:
    """All claims, in the order of the page."""

    def after(of: Mapping[Kind, Sequence[Mapping[str, Any]]], some: Sequence[Kind], mark: int = 0) -> Right:
        return np.mean([[one["right"][mark] for one in of[kind]] for kind in some], 0, dtype=float)

    def best(some: Sequence[Kind]) -> Right:
        return np.mean([_right(found.teachers[kind]) for kind in some], 0)

    before = _right(found.students)
    same, other = ([kind for kind in kinds if kind.pattern == pattern] for pattern in ("same", "other"))
    larger = [kind for kind in same if kind.width > scale.width]
    seen, new = ([kind for kind in larger if (kind.examples == scale.examples) is known] for known in (True, False))
    measured = [_before(found, kind) for kind in kinds]
    overlap, divergence = (np.array([one[name] for one in measured]) for name in ("overlap", "kl"))
    accuracy = np.array([_right(found.teachers[kind]).mean() for kind in kinds])
    gains = np.array([after(found.on, [kind]).mean() for kind in kinds]) - before.mean()
    return [
        judge_overlap(overlap, divergence, accuracy, gains, [kind.pattern for kind in kinds]),
        judge_pattern(
            after(found.on, same), after(found.on, other), (float(best(same).mean()), float(best(other).mean()))
        ),
        judge_knowledge(before, (after(found.on, seen), best(seen)), (after(found.on, new), best(new))),
        judge_on_policy(after(found.on, kinds), after(found.off, kinds), after(found.off, kinds, 1)),
    ]


def _found(trainings: Trainings, scale: Scale, context: RecipeContext) -> tuple[BestRates, _Found]:
    """The rate of each way to distil by pattern, and all results."""
    kinds = [
        Kind(pattern, n, width)
        for pattern in PATTERNS
        for n in (scale.examples, *scale.further)
        for width in scale.widths
    ]
    seeds, tuning = range(context.seed, context.seed + context.seeds), context.seed + TUNING
    students = {seed: _student(scale, seed) for seed in seeds}
    teachers = {kind: [_teacher(scale, kind, seed) for seed in seeds] for kind in kinds}
    chosen = {pattern: Kind(pattern, max(scale.further), max(scale.widths)) for pattern in PATTERNS}
    tries = len(scale.rates) > 1
    trainings.do([*students.values(), *(cell for row in teachers.values() for cell in row)])
    trainings.do(
        [_student(scale, tuning), *(_teacher(scale, kind, tuning) for kind in chosen.values())] if tries else []
    )
    arms = {f"{way}, {pattern}": (way, kind) for way in (ON, OFF) for pattern, kind in chosen.items()}
    rates = searched_rates(
        trainings,
        arms,
        scale.rates,
        lambda arm, rate: _distilled(scale, *arms[arm], tuning, rate, tuning=True),
        lambda result: 1 - float(np.mean(result["right"][0])),
    )
    planned = {
        way: {
            kind: [_distilled(scale, way, kind, seed, rates[f"{way}, {kind.pattern}"]) for seed in seeds]
            for kind in kinds
        }
        for way in (ON, OFF)
    }
    trainings.do(cell for of in planned.values() for row in of.values() for cell in row)
    on, off = (
        {kind: [trainings.result(cell) for cell in row] for kind, row in planned[way].items()} for way in (ON, OFF)
    )
    return rates, _Found(
        [trainings.result(students[seed]) for seed in seeds],
        {kind: [trainings.result(cell) for cell in row] for kind, row in teachers.items()},
        on,
        off,
    )


def _student(scale: Scale, seed: int) -> Cell:
    return _cell(scale, f"student-seed{seed}", START, seed, scale.rate, steps=scale.student_steps)


def _teacher(scale: Scale, kind: Kind, seed: int) -> Cell:
    return _cell(scale, f"teacher-{kind.name}-seed{seed}", START, seed, scale.rate, kind=kind, steps=scale.steps)


def _distilled(scale: Scale, way: str, kind: Kind, seed: int, rate: float, *, tuning: bool = False) -> Cell:
    return _cell(
        scale,
        f"{way}-{kind.name}-rate{rate:.1e}-seed{seed}",
        way,
        seed,
        rate,
        kind=Kind(kind.pattern, scale.examples, scale.width),
        start=f"student-seed{seed}",
        teacher=f"teacher-{kind.name}-seed{seed}",
        tokens=scale.tokens,
        tuning=tuning,
    )


def _cell(
    scale: Scale, name: str, way: str, seed: int, rate: float, *, kind: Kind | None = None, **others: Any
) -> Cell:
    of = kind or Kind("same", scale.examples, scale.width)
    return Cell(
        name=name,
        kind=way,
        seed=seed,
        rate=rate,
        length=scale.length,
        examples=of.examples,
        pattern=of.pattern,
        width=of.width,
        layers=scale.layers,
        heads=scale.heads,
        rows=scale.rows,
        tested=scale.tested,
        **{"steps": 0, **others},
    )


def _right(rows: Sequence[Mapping[str, Any]]) -> Right:
    return np.array([one["right"] for one in rows], dtype=float)


def _before(found: _Found, kind: Kind) -> dict[str, float]:
    """Student and teacher compared before, means over seeds."""
    rows = [one["before"] for one in found.on[kind]]
    return {name: float(np.mean([one[name] for one in rows])) for name in rows[0]}


def _ours(scale: Scale, rates: BestRates, found: _Found, context: RecipeContext) -> str:
    """What was done here, in a few sentences."""
    starts = " / ".join(share(float(np.mean(one["right"])), digits=1) for one in found.students)
    return (
        f"Decoders of {scale.layers} layers, one token a character. Students of width {scale.width} learned {scale.examples:,} "
        f"chains of {scale.length} operations modulo 10 with their derivations in {scale.student_steps} steps, and answered "
        f"{starts} of the test chains. {len(found.on)} teachers of width {' or '.join(map(str, scale.widths))} learned the same "
        f"chains, or those and more ({', '.join(f'{n:,}' for n in scale.further)} in all), in {scale.steps} steps, and write "
        f"each result once as the student does, twice, or either. Each distillation learned {scale.tokens:,} tokens of new "
        f"chains; {context.seeds} seeds. Of {rates.number} rates each way had its best for each pattern, with another seed."
        f"{rates.doubt}"
    )


def _numbers(found: _Found, rates: Mapping[str, float]) -> dict[str, Any]:
    """The figures as JSON, an entry for each teacher."""
    before = float(_right(found.students).mean())

    def after(rows: Sequence[Mapping[str, Any]], mark: int = 0) -> dict[str, Any]:
        right = np.array([one["right"][mark] for one in rows], dtype=float).sum(0)
        return asdict(share_interval(right, np.full(len(right), float(len(rows)))))

    def of_kind(kind: Kind) -> dict[str, Any]:
        on = after(found.on[kind])
        return {
            **asdict(kind),
            "teacher": float(_right(found.teachers[kind]).mean()),
            **_before(found, kind),
            "on_policy": on,
            "gain": on["value"] - before,
            "off_policy": after(found.off[kind]),
            "off_policy_at_equal_flops": after(found.off[kind], 1),
            "tokens": [[one["tokens"] for one in of[kind]] for of in (found.on, found.off)],
            "flops": [[one["flops"] for one in of[kind]] for of in (found.on, found.off)],
        }

    return {"student": before, "rates": dict(rates), "pairs": [of_kind(kind) for kind in found.on]}


def tables(numbers: Mapping[str, Any]) -> list[str]:
    """A table of all teachers."""
    head = (
        "| derivations | chains | width | teacher | overlap before | KL before, nats | on-policy | off-policy | at equal "
        "FLOPs |\n|---|---|---|---|---|---|---|---|---|"
    )
    rows = [
        f"| {one['pattern']} | {one['examples']:,} | {one['width']} | {share(one['teacher'], digits=1)} | "
        f"{share(one['overlap'], digits=1)} | {one['kl']:.2f} | {share(one['on_policy']['value'], digits=1)} | "
        f"{share(one['off_policy']['value'], digits=1)} | {share(one['off_policy_at_equal_flops']['value'], digits=1)} |"
        for one in numbers["pairs"]
    ]
    return ["\n".join([head, *rows])]


RECIPE = Recipe(
    name="rethinking-opd",
    title="When on-policy distillation works",
    paper="Rethinking On-Policy Distillation of Large Language Models, arXiv 2604.13016",
    claim="On-policy distillation succeeds if student and teacher think alike, seen in the most probable tokens that both have "
    "on the student's answers, and if the teacher knows what the student was not trained on.",
    differences=(
        "Small decoders trained here on chains of operations modulo 10, where the paper has language models on mathematics.",
        "The divergence is that of all tokens, KL(student || teacher), in place of a policy gradient over the student's most "
        "probable ones; the learning rate is constant.",
        "Overlap is that of the 4 most probable tokens in place of 16, since chains have 17 characters.",
        "Thinking alike is writing each result once or twice; knowing more is having learned more chains.",
        "The divergence and the teacher's accuracy before, as predictors beside overlap, and distillation on text "
        "that the teacher generates, at equal tokens and FLOPs, are ours to compare with.",
    ),
    run=run,
    scales=SCALES,
    tables=tables,
    short={
        "predicts what": Short("Overlap before predicts the gain", "partial correlation [^;]+"),
        "writes derivations as": Short("A teacher that writes alike teaches more", "difference [^;]+"),
        "something new": Short("A teacher must know something new", "share closed [^;]+"),
        "student's own answers gains": Short(
            "The student's own answers teach more than the teacher's", "difference [^;]+"
        ),
    },
)
