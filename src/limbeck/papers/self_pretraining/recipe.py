"""Self-pretraining: pretraining on a task's own inputs, and the remaining gap between architectures.

Pretraining uses no other data and no further steps. A training from scratch with twice the steps is the control, so that a gain
is not due to more steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from limbeck.errors import BadSetting
from limbeck.papers.lab.plots import Line, draw_by_arm, draw_by_samples
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
from limbeck.papers.self_pretraining.expressions import PRETRAINED, Cell, train
from limbeck.probes.interval import Interval, bootstrap
from limbeck.report.words import interval, share

GAIN = 0.05  # accuracy that the Transformer should gain by pretraining
SCRATCH, TWICE = "scratch", "scratch, twice the steps"
SELF = {f"{way} pretraining": way for way in PRETRAINED if way != "no"}
ARMS = {"Transformer": "attention", "S4D": "s4d"}

Right = Float[np.ndarray, "seeds lists"]  # 1 where a list is evaluated correctly
Which = tuple[str, str]  # a model and its start


@dataclass(frozen=True)
class Scale:
    """The trainings of a scale. Half of ``steps`` are pretraining in arms that have it. Fewer labels are shown, not judged."""

    steps: int
    layers: int
    rates: tuple[float, ...]
    tuning_steps: int
    fewer_labels: tuple[int, ...]
    cell: Cell


_CELL = Cell("", (), "no", 0, (), 0.0, 0)
SCALES = {
    "smoke": Scale(4, 1, (1e-3,), 0, (20,), replace(_CELL, lists=60, labelled=60, held_out=20, tested=20, width=16)),
    "small": Scale(700, 3, (1e-3, 3e-3), 200, (), _CELL),
    "gpu": Scale(
        40_000, 6, (3e-4, 1e-3), 4000, (4800, 24_000),
        replace(
            _CELL, lists=96_000, labelled=96_000, held_out=2000, tested=2000, width=128, heads=8, depth=10, items=10,
            shortest=100, longest=500,
        ),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Found:
    """The results of each model and start by seed, those with fewer labels, and the learning rates."""

    scale: Scale
    rates: Mapping[Which, float]
    results: Mapping[Which, Sequence[Mapping[str, Any]]]
    fewer: Mapping[tuple[Which, int], Sequence[Mapping[str, Any]]]

    def right(self, model: str, start: str) -> Right:
        """Which test lists are correct, by seed, at the number of steps that selection lists chose."""
        steps = self.steps(start)
        return np.array([one["by_steps"][str(steps)]["right"] for one in self.trained(model, start)], dtype=float)

    def trained(self, model: str, start: str) -> list[dict[str, Any]]:
        """The results behind `right`, at that number of steps."""
        return read_after(self.results[model, SCRATCH if start == TWICE else start], self.steps(start))

    def steps(self, start: str) -> int:
        """The number of steps on values after which a start is measured."""
        if start == TWICE:
            return 2 * self.scale.steps
        return self.scale.steps if start == SCRATCH else self.scale.steps // 2

    def selected(self, model: str) -> str:
        """The pretraining with the best accuracy on selection lists, over all seeds."""
        return max(SELF, key=lambda start: self.held_out(model, start))

    def held_out(self, model: str, start: str) -> float:
        """The mean accuracy on the lists of selection."""
        return float(np.mean([_last(one)["held_out"] for one in self.results[model, start]]))


def run(context: RecipeContext) -> Outcome:
    """Trains all arms and judges the claims. Raises BadSetting if ``context`` has data, since the lists are generated."""
    if context.data is not None:
        raise BadSetting(f"--data {context.data}: self-pretraining draws its own lists. Leave --data out.")
    trainings = Trainings(context, train)
    found = _found(trainings, context)
    rows = {(model, start): found.right(model, start) for model in ARMS for start in (SCRATCH, TWICE, *SELF)}
    ways = {model: found.selected(model) for model in ARMS}
    guess = _guess(found)
    transformer, s4d = ARMS
    scratch, twice = (transformer, SCRATCH), (transformer, TWICE)
    pretrained, ahead, pretrained_s4d = (transformer, ways[transformer]), (s4d, SCRATCH), (s4d, ways[s4d])
    judged = (
        with_failures(
            judge_gain(rows[scratch], rows[pretrained], way=ways[transformer], guess=guess),
            _trained(found, scratch, pretrained),
        ),
        with_failures(
            judge_steps(rows[twice], rows[pretrained], way=ways[transformer]), _trained(found, twice, pretrained)
        ),
        with_failures(
            judge_gap(
                (rows[scratch], rows[ahead]),
                (rows[pretrained], rows[pretrained_s4d]),
                ways=(ways[transformer], ways[s4d]),
            ),
            _trained(found, scratch, ahead, pretrained, pretrained_s4d),
        ),
    )
    return Outcome(
        _ours(found, context, guess),
        tuple(of_seeds(one, context.seeds) for one in judged),
        _numbers(found, rows, ways, guess),
        _figures(found, context, guess),
        trainings.cpu_seconds(),
    )


def accuracy(right: Right) -> Interval:
    """The share of correctly evaluated lists, with its interval over lists and seeds."""
    found = _mean(right)
    return Interval(found.value, max(0.0, found.low), min(1.0, found.high), found.n)


def difference(more: Sequence[Right], less: Sequence[Right]) -> Interval:
    """The mean accuracy of ``more`` minus that of ``less``, on the same lists and seeds."""
    return _mean(np.mean(more, 0) - np.mean(less, 0))


def judge_gain(scratch: Right, pretrained: Right, *, way: str, guess: float) -> ClaimResult:
    """Judges whether a Transformer gains when half of its steps train on the inputs only."""
    gained = difference([pretrained], [scratch])
    verdict: Verdict = "inconclusive"
    if gained.value >= GAIN and gained.low > 0:
        verdict = "confirmed"
    elif gained.high < GAIN:
        verdict = "refuted"
    return ClaimResult(
        "A Transformer that spends half of its steps on pretraining on the task's own inputs evaluates more lists than one that "
        "spends all of them on their values.",
        f"Confirmed: {100 * GAIN:.0f} points more or better, and the 95 % interval of the difference lies above 0. Refuted: "
        "the whole of it lies below that. Inconclusive otherwise. Of two ways of pretraining, the one that held-out lists "
        "select.",
        verdict,
        f"from scratch {interval(accuracy(scratch), '.1%')}, after {way} {interval(accuracy(pretrained), '.1%')}; difference "
        f"{interval(gained, '+.1%')}; always the commonest value {share(guess, digits=1)}; {_size(scratch)}.",
    )


def judge_steps(twice: Right, pretrained: Right, *, way: str) -> ClaimResult:
    """Judges whether twice the steps from scratch would give the same gain."""
    gained = difference([pretrained], [twice])
    verdict: Verdict = "confirmed" if gained.low > 0 else "refuted" if gained.high < 0 else "inconclusive"
    return ClaimResult(
        "Twice the steps from scratch do not make up for it.",
        "Confirmed: the pretrained Transformer is better than one from scratch with twice the steps of both its stages, by the "
        "whole 95 % interval. Refuted: worse, by the whole of it. Inconclusive otherwise.",
        verdict,
        f"twice the steps {interval(accuracy(twice), '.1%')}, after {way} {interval(accuracy(pretrained), '.1%')}; difference "
        f"{interval(gained, '+.1%')}; {_size(twice)}.",
    )


def judge_gap(scratch: tuple[Right, Right], pretrained: tuple[Right, Right], *, ways: tuple[str, str]) -> ClaimResult:
    """Judges whether the lead of the state space model shrinks. Each pair has the Transformer, then the state space model."""
    before, after = (difference([pair[1]], [pair[0]]) for pair in (scratch, pretrained))
    closed = difference([scratch[1], pretrained[0]], [scratch[0], pretrained[1]])  # half of the closed gap
    closed = Interval(2 * closed.value, 2 * closed.low, 2 * closed.high, closed.n)
    verdict: Verdict = "inconclusive"
    seen = f"there is no lead to shrink: {interval(before, '+.1%')}"
    if before.low > 0:
        smaller = abs(after.value) < before.value
        verdict = "confirmed" if closed.low > 0 and smaller else "refuted" if closed.high <= 0 else "inconclusive"
        seen = f"S4D leads by {interval(before, '+.1%')} from scratch, by {interval(after, '+.1%')} after pretraining"
    return ClaimResult(
        "Trained from scratch a state space model is ahead of the Transformer, and pretraining makes the gap smaller.",
        "Confirmed: S4D leads from scratch by the whole 95 % interval, its lead after pretraining is smaller by the whole of "
        "one, and no lead of the Transformer is as large. Refuted: S4D leads from scratch, and no less after pretraining. "
        "Inconclusive otherwise, and without a lead.",
        verdict,
        f"{seen}; the lead shrinks by {interval(closed, '+.1%')}; Transformer after {ways[0]}, S4D after {ways[1]}; "
        f"{_size(scratch[0])}.",
    )


def _mean(values: Right) -> Interval:
    columns = np.stack([values, np.ones_like(values)], -1)
    return bootstrap(lambda total: total[..., :1] / total[..., 1:], columns)[0]


def _found(trainings: Trainings, context: RecipeContext) -> Found:
    scale = SCALES[context.scale]
    starts = {SCRATCH: "no"} | SELF
    which = [(model, start) for model in ARMS for start in starts]
    rates = _rates(trainings, scale, which, context.seed)
    seeds = range(context.seed, context.seed + context.seeds)
    cells = {
        (arm, labelled): [_cell(scale, arm, rates[arm], seed, labelled) for seed in seeds]
        for labelled in (scale.cell.labelled, *scale.fewer_labels)
        for arm in which
    }
    trainings.do(cell for row in cells.values() for cell in row)
    results = {key: [trainings.result(cell) for cell in row] for key, row in cells.items()}
    judged = {arm: results[arm, scale.cell.labelled] for arm in which}
    return Found(scale, rates, judged, {key: found for key, found in results.items() if key[1] in scale.fewer_labels})


def _cell(scale: Scale, arm: Which, rate: float, seed: int, labelled: int) -> Cell:
    """A training. From scratch, it is measured after its steps and twice as many; after pretraining, at the same total."""
    model, start = arm
    half = scale.steps // 2
    return replace(
        scale.cell,
        name=f"{model}-{start}-l{labelled}-seed{seed}".lower().replace(" ", "-"),
        mixers=(ARMS[model],) * scale.layers,
        pretrained=SELF.get(start, "no"),
        pretraining=half if start in SELF else 0,
        steps=(half,) if start in SELF else (scale.steps, 2 * scale.steps),
        rate=rate,
        seed=seed,
        labelled=labelled,
    )


def _rates(trainings: Trainings, scale: Scale, arms: Sequence[Which], seed: int) -> dict[Which, float]:
    """The rate of each arm, from the same candidates, with which a shorter training is best on the selection lists."""
    tried = {_name(arm): {rate: _tuning_cell(scale, arm, rate, seed + TUNING) for rate in scale.rates} for arm in arms}
    best = best_rates(trainings, tried, lambda result: -_last(result)["held_out"])
    return {arm: best[_name(arm)] for arm in arms}


def _tuning_cell(scale: Scale, arm: Which, rate: float, seed: int) -> Cell:
    cell = _cell(replace(scale, steps=scale.tuning_steps), arm, rate, seed, scale.cell.labelled)
    name = f"{arm[0]}-{arm[1]}-rate{rate:.1e}".lower().replace(" ", "-")
    return replace(cell, name=name, steps=cell.steps[:1])


def _name(arm: Which) -> str:
    return ", ".join(arm)


def _trained(found: Found, *arms: Which) -> dict[str, list[dict[str, Any]]]:
    return {_name(arm): found.trained(*arm) for arm in arms}


def _last(result: Mapping[str, Any]) -> Mapping[str, Any]:
    """The best result after its first number of steps."""
    found: Mapping[str, Any] = result["by_steps"][min(result["by_steps"], key=int)]
    return found


def _guess(found: Found) -> float:
    return float(np.mean([one["commonest"] for one in found.results[next(iter(found.results))]]))


def _size(right: Right) -> str:
    return f"n = {right.shape[1]:,} lists a seed, {len(right)} seeds"


def _ours(found: Found, context: RecipeContext, guess: float) -> str:
    scale, cell = found.scale, found.scale.cell
    sizes = {model: found.results[model, SCRATCH][0]["parameters"] for model in ARMS}
    rates = "; ".join(f"{model}, {start} {rate:.0e}" for (model, start), rate in found.rates.items())
    return (
        f"Causal decoders of {scale.layers} layers, width {cell.width} ("
        + ", ".join(f"{model} {size:,} parameters" for model, size in sizes.items())
        + f"), evaluate nested lists of {cell.shortest + 1} to {cell.longest - 1} signs (depth up to {cell.depth}, 2 to "
        f"{cell.items} items) at their last bracket; {cell.lists:,} lists are trained on, {cell.held_out:,} select the step "
        f"that is reported, {cell.tested:,} others are asked about. {scale.steps:,} steps of {cell.rows} lists in all, half of "
        f"them on the lists without their values where there is pretraining; {context.seeds} seeds, each with lists of its own. "
        f"Chance is a tenth, always the commonest value {share(guess, digits=1)}. Rates, of the same ones for all, chosen on "
        f"another seed: {rates}."
    )


def _numbers(found: Found, rows: Mapping[Which, Right], ways: Mapping[str, str], guess: float) -> dict[str, Any]:
    return {
        "rates": {f"{model}, {start}": rate for (model, start), rate in found.rates.items()},
        "selected": dict(ways),
        "commonest": guess,
        "accuracy": {
            f"{model}, {start}": {"by_seed": right.mean(1).tolist(), "mean": vars(accuracy(right))}
            for (model, start), right in rows.items()
        },
        "fewer_labels": [
            {
                "arm": f"{model}, {start}",
                "labelled": labelled,
                "by_seed": [float(np.mean(_last(one)["right"])) for one in results],
            }
            for ((model, start), labelled), results in found.fewer.items()
        ],
        "trainings": [
            {
                "arm": f"{model}, {start}",
                "selected_steps": {at: best.get("step") for at, best in one["by_steps"].items()},
                "held_out": {at: best["held_out"] for at, best in one["by_steps"].items()},
                **{key: one[key] for key in ("parameters", "pretraining_nats", "trained_steps", "failed")},
            }
            for (model, start), results in found.results.items()
            for one in results
        ],
    }


def _figures(found: Found, context: RecipeContext, guess: float) -> dict[Any, str]:
    file = context.out / "steps.png"
    by_seed = {which: found.right(*which).mean(1).tolist() for which in found.results}
    twice = {f"{model}, {SCRATCH}": found.right(model, TWICE).mean(1).tolist() for model in ARMS}
    draw_by_arm(
        {
            f"{found.scale.steps:,} steps in all": {f"{model}, {start}": at for (model, start), at in by_seed.items()},
            f"{2 * found.scale.steps:,} steps": twice,
        },
        guess=guess,
        file=file,
    )
    figures = {
        file: "Lists evaluated right, pretraining counted as steps. Points are seeds, bars their means; dotted is always the "
        "commonest value."
    }
    if found.fewer:
        lines = {f"{model}, {start}": _by_labels(found, (model, start)) for model, start in found.results}
        file = context.out / "labels.png"
        draw_by_samples(lines, "lists with values", file)
        figures[file] = (
            "The same by how many lists have values; pretraining reads all of them without. Shown, not judged."
        )
    return figures


def _by_labels(found: Found, arm: Which) -> Line:
    results = {n: found.fewer[arm, n] for n in found.scale.fewer_labels} | {
        found.scale.cell.labelled: found.results[arm]
    }
    values = [[float(np.mean(_last(one)["right"])) for one in several] for several in results.values()]
    return Line(tuple(results), values, dashed=arm[0] != next(iter(ARMS)))


RECIPE = Recipe(
    name="self-pretraining",
    title="Pretraining on the task's own inputs",
    paper="Never Train from Scratch: Fair Comparison of Long-Sequence Models Requires Data-Driven Priors, arXiv 2310.02980",
    claim="Random initialisation exaggerates how far architectures are apart: pretrained on the inputs of the task itself, "
    "with the same steps in all, Transformers gain much and come level with state space models.",
    differences=(
        "Lists are short and few: the paper's ListOps has 500 to 2,000 signs and 96,000 lists, and is one of six tasks; others "
        "need texts or images that are not drawn here.",
        "Both models are causal and read the value at the last bracket. The paper's S4, and its Transformer where pretraining is "
        "masked, see both sides.",
        "Masked pretraining is infilling: the list with a tenth of its signs blank, then what the blanks held. A causal model "
        "that guesses a masked sign in place sees less than for the next sign. These rows are about an eighth longer.",
        "The state space model is S4D with the spectrum of HiPPO-LegS, in the same block as attention with the same MLP.",
        "S4D's A and step learn at the rate of their arm, up to 0.003 at scale small; in the recipe s4d, as with S4D's authors, "
        "they have 0.001 at most.",
        "Steps and lists a step are those of the other arms, half of the steps each for pretraining and training; the paper "
        "trains up to 200 epochs after pretraining, and ties compute in an appendix.",
        "Two rates are tried for each arm, in shorter trainings, and are the same in both stages; the paper tries nine settings.",
        "With fewer labels pretraining still reads all lists.",
    ),
    run=run,
    scales=SCALES,
    short={
        "spends half of its steps": Short("Half the steps on pretraining evaluate more lists", "difference [^;]+"),
        "Twice the steps": Short("Twice the steps from scratch do not make up for it", "difference [^;]+"),
        "makes the gap smaller": Short("Pretraining shrinks the lead of state spaces", "^[^;]+; [^;]+"),
    },
)
