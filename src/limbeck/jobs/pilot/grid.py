"""The grid of a pilot: a ladder of teachers, smaller students, two arms, seeds, and learning rates at the ends.

Every teacher is trained once, from random weights or grown from the next smaller one, its hidden states are captured once, and
all its students use them. A student has the same shape
in both arms: pruned from the teacher, or one fixed random initialisation (per seed), so that damage by pruning is not mistaken
for a capacity gap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import log

from limbeck.config import count
from limbeck.errors import BadSetting
from limbeck.students.shape import Shape

# At the teacher's own size there is no gap to measure, and nothing to prune.
LEAST_RATIO = 1.2
FEWEST_TEACHERS = 3
# Further needs of a distillation law: students of a second number of tokens, and teachers as good as larger ones.
SHORTER = 4  # times fewer tokens
OVERTRAINED, LONGER = 2, 4  # how many of the smallest teachers, and how many times as long
# Tokens of a grown teacher over those of one from random weights. A stacked model of 7B came to the same loss on 194B of 300B
# tokens (arXiv 2405.15319, abstract); rungs of a ladder are nearer to one another. Its cost in nats: benchmarks/ladder.py.
GROWN = 0.6


@dataclass(frozen=True)
class Scale:
    """The size of a pilot. Sizes are numbers of parameters, with embeddings.

    Students are ``smallest`` and ``step`` times the one before. The largest teacher is ``reach`` times the smallest student.
    ``head`` is the number of channels of an attention head, and the step of all widths.
    """

    smallest: int
    step: float
    reach: float
    vocab: int
    length: int
    batch_tokens: int
    student_tokens: int
    teacher_tokens: float  # a parameter
    epochs: float  # of the text, at most, for a teacher
    head: int
    students: int = 3  # sizes, where none are given: each needs three larger teachers


SCALES = {
    "smoke": Scale(30_000, 1.7, 6.0, 259, 64, 1024, 30_000, 0.5, 8.0, 8),
    "small": Scale(30_000, 2.0, 20.0, 259, 128, 2048, 1_000_000, 20.0, 8.0, 8),
    "gpu": Scale(4_000_000, 2.0, 10.0, 4096, 512, 65_536, 80_000_000, 20.0, 40.0, 32, students=2),
}


@dataclass(frozen=True)
class TeacherPlan:
    """A teacher of the ladder, trained on ``tokens``: from random weights, or grown from the trained teacher ``start``.

    ``scratch_tokens``: those of a grown one from random weights. ``seed`` draws weights and the order of the text.
    """

    name: str
    shape: Shape
    tokens: int
    start: str | None = None
    scratch_tokens: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class CellPlan:
    """The training of one student. Without a teacher it trains on the text alone.

    ``lr_factor`` multiplies the learning rate; it is 1 except in checks of the rate. With ``objective`` None it is the pilot's.
    With one that needs no teacher, the teacher is only the source of pruning. ``keep``: the student is kept, in ``student``.
    """

    name: str
    shape: Shape
    teacher: str | None
    arm: str
    seed: int
    lr_factor: float
    tokens: int
    objective: str | None = None
    keep: bool = False


@dataclass(frozen=True)
class Grid:
    """All trainings of a pilot."""

    teachers: tuple[TeacherPlan, ...]
    cells: tuple[CellPlan, ...]


def ladder(scale: Scale, *, students: str | None, teachers: str) -> tuple[list[int], list[int]]:
    """(sizes of students, sizes of teachers) in parameters: as listed (30k,60k), as many as given (3), or the scale's number.

    Students double. Teachers rise evenly from 1.5 times the smallest student to ``reach`` times it. Raises BadSetting for sizes
    that make no ladder.
    """
    students = students or str(scale.students)
    pupils = _number(students)
    small = (
        [round(scale.smallest * scale.step**i) for i in range(pupils)] if pupils else _listed("--students", students)
    )
    rungs = _number(teachers)
    if rungs is None:
        return small, _listed("--teachers", teachers)
    if rungs < FEWEST_TEACHERS:
        raise BadSetting(
            f"--teachers {rungs}: a minimum between two ends needs {FEWEST_TEACHERS} points at least, so no best teacher can be "
            f"fitted from fewer. Give {FEWEST_TEACHERS} or more."
        )
    first, last = 1.5 * min(small), scale.reach * min(small)
    return small, [round(first * (last / first) ** (i / (rungs - 1))) for i in range(rungs)]


def _number(text: str) -> int | None:
    return int(text) if text.isdigit() and int(text) <= 100 else None


def _listed(flag: str, text: str) -> list[int]:
    try:
        found = sorted({count(part) for part in text.split(",")})
        if found[0] < 1:
            raise ValueError(f"expected sizes of at least 1, got {found[0]}")
        return found
    except ValueError as error:
        raise BadSetting(f"{flag} {text}: {error}, a list of those, or how many: {flag} 3") from error


def grid(
    scale: Scale,
    *,
    students: Sequence[int],
    teachers: Sequence[int],
    vocab: int,
    seeds: range,
    corpus_tokens: int,
    law: bool = False,
    grow: bool = False,
) -> Grid:
    """The grid of these sizes. ``corpus_tokens`` is the number of distinct training tokens.

    With ``law`` it also has what a distillation law needs and a ratio rule does not: students from random weights on a quarter
    of the tokens, and students of the two smallest teachers trained four times as long. With ``grow`` each teacher but the
    smallest starts from the one below (`students.pad`), and sees `GROWN` of its tokens. Raises BadSetting if a student has
    fewer than three larger teachers.
    """
    shapes = nested_shapes([*students, *teachers], vocab=vocab, head=scale.head)
    pupils = list(dict.fromkeys(shapes[size] for size in students))
    rungs = list(dict.fromkeys(shapes[size] for size in teachers))
    most = scale.epochs * corpus_tokens
    ladder = tuple(
        TeacherPlan(f"t{i}", shape, round(min(scale.teacher_tokens * weights(shape, vocab), most)))
        for i, shape in enumerate(rungs)
    )
    trained_on = [
        replace(rung, name=f"{rung.name}-long", tokens=round(min(LONGER * rung.tokens, most))) for rung in ladder
    ]
    long = [rung for rung, once in zip(trained_on, ladder, strict=True) if rung.tokens > once.tokens][:OVERTRAINED]
    cells: list[CellPlan] = []
    for number, shape in enumerate(pupils):
        least = LEAST_RATIO * weights(shape, vocab)
        larger = [rung for rung in ladder if weights(rung.shape, vocab) >= least]
        if len(larger) < FEWEST_TEACHERS:
            raise BadSetting(
                f"the student of {weights(shape, vocab):,} parameters has {len(larger)} larger teachers (of "
                f"{', '.join(f'{weights(rung.shape, vocab):,}' for rung in larger) or 'none'}): a minimum between two ends needs "
                f"{FEWEST_TEACHERS} points at least. Give more teachers, or smaller students."
            )
        cells += _cells_of(f"s{number}", shape, larger, seeds, scale.student_tokens)
        if law:
            better = [rung for rung in long if weights(rung.shape, vocab) >= least]
            cells += _cells_of_law(f"s{number}", shape, larger, better, seeds, scale.student_tokens)
    if grow:
        return Grid(_grown(ladder), tuple(cells))
    return Grid((*ladder, *long) if law else ladder, tuple(cells))


def _grown(ladder: Sequence[TeacherPlan]) -> tuple[TeacherPlan, ...]:
    """The ladder, each rung but the first grown from the one below."""
    return (
        *ladder[:1],
        *(
            replace(rung, tokens=round(GROWN * rung.tokens), start=below.name, scratch_tokens=rung.tokens)
            for below, rung in pairwise(ladder)
        ),
    )


def _cells_of(name: str, shape: Shape, teachers: Sequence[TeacherPlan], seeds: range, tokens: int) -> list[CellPlan]:
    cells = [CellPlan(f"{name}-alone-seed{seed}", shape, None, "fresh", seed, 1.0, tokens) for seed in seeds]
    for teacher in teachers:
        for arm in ("cut", "fresh"):
            cells += [
                CellPlan(f"{name}-{teacher.name}-{arm}-seed{seed}", shape, teacher.name, arm, seed, 1.0, tokens)
                for seed in seeds
            ]
    for teacher in (teachers[0], teachers[-1]):  # is the rate as good for the one end as for the other?
        for arm in ("cut", "fresh"):
            cells += [
                CellPlan(
                    f"{name}-{teacher.name}-{arm}-lr{factor:g}", shape, teacher.name, arm, seeds[0], factor, tokens
                )
                for factor in (0.5, 2.0)
            ]
    return cells


def _cells_of_law(
    name: str, shape: Shape, teachers: Sequence[TeacherPlan], long: Sequence[TeacherPlan], seeds: range, tokens: int
) -> list[CellPlan]:
    """Students from random weights only, since a pruned one starts with the training of its teacher."""
    short = [(f"{name}-alone", None), *((f"{name}-{teacher.name}-fresh", teacher.name) for teacher in teachers)]
    cells = [
        CellPlan(f"{start}-seed{seed}-short", shape, teacher, "fresh", seed, 1.0, tokens // SHORTER)
        for start, teacher in short
        for seed in seeds
    ]
    return cells + [
        CellPlan(f"{name}-{teacher.name}-fresh-seed{seed}", shape, teacher.name, "fresh", seed, 1.0, tokens)
        for teacher in long
        for seed in seeds
    ]


def weights(shape: Shape, vocab: int) -> int:
    """Parameters of a Llama of this shape with a tied head."""
    return vocab * shape.hidden + weights_inside(shape)


def weights_inside(shape: Shape) -> int:
    """Parameters of a Llama of this shape without its embeddings."""
    head = shape.hidden // shape.heads
    attention = 2 * shape.hidden * (shape.heads + shape.kv_heads) * head
    layer = attention + 3 * shape.hidden * shape.ffn + 2 * shape.hidden
    return shape.layers * layer + shape.hidden


def nested_shapes(sizes: Sequence[int], *, vocab: int, head: int) -> dict[int, Shape]:
    """A shape for each size, such that a smaller one fits into a larger one on every axis and can be pruned from it.

    From the smallest up, each is the most balanced within 3 % of its size, else the nearest, that is no narrower and no
    shallower than the last. Raises BadSetting for a size without a shape within 10 %.
    """
    found: dict[int, Shape] = {}
    floor: Shape | None = None
    for size in sorted(set(sizes)):

        def misfit(shape: Shape, size: int = size) -> tuple[float, float]:
            away = abs(weights(shape, vocab) / size - 1)
            balance = abs(log(shape.ffn / shape.hidden * 3 / 8)) + abs(log(shape.hidden / shape.layers / 20))
            return max(away, 0.03), balance

        candidates = [shape for shape in _family(size, vocab, head) if floor is None or _fits(floor, shape)]
        best = min(candidates, key=misfit, default=None)
        if best is None or misfit(best)[0] > 0.1:
            raise BadSetting(
                f"no shape of about {size:,} parameters with a vocabulary of {vocab:,} tokens: give sizes further apart, "
                "or larger"
            )
        found[size] = floor = best
    return found


def _family(size: int, vocab: int, head: int) -> list[Shape]:
    """Shapes near a size with an FFN of 2 to 4 times the width, and one layer for 10 to 40 channels (at least two layers)."""
    family = []
    for hidden in range(2 * head, size // vocab + 1, head):
        heads, least, most = hidden // head, max(2, hidden // 40), max(2, hidden // 10)
        for ffn in range(2 * hidden, 4 * hidden + 1, head):
            one = Shape(1, hidden, heads, heads, ffn)
            layers = round((size - vocab * hidden) / weights_inside(one))
            if least <= layers <= most:
                family.append(replace(one, layers=layers))
    return family


def _fits(small: Shape, large: Shape) -> bool:
    return all(getattr(small, axis) <= getattr(large, axis) for axis in ("layers", "hidden", "heads", "ffn"))
