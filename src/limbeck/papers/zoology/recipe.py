"""Associative recall by architecture: attention at a small width, gated convolutions, and mixers between them.

Separate rows end trainings and choose rates, and never the reported rows. The paper reports the best of its rates on the rows
that end its trainings. So numbers here are not maxima over trainings.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Float

from limbeck.errors import BadSetting
from limbeck.papers.lab.plots import draw_recall_by_state, draw_recall_map
from limbeck.papers.lab.recall import at
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
from limbeck.papers.zoology.grid import ARMS, ATTENTION, BASED, GATED, REPEATS, SCALES, WINDOW, WINDOWS, Found, run_grid
from limbeck.probes.interval import Interval, bootstrap, wilson
from limbeck.report.words import interval, share

Rows = Float[np.ndarray, "seeds rows"]  # correct answers in each row of the test
Results = Sequence[Mapping[str, Any]]

SOLVES = 0.99  # accuracy that counts as solved
FAILS = 0.5  # "clearly below" is below this, half of attention
NEARLY = 0.9  # a gated convolution with this accuracy refutes; those of the paper stay below
TRAINED = 0.9  # accuracy on short rows, the control, from which an arm can be trained
CLOSED = 0.8  # share of the gap that a hybrid should close; that of the paper closes 82 to 85 % on text
SLACK = 0.02  # accuracy by which a larger state may be worse
ABOVE = 0.01  # accuracy by which a state may be better than attention
GUESSED = 0.05  # margin above 1/K up to which an accuracy counts as a guess among the values of the row


def run(context: RecipeContext) -> Outcome:
    """Trains the grid and judges the claims. Raises BadSetting if ``context`` has data, since the rows are generated."""
    if context.data is not None:
        raise BadSetting(f"--data {context.data}: zoology draws its own rows. Leave --data out.")
    found = run_grid(context)
    most = found.scale.judged.most
    rows = {arm: right_of_rows(results, most) for arm, results in found.judged.items()}
    attending, window = "conv, attention", next(iter(WINDOWS))
    judged = (
        with_failures(judge_attention({arm: rows[arm] for arm in ATTENTION}, most), _trained(found, ATTENTION)),
        with_failures(
            judge_gated(
                {arm: rows[arm] for arm in GATED},
                _other_rates(found),
                _controls(found),
                most,
                width=found.scale.width,
                length=found.scale.judged.length,
            ),
            {arm: [*found.judged[arm], *found.other_rates[arm]] for arm in GATED},
        ),
        with_failures(
            judge_state([rows[arm] for arm in BASED], [rows[arm] for arm in GATED], rows[attending], most),
            _trained(found, (*BASED, *GATED, attending)),
        ),
        with_failures(
            judge_window(*inside_and_beyond(found.judged[window], most), most, seeds=context.seeds),
            _trained(found, WINDOWS),
        ),
        *(
            with_failures(
                judge_hybrid(arm, rows[arm], rows["BaseConv"], rows["attention"], most),
                _trained(found, (arm, "BaseConv", "attention")),
            )
            for arm in (attending, *REPEATS)
        ),
    )
    return Outcome(
        _ours(found, context),
        tuple(of_seeds(one, context.seeds) for one in judged),
        _numbers(found),
        _figures(found, context),
        found.cpu_seconds,
    )


def right_of_rows(results: Results, pairs: int) -> Rows:
    """The number of correct answers in each row, by seed."""
    return np.array([at(result, pairs)["right_of_row"] for result in results], dtype=float)


def accuracy(rows: Rows, pairs: int) -> Interval:
    """The share of correct answers, with its interval over rows and seeds."""
    questions = np.full_like(rows, pairs)
    found = bootstrap(lambda total: total[..., :1] / total[..., 1:], np.stack([rows, questions], -1))[0]
    return Interval(found.value, max(0.0, found.low), min(1.0, found.high), found.n)


def judge_attention(rows: Mapping[str, Rows], pairs: int) -> ClaimResult:
    """Judges whether two layers with attention solve the task with every seed."""
    worst = {arm: float(found.mean(1).min()) / pairs for arm, found in rows.items()}
    best = {arm: float(found.mean(1).max()) / pairs for arm, found in rows.items()}
    verdict: Verdict = "inconclusive"
    if min(worst.values()) >= SOLVES:
        verdict = "confirmed"
    elif min(best.values()) < SOLVES:
        verdict = "refuted"
    return ClaimResult(
        "Two layers with attention solve multi-query associative recall at a width that is no larger than the row is long.",
        f"Confirmed: every seed of attention alone (learned positions) and of attention behind a short convolution answers "
        f"{SOLVES:.0%} or more. Refuted: no seed of one of the two does. Inconclusive otherwise.",
        verdict,
        "; ".join(f"{arm} {_seeds(found, pairs)}" for arm, found in rows.items()) + f"; {_size(rows)}.",
    )


def judge_gated(
    rows: Mapping[str, Rows],
    other_rates: Mapping[str, Sequence[float]],
    controls: Mapping[str, Interval],
    pairs: int,
    *,
    width: int,
    length: int,
) -> ClaimResult:
    """Judges whether gated convolutions, trained in the same way, stay clearly below, although they can learn short rows.

    ``other_rates`` has the accuracies of each with other learning rates, of one seed.
    """
    best = {arm: max([float(found.mean(1).max()) / pairs, *other_rates[arm]]) for arm, found in rows.items()}
    verdict: Verdict = "inconclusive"
    if max(best.values()) >= NEARLY:
        verdict = "refuted"
    elif max(best.values()) < FAILS and min(c.value for c in controls.values()) >= TRAINED:
        verdict = "confirmed"
    solved = ", ".join(f"{arm} {interval(found, '.1%')}" for arm, found in controls.items())
    others = [f"{arm} {' / '.join(share(x, digits=1) for x in found)}" for arm, found in other_rates.items() if found]
    with_others = f"; with other rates, one seed: {', '.join(others)}" if others else ""
    return ClaimResult(
        f"Gated convolutions (BaseConv, Hyena, H3) of the same depth and width, {width} on rows of {length} tokens, do not learn "
        "it in as many steps at the same rates.",
        f"Confirmed: the best seed and rate of each stays below {FAILS:.0%}, and each answers {TRAINED:.0%} or more of the "
        "control, short "
        f"rows of two pairs. Refuted: one of them reaches {NEARLY:.0%}. Inconclusive otherwise, also where one fails the "
        "control, since then it may only not have trained.",
        verdict,
        "; ".join(f"{arm} {_seeds(found, pairs)}" for arm, found in rows.items())
        + f"{with_others}; guessing a value of the row {share(1 / pairs, digits=1)}; control: {solved}; {_size(rows)}.",
    )


def judge_state(based: Sequence[Rows], gated: Sequence[Rows], attention: Rows, pairs: int) -> ClaimResult:
    """Judges whether linear attention is between, and closer to attention with a larger state. ``based`` is in order of state."""
    means = [accuracy(found, pairs) for found in based]
    gained = _difference(based[-1], based[0], pairs)
    floor, ceiling = max(found.mean() for found in gated) / pairs, attention.mean() / pairs
    between = all(floor <= found.value <= ceiling + ABOVE for found in means)
    rises = all(b.value >= a.value - SLACK for a, b in pairwise(means))
    solved = means[0].low >= SOLVES  # the smallest solves the task, so nothing can rise
    verdict: Verdict = "inconclusive"
    if not solved and (gained.high <= 0 or means[-1].high < FAILS):
        verdict = "refuted"
    elif not solved and gained.low > 0 and between and rises:
        verdict = "confirmed"
    return ClaimResult(
        "Linear attention behind a short convolution (Based) lies between the two, and rises with the size of its state.",
        "Confirmed: the largest state is better than the smallest (95 % interval above 0), no step up loses more than "
        f"{100 * SLACK:.0f} points, and all lie between the best gated convolution and attention, or at most {100 * ABOVE:.0f} "
        "point above it. Refuted: the largest is no better than the smallest, or "
        f"stays below {FAILS:.0%}. Inconclusive otherwise, and where already the smallest answers {SOLVES:.0%} by its whole "
        "95 % interval, so that nothing can rise.",
        verdict,
        "; ".join(f"{arm} {interval(found, '.1%')}" for arm, found in zip(BASED, means, strict=True))
        + f"; largest less smallest {interval(gained, '+.1%')}; n = {based[0].shape[1]:,} rows, {len(based[0])} seeds.",
    )


def judge_window(inside: Interval, beyond: Interval, pairs: int, *, seeds: int) -> ClaimResult:
    """Judges whether a window answers the questions whose key is inside it, and no others."""
    guess = 1 / pairs + GUESSED
    verdict: Verdict = "inconclusive"
    if inside.low >= SOLVES and beyond.high <= guess:
        verdict = "confirmed"
    elif inside.high < FAILS or beyond.low > FAILS:
        verdict = "refuted"
    return ClaimResult(
        f"A window of {WINDOW} tokens behind a short convolution recalls what it still sees, and only that.",
        f"Confirmed: {SOLVES:.0%} or more of the questions at most {WINDOW} tokens behind their key, and at most "
        f"{share(guess, digits=1)} of the others, both by the whole 95 % interval over rows and seeds. Refuted: less than "
        f"{FAILS:.0%} of the first, or more of the second, by the whole of it. Inconclusive otherwise.",
        verdict,
        f"inside {_accuracy_text(inside)}; beyond {_accuracy_text(beyond)}; n = {max(inside.n, beyond.n):,} rows, {seeds} seeds.",
    )


def _accuracy_text(found: Interval) -> str:
    """An accuracy as text. In short rows, all questions may be on one side of the window."""
    return interval(found, ".1%") if found.n else "none asked"


def judge_hybrid(name: str, hybrid: Rows, convolution: Rows, attention: Rows, pairs: int) -> ClaimResult:
    """Judges how much of the gap between convolutions and attention closes with attention in one of two layers."""
    gap = _difference(attention, convolution, pairs)
    columns = np.stack([hybrid - convolution, attention - convolution], -1)
    verdict: Verdict = "inconclusive"
    seen = f"there is no gap to close: {interval(gap, '+.1%')}"
    if gap.low > 0:
        closed = bootstrap(lambda total: total[..., :1] / total[..., 1:], columns)[0]
        verdict = "confirmed" if closed.low >= CLOSED else "refuted" if closed.high < CLOSED else "inconclusive"
        seen = f"{interval(closed, '.1%')} of a gap of {interval(gap, '.1%')}"
    what = "attends where a token repeats" if "repeats" in name else "attends"
    return ClaimResult(
        f"A hybrid in which one of two convolutions gives way to a layer that {what} ({name}) closes the gap between BaseConv "
        "and attention alone.",
        f"Confirmed: {CLOSED:.0%} of the gap or more, by the whole 95 % interval over rows and seeds. Refuted: less, by the "
        "whole of it. Inconclusive otherwise, and without a gap.",
        verdict,
        f"{seen}; n = {hybrid.shape[1]:,} rows, {len(hybrid)} seeds.",
    )


def _difference(more: Rows, less: Rows, pairs: int) -> Interval:
    columns = np.stack([more - less, np.full_like(more, pairs)], -1)
    return bootstrap(lambda total: total[..., :1] / total[..., 1:], columns)[0]


def _seeds(rows: Rows, pairs: int) -> str:
    return " / ".join(share(float(value) / pairs, digits=1) for value in rows.mean(1))


def _size(rows: Mapping[str, Rows]) -> str:
    first = next(iter(rows.values()))
    return f"n = {first.shape[1]:,} rows, {len(first)} seeds, one number each"


def _other_rates(found: Found) -> dict[str, list[float]]:
    most = found.scale.judged.most
    return {
        arm: [at(result, most)["accuracy"]["value"] for result in results] for arm, results in found.other_rates.items()
    }


def _controls(found: Found) -> dict[str, Interval]:
    controls = {}
    for arm, result in found.control.items():
        shares = at(result, found.scale.control.most)["accuracy"]
        controls[arm] = Interval(shares["value"], shares["low"], shares["high"], shares["n"])
    return controls


def inside_and_beyond(results: Results, pairs: int) -> tuple[Interval, Interval]:
    """Accuracy on questions with the key at most the window back, and on others, with intervals over rows and seeds.

    The last token of the window contains the value from that many tokens back; the convolution has put its key beside it.
    """
    rows = len(at(results[0], pairs)["right_of_row"])
    inside: list[np.ndarray] = []
    beyond: list[np.ndarray] = []
    for result in results:
        counts = np.array([[int(d) <= WINDOW, right, n] for d, (right, n) in at(result, pairs)["by_distance"].items()])
        for side, found in ((1, inside), (0, beyond)):
            found.append(counts[counts[:, 0] == side, 1:].sum(0))
    return _over_rows(inside, rows), _over_rows(beyond, rows)


def _over_rows(counts: Sequence[np.ndarray], rows: int) -> Interval:
    """The share of correct answers from (right, asked) of each seed, with a row as the unit, the same rows in all seeds.

    Results do not have the rows of each distance. So a row counts as right or wrong as a whole, and no correlation of the
    answers of one row makes the interval wider.
    """
    right, questions = np.array(counts, dtype=float).T
    if not questions.all():
        return wilson(0, 0)
    trials = np.arange(rows) < np.round(right / questions * rows)[:, None]
    whole = trials.all() or not trials.any()
    found = wilson(int(trials[0].sum()), rows) if whole else _share_of(trials.astype(float))
    return Interval(float((right / questions).mean()), max(0.0, found.low), min(1.0, found.high), rows)


def _share_of(rows: Rows) -> Interval:
    return bootstrap(lambda total: total[..., :1] / total[..., 1:], np.stack([rows, np.ones_like(rows)], -1))[0]


def _trained(found: Found, arms: Iterable[str]) -> dict[str, Results]:
    return {arm: found.judged[arm] for arm in arms}


def _ours(found: Found, context: RecipeContext) -> str:
    scale, judged = found.scale, found.scale.judged
    rates = ", ".join(f"{rate:.1e}" for rate in scale.rates)
    chosen = (
        f"the best of {rates} for each kind, chosen on another seed" if scale.tuned else f"{scale.rates[0]:.1e} for all"
    )
    return (
        f"{len(ARMS)} kinds of two layers without MLPs, width {scale.width}, one head, on rows of {judged.length} tokens with "
        f"{min(judged.pairs)} to {judged.most} pairs of a vocabulary of {judged.vocab:,}, {judged.most} of them where it is "
        f"judged; up to {scale.steps:,} steps of {scale.rows} fresh rows, {context.seeds} seeds, learning rate {chosen}; gated "
        f"convolutions also with the others of {rates}. "
        f"{scale.tested:,} rows are asked about, others than those that end a training."
    )


def _numbers(found: Found) -> dict[str, Any]:
    most = found.scale.judged.most
    return {
        "rates": dict(found.rates),
        "arms": {
            arm: [
                {
                    "seed": result["seed"],
                    "parameters": result["parameters"],
                    "state_bytes": result["state_bytes"],
                    "steps": result["trained_steps"],
                    "failed": result["failed"],
                    "cpu_seconds": result["cpu_seconds"],
                    "by_pairs": {
                        pairs: {key: shares[key] for key in ("accuracy", "near", "far", "median_distance", "nats")}
                        for pairs, shares in result["by_pairs"].items()
                    },
                }
                for result in results
            ]
            for arm, results in found.judged.items()
        },
        "control": {
            arm: at(result, found.scale.control.most)["accuracy"]
            | {"rate": result["rate"], "steps": result["trained_steps"], "failed": result["failed"]}
            for arm, result in found.control.items()
        },
        "other_rates": {
            arm: [
                {"rate": result["rate"], "failed": result["failed"], **at(result, most)["accuracy"]}
                for result in results
            ]
            for arm, results in found.other_rates.items()
        },
        "map": [
            {
                "arm": arm,
                "width": width,
                "length": length,
                "pairs": max(result["pairs"]),
                "failed": result["failed"],
                **at(result, max(result["pairs"]))["accuracy"],
            }
            for arm, cells in found.mapped.items()
            for (width, length), result in cells.items()
        ],
        "judged_pairs": most,
    }


def _figures(found: Found, context: RecipeContext) -> dict[Any, str]:
    most = found.scale.judged.most
    points = {
        arm: (float(results[0]["state_bytes"]), accuracy(right_of_rows(results, most), most))
        for arm, results in found.judged.items()
    }
    by_state, by_size = context.out / "state.png", context.out / "map.png"
    draw_recall_by_state(points, guess=1 / most, file=by_state)
    cells = {
        arm: {size: at(result, max(result["pairs"]))["accuracy"]["value"] for size, result in found.mapped[arm].items()}
        for arm in found.mapped
    }
    draw_recall_map(cells, by_size)
    return {
        by_state: f"Accuracy at {most} pairs by the bytes that a row's state takes, 95 % intervals over rows and seeds; dotted: "
        "a guess among the row's values.",
        by_size: "Accuracy by width and length, most pairs of each length, one seed: shown, not judged.",
    }


RECIPE = Recipe(
    name="zoology",
    title="Associative recall by architecture",
    paper="Zoology: Measuring and Improving Recall in Efficient Language Models, arXiv 2312.04927",
    claim="Attention solves multi-query associative recall at any length with a small width; gated convolutions need a width as "
    "large as the row is long. A little attention that depends on the input closes the gap, and linear attention lies between, "
    "by the size of its state.",
    differences=(
        "The paper trains on 100,000 fixed rows for up to 64 epochs in batches of 128 to 512 with 4 to 64 pairs a setting and a "
        "vocabulary of 8,192; here rows are fresh at each step, few, and the number of pairs goes round, since many alone are "
        "hardly learned in so few steps.",
        "The paper tries four learning rates, 1e-4 to 1e-2, and reports the best on the rows that stop its trainings. Scale gpu "
        "chooses one for each kind on another seed, at the judged width and length; small and smoke take the largest, and small "
        "gives the gated convolutions the next one too.",
        "The rate and the schedule were chosen on seeds 0 to 2, where attention alone stayed at 15 % with a cosine from the "
        "start; what is judged should be other seeds.",
        "All questions repeat a token and nothing else is asked, so a second layer that attends where a token repeats answers "
        "just as one that attends everywhere: its claim says nothing of its own here.",
        "No dropout; weights start with variance 1 / width and embeddings with variance 1, there a deviation of 0.02 for all.",
        "At scale small width and rows are 64 alike, where the paper's rule, a width d of at least the row's length N, says that "
        "gated convolutions may solve the task: judged is what they learn in equal steps at equal rates, not what they can hold. "
        "That they need such a width is not judged at any scale, nor is it a theorem of the paper.",
        "Steps are equal, time is not; a gated convolution may need many more steps. The control, two pairs in rows a quarter as "
        "long as the width (d = 4 N), shows that each can be trained at all; that is easier than it would have to be to exclude "
        "that on the judged rows they only wanted training.",
        "Weights are those of this library's mixers, whose H3 has one channel a head where the paper's has two.",
    ),
    run=run,
    scales=SCALES,
    short={
        "Two layers with attention": Short("Attention solves recall at a small width", "^.*(?=; n =)"),
        "Gated convolutions": Short("Gated convolutions do not, in equal steps", "^[^;]+; [^;]+; [^;]+"),
        "lies between the two": Short("Linear attention lies between, by its state", "largest less smallest [^;]+"),
        "A window of": Short("A window recalls what it sees, and only that", "^[^;]+; [^;]+"),
        "that attends where a token repeats": Short("One layer that attends to repeats closes the gap"),
        "A hybrid in which": Short("One attention layer closes the gap"),
    },
)
