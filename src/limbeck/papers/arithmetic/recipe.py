"""Learning sums by their format: samples until unseen sums are correct, in four formats of the same sums.

The plain format is measured twice: after as many steps as the others and after twice as many. So the gain of another format is
not that of more training. Tokens are reported beside samples, since a scratchpad is longer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from limbeck.errors import BadSetting
from limbeck.papers.arithmetic.completion import by_rank_two, by_sums
from limbeck.papers.arithmetic.sums import Cell, train, training_pairs, unseen_pairs
from limbeck.papers.lab.plots import Line, draw_by_samples
from limbeck.papers.lab.rates import TUNING, best_rates
from limbeck.papers.lab.recipe import (
    ClaimResult,
    Outcome,
    Recipe,
    RecipeContext,
    Short,
    Verdict,
    of_seeds,
    with_failures,
)
from limbeck.papers.lab.trainings import Trainings, read_after
from limbeck.probes.interval import wilson
from limbeck.report.words import interval, share

LEARNED = 0.95  # accuracy from which a format is learned
FEWER = 0.5  # share of plain's samples that a better format needs at most
HALFWAY = 0.5  # accuracy at which the jumps of learning and completion are compared
APART = 2.0  # factor of samples within which the two jumps are equal
NOTHING = 0.05  # accuracy on longer sums that counts as none

PLAIN, TWICE = "plain", "plain, twice the steps"
SCRATCHPADS = ("simplified", "detailed")  # these train for twice the steps, as plain does in its second reading
By = Mapping[int, Sequence[float]]  # accuracies by samples, one for each seed


@dataclass(frozen=True)
class Scale:
    """The trainings of a scale: each format on each number of ``samples`` with all seeds. ``tuned`` samples choose rates.

    Plain is also trained on ``fewer`` samples, to find the jump of its learning. There it is measured once, after as many steps
    as the others. The table is completed from ``entries`` as well, at little cost.
    """

    forms: tuple[str, ...]
    samples: tuple[int, ...]
    fewer: tuple[int, ...]
    entries: tuple[int, ...]
    steps: int
    rates: tuple[float, ...]
    tuned: int
    tuning_steps: int
    cell: Cell


_CELL = Cell("", PLAIN, 0, (), 0.0, 0)
SCALES = {
    "smoke": Scale(
        ("plain", "reverse", "simplified"), (50, 100), (25,), (), 4, (1e-3,), 50, 0, replace(_CELL, width=16, tested=20),
    ),
    "small": Scale(
        ("plain", "reverse", "simplified"), (2000, 4000), (500, 1000), (3000, 3500, 4500, 5000, 6000, 8000), 1400, (1e-3, 3e-3),
        2000, 400, _CELL,
    ),
    "gpu": Scale(
        ("plain", "reverse", "simplified", "detailed"), (500, 1000, 2000, 3000, 5000, 10_000), (),
        (4000, 6000, 8000), 5000, (1e-3,), 2000, 0,
        replace(_CELL, width=384, layers=6, heads=6, step_tokens=16_384, padded=False, whole_line=True),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Found:
    """Results of each format by samples and seed, shares of sums from completion, and the learning rates."""

    scale: Scale
    rates: Mapping[str, float]
    results: Mapping[str, Mapping[int, Sequence[Mapping[str, Any]]]]
    completed: Mapping[str, By]

    def accuracy(self, form: str, *, times: int = 1) -> By:
        """The share of correct unseen sums after the format's steps, or ``times`` as many, if all are trained."""
        return self._accuracy(form, self.scale.samples, times)

    def every_accuracy(self, form: str) -> By:
        """The accuracy after the format's steps, for all its numbers of samples."""
        return self._accuracy(form, samples_of(self.scale, form), 1)

    def trained(self, form: str, samples: Iterable[int], *, times: int = 1) -> list[dict[str, Any]]:
        """The results of all seeds after the format's steps, or ``times`` as many."""
        steps = times * steps_of(self.scale, form)
        return [one for n in samples for one in read_after(self.results[form][n], steps)]

    def tokens(self, form: str) -> Mapping[int, float]:
        """The tokens of a training set by samples, as the mean over seeds."""
        return {n: sum(one["tokens"] for one in found) / len(found) for n, found in self.results[form].items()}

    def _accuracy(self, form: str, samples: Iterable[int], times: int) -> By:
        at = str(times * steps_of(self.scale, form))
        return {n: [_share(one["by_steps"][at]) for one in self.results[form][n]] for n in samples}


@dataclass(frozen=True)
class Jump:
    """Where accuracy exceeds one half: with more than ``low`` samples and at most ``high``, which are neighbours in the grid."""

    low: float
    high: float

    def __str__(self) -> str:
        if math.isinf(self.high):
            return f"more than {self.low:,.0f}"
        return f"{self.low:,.0f} to {self.high:,.0f}" if self.low else f"at most {self.high:,.0f}"

    def near(self, other: Jump) -> bool:
        """Whether both are within a factor of two for all values in their bounds."""
        return self.high <= APART * other.low and other.high <= APART * self.low

    def far(self, other: Jump) -> bool:
        """Whether both differ by more than a factor of two for all values in their bounds."""
        return self.high * APART <= other.low or other.high * APART <= self.low


def steps_of(scale: Scale, form: str) -> int:
    """The number of steps of a format's first measurement. A scratchpad has several times the tokens of a sum."""
    return scale.steps * (2 if form in SCRATCHPADS else 1)


def samples_of(scale: Scale, form: str) -> tuple[int, ...]:
    """The numbers of samples of a format, ascending."""
    return tuple(sorted({*scale.fewer, *scale.samples})) if form == PLAIN else scale.samples


def run(context: RecipeContext) -> Outcome:
    """Trains the grid, completes the table, and judges the claims.

    Raises BadSetting if ``context`` has data, since the sums are generated.
    """
    if context.data is not None:
        raise BadSetting(f"--data {context.data}: arithmetic draws its own sums. Leave --data out.")
    trainings = Trainings(context, train)
    found = _found(trainings, context)
    scale = found.scale
    plain, twice = found.accuracy(PLAIN), found.accuracy(PLAIN, times=2)
    plains = {PLAIN: found.trained(PLAIN, scale.samples), TWICE: found.trained(PLAIN, scale.samples, times=2)}
    judged = (
        *(
            with_failures(
                judge_samples(form, found.accuracy(form), plain, twice, tokens=_tokens(found, form)),
                {form: found.trained(form, scale.samples)} | plains,
            )
            for form in scale.forms
            if form != PLAIN
        ),
        with_failures(
            judge_completion(found.every_accuracy(PLAIN), found.completed["rank two"]),
            {PLAIN: found.trained(PLAIN, samples_of(scale, PLAIN))},
        ),
        with_failures(
            judge_length(*_longer(found)), {form: found.trained(form, [max(scale.samples)]) for form in scale.forms}
        ),
    )
    judged = tuple(of_seeds(one, context.seeds) for one in judged)
    return Outcome(_ours(found, context), judged, _numbers(found), _figures(found, context), trainings.cpu_seconds())


def learned_at(accuracies: By) -> list[float]:
    """The smallest number of samples with which each seed learns the format; infinite if none is enough."""
    seeds = len(next(iter(accuracies.values())))
    return [
        min((float(n) for n, found in accuracies.items() if found[seed] >= LEARNED), default=math.inf)
        for seed in range(seeds)
    ]


def jump_at(accuracies: By) -> list[Jump]:
    """The neighbouring numbers of samples between which accuracy of each seed first exceeds one half.

    If the smallest number is enough, the jump is at or below it. If the largest is not, the jump is above it.
    """
    sizes = sorted(accuracies)
    return [_jump([(n, accuracies[n][seed]) for n in sizes]) for seed in range(len(accuracies[sizes[0]]))]


def judge_samples(form: str, found: By, plain: By, twice: By, *, tokens: str) -> ClaimResult:
    """Judges whether a format needs at most half of plain's samples, also if plain trains twice as long."""
    ours, theirs, longer = learned_at(found), learned_at(plain), learned_at(twice)
    fewer = [
        math.isfinite(a) and a <= FEWER * least if math.isfinite(least := min(b, c)) else a <= FEWER * max(found)
        for a, b, c in zip(ours, theirs, longer, strict=True)
    ]
    verdict: Verdict = "inconclusive"
    if all(fewer):
        verdict = "confirmed"
    elif not any(fewer) and all(min(plain) < min(b, c) < math.inf for b, c in zip(theirs, longer, strict=True)):
        verdict = "refuted"
    return ClaimResult(
        f"Three-digit sums written in the format {form} are learned from half of plain's samples or fewer.",
        f"Learned: {LEARNED:.0%} of unseen sums or more. Confirmed: in every seed {form} is learned from at most {FEWER:.0%} "
        "of the samples that plain takes, of those tried, in either of its two readings; "
        f"where plain is not learned at all, from at most {FEWER:.0%} of the most samples. Refuted: in no seed, though plain "
        "is learned in each, and from more than the fewest samples tried. Inconclusive otherwise: where plain is learned from "
        "the fewest, half of them might be enough for another format.",
        verdict,
        f"samples by seed: {form} {_each(ours)}; plain {_each(theirs)}; plain, twice the steps, {_each(longer)}. Accuracy: "
        f"{form} {_by_samples(found)}; plain {_by_samples(plain)}; twice the steps {_by_samples(twice)}. {tokens}",
    )


def judge_completion(plain: By, completed: By) -> ClaimResult:
    """Judges whether plain sums are learned where the table of rank 2 can be completed."""
    ours, theirs = jump_at(plain), jump_at(completed)
    verdict: Verdict = "inconclusive"
    if all(a.near(b) for a, b in zip(ours, theirs, strict=True)):
        verdict = "confirmed"
    elif all(a.far(b) for a, b in zip(ours, theirs, strict=True)):
        verdict = "refuted"
    return ClaimResult(
        "Plain sums are learned where the table of all sums, of rank 2, can be completed from the same entries.",
        f"Confirmed: in every seed the samples at which plain passes {HALFWAY:.0%} and those at which completion does are "
        f"within a factor of {APART:.0f}. Refuted: in every seed they are further apart. Where between two neighbours of the "
        "samples tried it passes is not known, nor below the fewest or beyond the most; a seed counts for either only if it "
        "does wherever in these bounds the two are. Inconclusive otherwise.",
        verdict,
        f"samples by seed: plain {_each(ours)}; completion {_each(theirs)}. Accuracy: plain {_by_samples(plain)}; completion "
        f"{_by_samples(completed)}.",
    )


def judge_length(longer: Mapping[str, Sequence[tuple[int, int]]], same: Mapping[str, Sequence[float]]) -> ClaimResult:
    """Judges whether models of the most samples answer sums of one more digit. It uses right and n of each format and seed.

    ``same`` is their accuracy on sums of the training length. A format with less than half there is not learned.
    """
    intervals = {form: [wilson(right, n) for right, n in found] for form, found in longer.items()}
    learned = {form: found for form, found in intervals.items() if min(same[form]) >= HALFWAY}
    verdict: Verdict = "inconclusive"
    if any(all(seed.low > NOTHING for seed in found) for found in learned.values()):
        verdict = "refuted"
    elif learned and all(seed.high <= NOTHING for found in learned.values() for seed in found):
        verdict = "confirmed"
    return ClaimResult(
        "Sums of a digit more than was trained on are not answered, in any format.",
        f"Counted are formats of which every seed answers {HALFWAY:.0%} of the sums as long as in training. Confirmed: of sums "
        f"with a digit more every seed of each answers {NOTHING:.0%} or fewer, by the whole of its own 95 % interval over sums. "
        "Refuted: of one format every seed answers more, by the whole of its own. Inconclusive otherwise, and where no format "
        "is counted.",
        verdict,
        "; ".join(
            f"{form} {' / '.join(interval(seed, '.1%') for seed in found)} (as long as in training {_each_share(same[form])}"
            f"{'' if form in learned else ', not counted'})"
            for form, found in intervals.items()
        )
        + f"; n = {next(iter(intervals.values()))[0].n:,} sums a seed.",
    )


def _found(trainings: Trainings, context: RecipeContext) -> Found:
    scale = SCALES[context.scale]
    rates = _rates(trainings, scale, context.seed)
    seeds = range(context.seed, context.seed + context.seeds)
    grid = {
        (form, n, seed): _cell(scale, form, n, rates[form], seed)
        for seed in seeds
        for form in scale.forms
        for n in samples_of(scale, form)
    }
    trainings.do(grid.values())
    results = {
        form: {n: [trainings.result(grid[form, n, seed]) for seed in seeds] for n in samples_of(scale, form)}
        for form in scale.forms
    }
    return Found(scale, rates, results, _completed(scale, seeds))


def _cell(scale: Scale, form: str, samples: int, rate: float, seed: int) -> Cell:
    first = steps_of(scale, form)
    steps = (first, 2 * first) if form == PLAIN and samples in scale.samples else (first,)
    return replace(
        scale.cell, name=f"{form}-n{samples}-seed{seed}", form=form, samples=samples, steps=steps, rate=rate, seed=seed
    )


def _rates(trainings: Trainings, scale: Scale, seed: int) -> dict[str, float]:
    """The rate of each format with which a shorter training has the lowest loss on the selection sums."""
    tried = {
        form: {
            rate: replace(
                _cell(scale, form, scale.tuned, rate, seed + TUNING),
                name=f"{form}-rate{rate:.1e}",
                steps=(scale.tuning_steps,),
            )
            for rate in scale.rates
        }
        for form in scale.forms
    }
    return best_rates(trainings, tried, lambda result: result["nats"])


def _completed(scale: Scale, seeds: Iterable[int]) -> Mapping[str, By]:
    """The shares of the same unseen sums that follow from the same training sets."""
    found: dict[str, dict[int, list[float]]] = {"rank two": {}, "a number a row and a column": {}}
    digits, n = scale.cell.digits, scale.cell.tested
    for samples in sorted({*scale.fewer, *scale.samples, *scale.entries}):
        rules = zip(found.values(), (by_rank_two, by_sums), strict=True)
        sets = [training_pairs(seed, samples, digits=digits) for seed in seeds]
        asked = [unseen_pairs(seed, known, digits=digits, n=n) for seed, known in zip(seeds, sets, strict=True)]
        for shares, rule in rules:
            shares[samples] = [rule(known, some) / n for known, some in zip(sets, asked, strict=True)]
    return found


def _jump(points: Sequence[tuple[int, float]]) -> Jump:
    below = 0.0
    for samples, reached in points:
        if reached >= HALFWAY:
            return Jump(below, samples)
        below = samples
    return Jump(below, math.inf)


def _share(tested: Mapping[str, int]) -> float:
    return tested["right"] / tested["n"]


def _longer(found: Found) -> tuple[dict[str, list[tuple[int, int]]], dict[str, Sequence[float]]]:
    most, scale = max(found.scale.samples), found.scale
    tested = {
        form: [one["by_steps"][str(steps_of(scale, form))] for one in found.results[form][most]] for form in scale.forms
    }
    longer = {form: [(one["longer_right"], one["n"]) for one in rows] for form, rows in tested.items()}
    return longer, {form: found.accuracy(form)[most] for form in found.scale.forms}


def _tokens(found: Found, form: str) -> str:
    """The tokens of a sample relative to a plain one, as text."""
    n = max(found.scale.samples)
    ours, plain = found.tokens(form)[n] / n, found.tokens(PLAIN)[n] / n
    return f"A sample takes {ours:.1f} tokens, {ours / plain:.1f} times plain's {plain:.1f}."


def _each(values: Sequence[float | Jump]) -> str:
    return " / ".join(
        str(value) if isinstance(value, Jump) else f"{value:,.0f}" if math.isfinite(value) else "never"
        for value in values
    )


def _each_share(values: Sequence[float]) -> str:
    return " / ".join(share(value, digits=1) for value in values)


def _by_samples(found: By) -> str:
    return ", ".join(f"{_each_share(values)} at {n:,}" for n, values in found.items())


def _ours(found: Found, context: RecipeContext) -> str:
    scale, cell = found.scale, found.scale.cell
    first = found.results[PLAIN][scale.samples[0]][0]
    rates = ", ".join(f"{form} {rate:.0e}" for form, rate in found.rates.items())
    fewer = f" (plain also on {', '.join(f'{n:,}' for n in scale.fewer)}, read once)" if scale.fewer else ""
    return (
        f"Decoders of {cell.layers} layers, width {cell.width} ({first['parameters']:,} parameters), one token a character, were "
        f"trained from scratch on {', '.join(f'{n:,}' for n in scale.samples)}{fewer} different sums of up to {cell.digits} "
        f"digits, balanced in digits and carries and the same for all formats; up to {scale.steps:,} steps of "
        f"{cell.step_tokens:,} tokens, plain and scratchpads on to {2 * scale.steps:,}; {context.seeds} seeds. Rates, chosen by "
        f"one rule on another seed: {rates}. "
        f"Each was asked {cell.tested:,} unseen sums of uniform numbers below {10**cell.digits:,}, and as many with a digit "
        "more, and wrote by itself, the likeliest token each time; a number counts if all of it is right, and chance is below "
        "0.1 %."
    )


def _numbers(found: Found) -> dict[str, Any]:
    return {
        "rates": dict(found.rates),
        "steps": found.scale.steps,
        "formats": {form: {str(n): list(results) for n, results in by.items()} for form, by in found.results.items()},
        "completed": {rule: {str(n): list(shares) for n, shares in by.items()} for rule, by in found.completed.items()},
    }


def _figures(found: Found, context: RecipeContext) -> dict[Any, str]:
    accuracies = {form: found.every_accuracy(form) for form in found.scale.forms}
    lines = {form: Line(tuple(by), tuple(by.values())) for form, by in accuracies.items()}
    twice = found.accuracy(PLAIN, times=2)
    others = {TWICE: Line(tuple(twice), tuple(twice.values()), dashed=True)}
    completed = {
        f"completed by {rule}": Line(tuple(by), tuple(by.values()), dashed=True) for rule, by in found.completed.items()
    }
    by_samples, by_tokens = context.out / "samples.png", context.out / "tokens.png"
    draw_by_samples(lines | others | completed, "samples", by_samples)
    costs = {form: Line(tuple(found.tokens(form).values()), line.values) for form, line in lines.items()}
    draw_by_samples(costs, "tokens of the training set", by_tokens)
    return {
        by_samples: "Unseen three-digit sums answered right by samples; lines are means, points seeds. Dashed: plain with "
        "twice the steps, and the share of the same sums that follow from the table's known entries by rule.",
        by_tokens: "The same by tokens of the training set.",
    }


_COUNTED = (
    r"(?:^|(?<=; ))\w+ [^;]+?(?= \(as long as in training [^),]*\))"  # formats of which sums as long are answered
)
_SAMPLES = "^[^;]+; [^;.]+"  # of what was seen, the two that are compared
RECIPE = Recipe(
    name="arithmetic",
    title="Sums by how they are written",
    paper="Teaching Arithmetic to Small Transformers, arXiv 2307.03381",
    claim="Small transformers learn addition or not by how a sum is written: with the units first, or with digits and carries "
    "spelled out, a few thousand samples suffice where plain sums need many more. Plain sums are learned where the table of all "
    "sums, of rank 2, can be completed. No format carries over to longer numbers.",
    differences=(
        "At scale small two layers of width 96 and hundreds of steps, where the paper has six of width 384 and 5,000; the rate "
        "is constant instead of a cosine, weight decay is 0.1, there is no dropout.",
        "At scale small the loss is on the answer alone, which helps plain sums most, since nothing is spent on guessing "
        "digits of the question; at scale gpu it is on the whole line, as in the paper. Lines are rows of their own, where the "
        "paper cuts windows out of all lines joined.",
        "At scale small numbers in the question have zeros in front, so that all have three digits; the paper does so in a "
        "control, and plain sums gain by it.",
        "Positions are rotary, the paper's learned; longer sums put no token at a place never trained.",
        "Answers are the likeliest tokens; the paper samples at temperature 0.8 by default.",
        "Samples are 1 % one-digit and 9 % two-digit sums, carries alike in each; the paper takes all 100 one-digit sums. Tested "
        "sums are not in the training set in either order.",
        "Completion is by the determinant of 3 x 3 blocks, which is right for rank 2, and, beside it, by the rule that an "
        "entry is a number of its row plus one of its column; the paper's notebook fills 2 x 2 blocks by D = B C / A, which is "
        "of rank 1.",
        "A step has as many tokens in all formats, so a step of a scratchpad has fewer sums; scratchpads train for twice the "
        "steps of the others, which plain is given too and is judged by as well.",
    ),
    run=run,
    scales=SCALES,
    short={
        "format reverse": Short("Units first need half of plain's samples", _SAMPLES),
        "format simplified": Short("A scratchpad needs half of plain's samples", _SAMPLES),
        "format detailed": Short("A detailed scratchpad needs half of plain's samples", _SAMPLES),
        "of rank 2": Short("Sums are learned where their table can be completed", _SAMPLES),
        "a digit more": Short("Longer sums are not answered", _COUNTED),
    },
)
