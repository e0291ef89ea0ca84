"""Recall by bytes of state: how much each family of mixers recalls with its memory, and the speed of a small state.

Families are compared at equal bytes, not at equal parameters. For a state as large, linear attention with 1 + elu needs as many
channels of queries and keys as Based has squares of them. So the control has more parameters.

    limbeck reproduce based --scale smoke | small | gpu        a minute | half an hour of a core | not yet timed
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Float

from limbeck.errors import BadSetting
from limbeck.papers.based.decoding import DecodingCell, time_decoding
from limbeck.papers.lab import recall
from limbeck.papers.lab.plots import draw_recall_by_bytes
from limbeck.papers.lab.rates import TUNING, best_rates
from limbeck.papers.lab.recall import Cell
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
from limbeck.papers.lab.trainings import Trainings
from limbeck.papers.zoology.recipe import accuracy, right_of_rows
from limbeck.probes.interval import Interval, bootstrap
from limbeck.report.words import interval, share
from limbeck.report.words import size as bytes_of

# The register, criteria.json, has the date of each.
SOLVES = 0.99  # accuracy of attention below which nothing is judged, since the rows or trainings are too hard for all
SLACK = 0.02  # accuracy by which a larger state of a family may be worse
FASTER = 1.0  # ratio of tokens per second

Rows = Float[np.ndarray, "seeds rows"]  # correct answers in each row
Results = Sequence[Mapping[str, Any]]

BASED, ELU, WINDOWS, ATTENTION = "Based", "1 + elu", "window", "attention"
GATED = {"GLA": "gla", "Mamba-2": "mamba2", "Gated DeltaNet": "gdn"}
DECODED = (("conv", "based:16", "conv", "swa:64"), ("attention",))


@dataclass(frozen=True)
class Scale:
    """The trainings of a scale. ``shown`` families have one seed, and appear in the figure without judging a claim."""

    width: int
    length: int
    vocab: int
    pairs: tuple[int, ...]
    features: tuple[int, ...]
    windows: tuple[int, ...]
    shown: tuple[str, ...]
    rates: tuple[float, ...]
    steps: int
    rows: int
    tested: int
    contexts: tuple[int, ...]
    decoder: DecodingCell

    @property
    def most(self) -> int:
        """The largest number of pairs, which is the judged one."""
        return max(self.pairs)


_DECODER = DecodingCell("", DECODED, 256, 4, 4, 1024, 0, 8, 16, 15, 0)
SCALES = {
    "smoke": Scale(
        16, 16, 64, (1, 2), (2, 3), (4, 12), (), (1e-2,), 5, 8, 20, (16, 32),
        DecodingCell("", DECODED, 32, 4, 2, 64, 0, 2, 2, 3, 0),
    ),
    "small": Scale(
        64, 64, 256, (4, 8, 16), (2, 4, 6, 8, 16), (4, 8, 16, 32), ("Gated DeltaNet",), (1e-2, 3e-3), 400, 64, 500,
        (128, 512, 1024, 2048, 4096), _DECODER,
    ),
    "gpu": Scale(
        128, 256, 8192, (4, 8, 16, 32, 64), (2, 4, 8, 12, 16, 24), (8, 16, 32, 64, 128), tuple(GATED), (1e-2, 3e-3, 1e-3),
        6000, 256, 3000, (128, 512, 1024, 2048, 4096, 16384),
        replace(_DECODER, width=1024, layers=12, heads=16, rows=32, tokens=64),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Member:
    """A member of a family: its mixers, and its difference from the other members."""

    mixers: tuple[str, ...]
    size: int = 0

    @property
    def slug(self) -> str:
        """The name of its folders."""
        return "-".join(mixer.replace(":", "").replace(",", "-").replace("=", "") for mixer in self.mixers)


@dataclass(frozen=True)
class Reached:
    """The results of a member: bytes of state of a row, correct answers by pairs, and the result of each training."""

    state_bytes: int
    parameters: int
    rows: Mapping[int, Rows]
    results: Results = ()


def members(scale: Scale) -> dict[str, tuple[Member, ...]]:
    """All families, each in order of state. Members of 1 + elu have the bytes of those of Based, one for one."""
    return {
        BASED: tuple(Member(("conv", f"based:{f}"), f) for f in scale.features),
        ELU: tuple(Member(("conv", f"linear:map=elu,features={1 + f + f * f}"), f) for f in scale.features),
        WINDOWS: tuple(Member(("conv", f"swa:{w},rope=false"), w) for w in scale.windows),
        ATTENTION: (Member(("conv", "attention:rope=false")),),
    } | {name: (Member((GATED[name], GATED[name])),) for name in scale.shown}


def run(context: RecipeContext) -> Outcome:
    """Trains all families, times both decoders, and judges the claims.

    Raises BadSetting if ``context`` has data, since the rows are generated.
    """
    if context.data is not None:
        raise BadSetting(f"--data {context.data}: based draws its own rows. Leave --data out.")
    scale = SCALES[context.scale]
    found, rates, spent = _trained(context, scale)
    timed, spent_timing = _timed(context, scale)
    most = scale.most
    judged = (*(of_seeds(one, context.seeds) for one in judge_recall(found, most)), judge_decoding(timed))
    figures = {}
    for pairs in scale.pairs:
        points = {
            name: [(one.state_bytes, accuracy(one.rows[pairs], pairs)) for one in row] for name, row in found.items()
        }
        file = context.out / f"recall-{pairs}.png"
        draw_recall_by_bytes(points, guess=1 / pairs, file=file)
        figures[file] = (
            f"{pairs} pairs: questions answered right by bytes of state, 95 % intervals over rows and seeds; dotted: a guess "
            "among the row's values."
        )
    return Outcome(_ours(context, scale), judged, _numbers(found, rates, timed), figures, spent + spent_timing)


def judge_recall(found: Mapping[str, Sequence[Reached]], pairs: int) -> list[ClaimResult]:
    """The results of all claims about trainings, each with its diverged trainings."""
    ceiling = found[ATTENTION][0].rows[pairs]
    compared = beside(found[BASED], found[WINDOWS])
    less, windows = [one for one, _ in compared], [window for _, window in compared]
    judged: list[tuple[ClaimResult, dict[str, Sequence[Reached]]]] = [
        *((judge_rises(name, found[name], ceiling, pairs), {name: found[name]}) for name in (BASED, WINDOWS)),
        (judge_windows(found[BASED], found[WINDOWS], ceiling, pairs), {BASED: less, WINDOWS: windows}),
        (judge_map(found[BASED], found[ELU], ceiling, pairs), {BASED: found[BASED], ELU: found[ELU]}),
    ]
    return [with_failures(one, _results({**by, ATTENTION: found[ATTENTION]})) for one, by in judged]


def judge_rises(name: str, family: Sequence[Reached], ceiling: Rows, pairs: int) -> ClaimResult:
    """Judges whether a family recalls more with a larger state."""
    gained = _more(family[-1].rows[pairs], family[0].rows[pairs], pairs)
    steps = [_more(b.rows[pairs], a.rows[pairs], pairs) for a, b in pairwise(family)]
    solved = accuracy(family[0].rows[pairs], pairs).low >= SOLVES  # the smallest solves the task, so nothing can rise
    verdict: Verdict = "inconclusive"
    if _trainable(ceiling, pairs) and not solved:
        if gained.high <= 0:
            verdict = "refuted"
        elif gained.low > 0 and all(step.value >= -SLACK for step in steps):
            verdict = "confirmed"
    return ClaimResult(
        f"Recall is bought with state: behind a short convolution {name} answers more with more of it.",
        f"Confirmed: the largest state answers more than the smallest (95 % interval above 0), and no step up loses more than "
        f"{SLACK:.0%}. Refuted: the largest answers no more than the smallest (95 % interval not above 0). Inconclusive "
        f"otherwise, also where attention answers less than {SOLVES:.0%}, since these trainings may then be too short for any, "
        f"and where already the smallest answers {SOLVES:.0%} by its whole 95 % interval, so that nothing can rise.",
        verdict,
        "; ".join(f"{bytes_of(one.state_bytes)} {interval(accuracy(one.rows[pairs], pairs), '.1%')}" for one in family)
        + f"; {_beside(ceiling, pairs)}.",
    )


def judge_windows(based: Sequence[Reached], windows: Sequence[Reached], ceiling: Rows, pairs: int) -> ClaimResult:
    """Judges whether Based recalls more than windows that keep at least as many bytes."""
    return _judged_pairs(
        "Based answers more than a window of as many bytes.",
        "each window beside the largest Based that keeps no more bytes than it",
        beside(based, windows),
        ceiling,
        pairs,
    )


def beside(based: Sequence[Reached], windows: Sequence[Reached]) -> list[tuple[Reached, Reached]]:
    """Each window with the largest Based of at most its bytes. Windows smaller than every Based are left out."""
    found = [(_largest(based, window.state_bytes), window) for window in windows]
    return [(less, window) for less, window in found if less is not None]


def judge_map(based: Sequence[Reached], elu: Sequence[Reached], ceiling: Rows, pairs: int) -> ClaimResult:
    """Judges whether the Taylor map recalls more, or only the size of the state matters."""
    return _judged_pairs(
        "The Taylor map answers more than 1 + elu with a state of the same size.",
        "each Based beside linear attention with 1 + elu of the same bytes",
        list(zip(based, elu, strict=True)),
        ceiling,
        pairs,
    )


def judge_decoding(timed: Mapping[int, Mapping[str, Any]]) -> ClaimResult:
    """Judges whether a fixed state generates faster than keys and values, by a factor that grows with the context."""
    ratios = {context: ratio_of(one["tokens_per_s"]) for context, one in timed.items()}
    saved = {context: one["state_bytes"][1] / one["state_bytes"][0] for context, one in timed.items()}
    first, last = min(ratios), max(ratios)
    verdict: Verdict = "inconclusive"
    if ratios[last].high < FASTER:
        verdict = "refuted"
    elif ratios[last].low > FASTER and ratios[last].low > ratios[first].high and saved[last] > 1:
        verdict = "confirmed"
    turns = len(timed[last]["tokens_per_s"][0])
    return ClaimResult(
        f"Behind a long context a decoder of {', '.join(DECODED[0])} writes faster than one of attention, from fewer bytes.",
        f"Confirmed: at {last:,} tokens it writes more tokens per second (95 % interval of the ratio above {FASTER:g}), by a "
        f"larger factor than at {first:,}, and keeps fewer bytes. Refuted: it writes fewer at {last:,}. Inconclusive otherwise.",
        verdict,
        "; ".join(
            f"{context:,} tokens: {interval(found, '.2f')} times as fast, bytes 1 to {saved[context]:.2g}"
            for context, found in ratios.items()
        )
        + f"; n = {turns} turns of each, in one process.",
    )


def ratio_of(rates: Sequence[Sequence[float]]) -> Interval:
    """How many times faster the first is: the geometric mean over pairs of neighbouring turns, with its interval."""
    logs = np.log(rates[0]) - np.log(rates[1])
    found = bootstrap(lambda total: total[..., :1] / total[..., 1:], np.stack([logs, np.ones_like(logs)], -1)[None])[0]
    value, low, high = (float(np.exp(bound)) for bound in (found.value, found.low, found.high))
    return Interval(value, low, high, found.n)


def _judged_pairs(
    claim: str, what: str, found: Sequence[tuple[Reached, Reached]], ceiling: Rows, pairs: int
) -> ClaimResult:
    """Judges whether the first of each couple answers more than the second, overall and not less in any couple.

    Overall is the sum over couples within each row, since all couples have the same rows.
    """
    each = [_more(a.rows[pairs], b.rows[pairs], pairs) for a, b in found]
    verdict: Verdict = "inconclusive"
    seen = "there are none to compare"
    if each:
        first, second = (np.sum([couple[i].rows[pairs] for couple in found], axis=0) for i in (0, 1))
        whole = _more(first, second, pairs * len(found))
        if whole.high < 0:
            verdict = "refuted"
        elif _trainable(ceiling, pairs) and whole.low > 0 and all(one.high >= 0 for one in each):
            verdict = "confirmed"
        couples = "; ".join(
            f"{bytes_of(a.state_bytes)} beside {bytes_of(b.state_bytes)} {interval(one, '+.1%')}"
            for (a, b), one in zip(found, each, strict=True)
        )
        seen = f"{interval(whole, '+.1%')} on the whole; {couples}"
    return ClaimResult(
        claim,
        f"Of {what}, the difference of accuracies. Confirmed: on the whole above 0 (95 % interval over rows and seeds), none "
        f"of them surely below, and attention answers {SOLVES:.0%}. Refuted: on the whole below 0. Inconclusive otherwise.",
        verdict,
        f"{seen}; {_beside(ceiling, pairs)}.",
    )


def _more(more: Rows, less: Rows, pairs: int) -> Interval:
    """The difference in accuracy of ``pairs`` questions per row, on the same rows."""
    columns = np.stack([more - less, np.full_like(more, pairs)], -1)
    return bootstrap(lambda total: total[..., :1] / total[..., 1:], columns)[0]


def _largest(family: Sequence[Reached], most: int) -> Reached | None:
    return max((one for one in family if one.state_bytes <= most), key=lambda one: one.state_bytes, default=None)


def _trainable(ceiling: Rows, pairs: int) -> bool:
    return float(ceiling.mean()) / pairs >= SOLVES


def _beside(ceiling: Rows, pairs: int) -> str:
    return (
        f"attention {interval(accuracy(ceiling, pairs), '.1%')}, a guess among the values {share(1 / pairs, digits=1)}; "
        f"{pairs} pairs, n = {ceiling.shape[1]:,} rows, {len(ceiling)} seeds"
    )


def _results(families: Mapping[str, Sequence[Reached]]) -> dict[str, Results]:
    """The results of the trainings of each member."""
    return {f"{name} {bytes_of(one.state_bytes)}": one.results for name, family in families.items() for one in family}


def _trained(context: RecipeContext, scale: Scale) -> tuple[dict[str, list[Reached]], dict[str, float], float]:
    """The results of all families, the rate of each, chosen for its middle member, and the CPU seconds of all trainings.

    Whole trainings choose the rates: after a quarter of the steps most members still have chance accuracy.
    """
    trainings, families = Trainings(context, recall.train), members(scale)
    tuned = {
        name: {
            rate: _tuning(_cell(scale, family[len(family) // 2], rate, context.seed + TUNING)) for rate in scale.rates
        }
        for name, family in families.items()
    }
    rates = best_rates(trainings, tuned, lambda result: result["curve"][-1]["nats"])
    cells = {
        (name, member): [
            _cell(scale, member, rates[name], context.seed + i)
            for i in range(1 if name in scale.shown else context.seeds)
        ]
        for name, family in families.items()
        for member in family
    }
    trainings.do(cell for row in cells.values() for cell in row)
    found: dict[str, list[Reached]] = {name: [] for name in families}
    for (name, _), row in cells.items():
        results = [trainings.result(cell) for cell in row]
        rows = {pairs: right_of_rows(results, pairs) for pairs in scale.pairs}
        found[name].append(Reached(results[0]["state_bytes"], results[0]["parameters"], rows, results))
    return found, rates, trainings.cpu_seconds()


def _timed(context: RecipeContext, scale: Scale) -> tuple[dict[int, dict[str, Any]], float]:
    """The measurement of both decoders in each context, without other trainings of ours, and the CPU seconds."""
    trainings = Trainings(replace(context, out=context.out / "decoding", workers=1), time_decoding)
    cells = {
        tokens: replace(scale.decoder, name=f"context{tokens}", context=tokens, seed=context.seed)
        for tokens in scale.contexts
    }
    trainings.do(cells.values())
    return {tokens: trainings.result(cell) for tokens, cell in cells.items()}, trainings.cpu_seconds()


def _cell(scale: Scale, member: Member, rate: float, seed: int) -> Cell:
    return Cell(
        name=f"{member.slug}-rate{rate:.0e}-seed{seed}",
        mixers=member.mixers,
        width=scale.width,
        length=scale.length,
        vocab=scale.vocab,
        pairs=scale.pairs,
        steps=scale.steps,
        rate=rate,
        seed=seed,
        rows=scale.rows,
        tested=scale.tested,
    )


def _tuning(cell: Cell) -> Cell:
    """A cell with the prefix of its use in its name, since existing folders have shorter trainings without it."""
    return replace(cell, name=f"tuning-{cell.name}")


def _numbers(
    found: Mapping[str, Sequence[Reached]], rates: Mapping[str, float], timed: Mapping[int, Mapping[str, Any]]
) -> dict[str, Any]:
    return {
        "rates": dict(rates),
        "families": {
            name: [
                {
                    "state_bytes": one.state_bytes,
                    "parameters": one.parameters,
                    "failed": sum(bool(result["failed"]) for result in one.results),
                    "accuracy": {str(pairs): asdict(accuracy(rows, pairs)) for pairs, rows in one.rows.items()},
                    "by_seed": {str(pairs): (rows.mean(1) / pairs).tolist() for pairs, rows in one.rows.items()},
                }
                for one in family
            ]
            for name, family in found.items()
        },
        "decoding": {str(context): dict(one) for context, one in timed.items()},
    }


def _ours(context: RecipeContext, scale: Scale) -> str:
    decoder = scale.decoder
    shown = f"; {', '.join(scale.shown)} (two layers of each, one seed) are shown beside them" if scale.shown else ""
    return (
        f"Two layers without MLPs, width {scale.width}, one head, on rows of {scale.length} tokens with "
        f"{', '.join(map(str, scale.pairs))} pairs in turn and a vocabulary of {scale.vocab:,}: a short convolution, then Based "
        f"with {', '.join(map(str, scale.features))} features, linear attention with 1 + elu of the same bytes, windows of "
        f"{', '.join(map(str, scale.windows))} tokens, or attention{shown}. Up to {scale.steps:,} steps of {scale.rows} fresh "
        f"rows, {context.seeds} seeds, rates {', '.join(f'{rate:.0e}' for rate in scale.rates)}, the best for each family by "
        f"trainings as long on another seed; {scale.tested:,} rows are asked about, {scale.most} pairs judged. Decoders of "
        f"{decoder.layers} layers, width {decoder.width}, "
        f"write {decoder.tokens} tokens a turn in {decoder.rows} rows at once, {decoder.turns} turns."
    )


RECIPE = Recipe(
    name="based",
    title="Recall against the size of the state",
    paper="Simple linear attention language models balance the recall-throughput tradeoff, arXiv 2402.18668",
    claim="What a model recalls of its context grows with the state it keeps, in every family of architectures. Linear attention "
    "with the Taylor map of exp, short convolutions and windows (Based) recalls more than others of the same state, and writes "
    "many times faster than attention with a cache of keys and values.",
    differences=(
        "Two layers of width 64 on short synthetic rows; the paper's text models have 360 million parameters and more, and its "
        "24-fold throughput is of a GPU, its own kernels and 1.3 billion parameters.",
        "Each family is one mixer behind a short convolution, without the windows that Based puts beside its linear attention; "
        "the decoders that are timed have them.",
        "Fillers are zeros, since with random ones a small vocabulary repeats keys that nobody asks about; there random.",
        "State is counted in float32, the Taylor map with all squares, half of which are equal; windows keep one token less than "
        "they see, the last one being read as it comes.",
        "A key-value cache grows by copying, as in Transformers' own, which adds to what long contexts cost; weights are "
        "untrained and states filled, not read, for the timing.",
        "One rate is chosen for each family, on another seed and at its middle size.",
    ),
    run=run,
    scales=SCALES,
    short={
        "Based answers more with more": Short("Based recalls more with more state", "^[^;]+|[^;]+(?=; attention)"),
        "window answers more with more": Short("A window recalls more with more state", "^[^;]+|[^;]+(?=; attention)"),
        "as many bytes": Short("Based recalls more than a window of as many bytes"),
        "than 1 + elu": Short("The Taylor map recalls more than 1 + elu"),
        "writes faster": Short("Based generates faster than attention", "^[^;]+|[^;]+(?=; n =)"),
    },
)
