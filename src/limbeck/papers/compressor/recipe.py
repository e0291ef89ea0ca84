"""Compressor: whether the configurations it published are the best of its space, and whether FLOPs at equal bytes choose well.

The paper is "Compressing Pre-trained Models of Code into 3 MB" (Shi et al., arXiv 2208.07120). It searches a small encoder of
given bytes for the most FLOPs, and distils a classifier of code into it from random weights. Its space is small enough to count.
Whether FLOPs foretell quality is tested on decoders of equal bytes, with a control that decides what it means: the same shapes at
equal training FLOPs, and beside the shape that `limbeck plan --bytes` chooses.

    limbeck reproduce compressor --scale smoke | small | gpu        a minute | an hour of a core | an H200, with --data
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import log
from typing import Any

import numpy as np
from jaxtyping import Float

from limbeck.jobs.pilot.grid import CellPlan, Scale
from limbeck.models.anatomy import Anatomy
from limbeck.papers.compressor.judging import (
    Order,
    judge_choice,
    judge_compute,
    judge_proxy,
    judge_published,
    judge_search,
)
from limbeck.papers.compressor.shapes import Axes, at_equal_bytes
from limbeck.papers.compressor.space import PUBLISHED, Encoder, fittest, searched
from limbeck.papers.compressor.speed import speed_of
from limbeck.papers.lab.cells import TrainedLadder, train_ladder
from limbeck.papers.lab.paired import gain, mean
from limbeck.papers.lab.plots import draw_frontier
from limbeck.papers.lab.recipe import ClaimResult, Outcome, Recipe, RecipeContext, Short
from limbeck.papers.lab.search import BestRates
from limbeck.probes.interval import Interval, bootstrap, wilson
from limbeck.report.words import count
from limbeck.students.shape import Budget, Shape, balanced_within

STORED = "float16"
PLANNED = "planned"
_OBJECTIVE = "ForwardKL"


@dataclass(frozen=True)
class Size:
    """The size of the recipe: bytes of a student, shapes of that size, and ``rates``, candidate factors of the usual rate.

    ``searches`` is how often the paper's search is repeated for each of its targets.
    """

    searches: int
    budget: int
    shapes: int
    axes: Axes
    teacher: int
    rates: tuple[float, ...]
    scale: Scale


SIZES = {
    "smoke": Size(
        searches=1,
        budget=24_000,
        shapes=2,
        axes=Axes(4, 32, 8),
        teacher=40_000,
        rates=(1.0,),
        scale=Scale(12_000, 2.0, 4.0, 259, 32, 512, 30_000, 0.5, 8.0, 8),
    ),
    "small": Size(
        searches=20,
        budget=150_000,
        shapes=8,
        axes=Axes(12, 96, 8),
        teacher=400_000,
        rates=(0.5, 1.0, 2.0),
        scale=Scale(75_000, 2.0, 6.0, 512, 256, 2048, 299_008, 15.0, 8.0, 8),
    ),
    "gpu": Size(
        searches=20,
        budget=8_000_000,
        shapes=8,
        axes=Axes(24, 768, 32),
        teacher=40_000_000,
        rates=(0.5, 1.0, 2.0),
        scale=Scale(4_000_000, 2.0, 10.0, 4096, 512, 16_384, 20_000_000, 20.0, 8.0, 32),
    ),
}


@dataclass(frozen=True)
class _Students:
    """The students of all shapes by name; losses are (seeds, documents, 2), nats and tokens of each held-out document.

    ``equal`` are the names of shapes at equal bytes, from the fewest FLOPs per token to the most; the planned shape is beside
    them. ``losses`` are at equal tokens, ``at_flops`` at equal training FLOPs.
    """

    work: TrainedLadder
    shapes: Mapping[str, Shape]
    equal: Sequence[str]
    flops: Mapping[str, float]
    rates: BestRates
    losses: Mapping[str, np.ndarray]
    at_flops: Mapping[str, np.ndarray]
    tokens_at_flops: Mapping[str, int]
    seconds: Mapping[str, float]

    def order(self, losses: Mapping[str, np.ndarray]) -> Order:
        """How the order of FLOPs is that of quality."""
        rows = [losses[name] for name in self.equal]
        return Order(rank_correlation(rows, [self.flops[name] for name in self.equal]), gain(rows[0], rows[-1]))

    def retained(self, name: str) -> float:
        """The share of the teacher's nats below chance, which is that of all tokens alike, that a student has below it too."""
        chance, teacher = log(self.work.vocab), self.work.teacher(self.work.teachers[0].name)["loss"]
        return float((chance - mean(self.losses[name]).value) / (chance - teacher))


def run(context: RecipeContext) -> Outcome:
    """Counts the paper's space, trains students of equal bytes, and judges all claims."""
    size = SIZES[context.scale]
    exact, counted = _exact(size, context.seed)
    students = _trained(context, size)
    orders = {"tokens": students.order(students.losses), "training FLOPs": students.order(students.at_flops)}
    most = students.equal[-1]
    over = gain(students.losses[PLANNED], students.losses[most])
    slower = students.seconds[PLANNED] / students.seconds[most]
    retained = (students.retained(most), students.retained(PLANNED))
    judged = (
        *exact,
        judge_proxy(orders["tokens"], seeds=context.seeds),
        judge_compute(orders["training FLOPs"], seeds=context.seeds),
        judge_choice(over, retained, slower, seeds=context.seeds),
    )
    figure = context.out / "compressor.png"
    quality = {_label(students, name): mean(students.losses[name]) for name in students.shapes}
    draw_frontier(
        quality,
        {_label(students, name): students.flops[name] for name in students.shapes},
        figure,
        axis="FLOPs per token",
    )
    shown = "Held-out loss of students of equal bytes by FLOPs per token, at equal tokens."
    found = {f"at_equal_{name.replace(' ', '_')}": vars(order) for name, order in orders.items()}
    numbers = _numbers(students) | {"space": counted, "most_flops_over_planned_nats": vars(over)}
    numbers |= {name: {part: vars(one) for part, one in order.items()} for name, order in found.items()}
    return Outcome(_ours(students, size, context), judged, numbers, {figure: shown}, students.work.cpu_seconds())


def _exact(size: Size, seed: int) -> tuple[tuple[ClaimResult, ...], dict[str, Any]]:
    """The claims about the paper's space, and its fittest points with what its search finds."""
    best = {megabytes: fittest(megabytes) for megabytes in PUBLISHED}
    found = {
        megabytes: [searched(megabytes, seed + number) for number in range(size.searches)] for megabytes in PUBLISHED
    }
    shares = {megabytes: share_found(megabytes, best[megabytes], points) for megabytes, points in found.items()}
    judged = (*(judge_published(megabytes, one) for megabytes, one in best.items()), judge_search(shares))
    numbers = {
        str(megabytes): {
            "fittest": vars(best[megabytes]),
            "found": vars(shares[megabytes]),
            "fitness_of_searches": [float(one.fitness(megabytes)) for one in found[megabytes]],
        }
        for megabytes in PUBLISHED
    }
    return judged, numbers


def share_found(megabytes: float, best: Encoder, found: Sequence[Encoder]) -> Interval:
    """The share of points that are as fit as the fittest."""
    return wilson(sum(bool(one.fitness(megabytes) >= best.fitness(megabytes)) for one in found), len(found))


def rank_correlation(losses: Sequence[Float[np.ndarray, "seeds documents 2"]], flops: Sequence[float]) -> Interval:
    """Spearman's correlation of FLOPs with quality over shapes: the mean over seeds, with its interval over both."""
    columns = np.concatenate([np.stack([one[..., 0] for one in losses], -1), losses[0][..., 1:]], -1)
    by_flops = np.argsort(np.argsort(flops))
    middle = (len(flops) - 1) / 2

    def spearman(total: np.ndarray) -> np.ndarray:
        quality = -total[..., :-1] / total[..., -1:]
        ranks = quality.argsort(-1).argsort(-1)
        products: np.ndarray = ((ranks - middle) * (by_flops - middle)).sum(-1, keepdims=True)
        return products / ((by_flops - middle) ** 2).sum()

    return bootstrap(spearman, columns)[0].within(-1.0, 1.0)


def _trained(context: RecipeContext, size: Size) -> _Students:
    """Trains the teacher and all students."""
    work = train_ladder(context, size.scale, students=[], teachers=[size.teacher])
    teacher = work.teachers[0]
    anatomy = Anatomy.of(work.config(teacher.shape))
    budget = Budget(size.budget, STORED)
    length = size.scale.length
    equal = {
        _title(shape): shape for shape in at_equal_bytes(anatomy, budget, size.axes, number=size.shapes, length=length)
    }
    shapes = {PLANNED: balanced_within(anatomy, budget), **equal}
    seeds = range(context.seed, context.seed + context.seeds)

    def cell(name: str, seed: int, rate: float = 1.0) -> CellPlan:
        tokens = size.scale.student_tokens
        return CellPlan(f"{name}-seed{seed}", shapes[name], teacher.name, "fresh", seed, rate, tokens, _OBJECTIVE)

    rates = work.rates({name: cell(name, seeds.stop) for name in shapes}, size.rates)
    cells = {name: [cell(name, seed, rates[name]) for seed in seeds] for name in shapes}
    flops = {name: work.forward_flops(shape) for name, shape in shapes.items()}
    fewest = flops[next(iter(equal))]
    tokens = {name: work.whole_steps(size.scale.student_tokens * fewest / flops[name]) for name in equal}
    at_flops = {name: [_shorter(one, tokens[name]) for one in cells[name]] for name in equal}
    work.train(list(dict.fromkeys(one for rows in (cells, at_flops) for row in rows.values() for one in row)))
    work.tidy()

    def losses(rows: Mapping[str, Sequence[CellPlan]]) -> dict[str, np.ndarray]:
        return {name: np.array([work.documents(one.name).T for one in row]) for name, row in rows.items()}

    seconds = dict(zip(shapes, speed_of(context, work, [*shapes.values()]), strict=True))
    return _Students(work, shapes, [*equal], flops, rates, losses(cells), losses(at_flops), tokens, seconds)


def _shorter(cell: CellPlan, tokens: int) -> CellPlan:
    """A student as in a cell on fewer tokens; the cell itself where it has no more."""
    return cell if tokens >= cell.tokens else replace(cell, name=f"{cell.name}-flops", tokens=tokens)


def _title(shape: Shape) -> str:
    return f"{shape.layers}x{shape.hidden}-ffn{shape.ffn}"


def _label(students: _Students, name: str) -> str:
    return f"planned, {_title(students.shapes[name])}" if name == PLANNED else name


def _ours(students: _Students, size: Size, context: RecipeContext) -> str:
    """What was done here, in a few sentences."""
    work = students.work
    teacher = work.teacher(work.teachers[0].name)
    return (
        f"All points of the paper's space were counted, and its search was repeated {size.searches} times for each target. "
        f"{len(students.equal)} shapes of decoders of {size.budget:,} bytes in {STORED}, and the one that is planned for them, "
        f"learned {count(size.scale.student_tokens)} tokens from a teacher of {count(teacher['parameters'])} parameters, from "
        f"random weights and with {context.seeds} seeds; the shapes again on as many tokens as the training FLOPs of the "
        f"cheapest buy. Of {students.rates.number} learning rates each shape had its best, with another "
        f"seed.{students.rates.doubt}"
    )


def _numbers(students: _Students) -> dict[str, Any]:
    """The figures of each shape and of the teacher, as JSON."""
    work = students.work
    return {
        "teacher": work.teacher(work.teachers[0].name),
        "chance_nats": log(work.vocab),
        "shapes": {name: str(shape) for name, shape in students.shapes.items()},
        "flops_per_token": students.flops,
        "seconds_per_token": students.seconds,
        "lr_factor": students.rates,
        "loss_nats": {name: vars(mean(found)) for name, found in students.losses.items()},
        "retained": {name: students.retained(name) for name in students.shapes},
        "tokens_at_equal_flops": students.tokens_at_flops,
        "loss_nats_at_equal_flops": {name: vars(mean(found)) for name, found in students.at_flops.items()},
    }


def _fitness(seen: str) -> str:
    """The fitness of both configurations, with their layers and widths, in a short cell."""
    found = re.findall(r"(\w+): (\d+ layers, width \d+).*?fitness ([\d.]+)", seen)
    return "; ".join(f"{name}: {shape}, fitness {value}" for name, shape, value in found)


RECIPE = Recipe(
    name="compressor",
    title="Compressor: a configuration of most FLOPs for given bytes",
    paper="Compressing Pre-trained Models of Code into 3 MB, arXiv 2208.07120",
    claim="A genetic search finds the configuration of a student of 3 MB, by the most FLOPs at that size. Distilled from random "
    "weights, it keeps 96 to 99 % of its teacher's quality on two tasks of code.",
    differences=(
        "The search space is counted whole; the search itself is run beside it, as the released code has it.",
        "Decoders of thousands of parameters on a text in place of encoders that classify code: the loss on held-out text is the "
        "quality, and shares of it are of the nats below those of all tokens alike.",
        "All students have one tokenizer, so that only the network differs; there the vocabulary is an axis.",
        "Forward KL at temperature 1, without hard labels; there at temperature 10.",
        "FLOPs count the head as a product, and the embedding as memory; there the embedding is a product too.",
        "Each shape has its own learning rate; biases and norms are trained, which the released optimiser leaves out.",
    ),
    run=run,
    scales=SIZES,
    short={
        "for 3 MB": Short("The published 3 MB configuration is the best of its space", _fitness),
        "for 25 MB": Short("The published 25 MB configuration is the best of its space", _fitness),
        "for 50 MB": Short("The published 50 MB configuration is the best of its space", _fitness),
        "genetic search finds": Short("The genetic search finds the best of its space", r"\d+ MB: [^;]+"),
        "more FLOPs is the better": Short("More FLOPs at equal bytes make a better student", "rank correlation [^;]+"),
        "order stays at equal training": Short("The order stays at equal training FLOPs", "rank correlation [^;]+"),
        "What the fitness chooses": Short("The fitness chooses better than a balanced shape", "^[^;]+"),
    },
)
