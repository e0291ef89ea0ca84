"""Language models by mixer: how far those without attention are behind it, and how much of that lies on recall.

A recall hit is a prediction whose bigram occurred earlier in the same document, so that it could be looked up. The gap of a model
is what it needs more, in nats, than attention of the same size, seed and tokens, on the same held-out documents.

    limbeck reproduce zoology-language --scale smoke | small | gpu        a minute | hours of a core | not yet timed
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import median
from typing import Any

from limbeck.papers.lab.plots import draw_gaps
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
from limbeck.papers.lab.search import doubtful
from limbeck.papers.zoology_language.readings import (
    ALL,
    ELSEWHERE,
    HITS,
    RARE,
    Sliced,
    closed,
    gap,
    mean,
    pooled_excess,
    pooled_gap,
    ratio,
    share_of,
    share_of_gap,
)
from limbeck.papers.zoology_language.suite import (
    ATTENTION,
    BASECONV,
    BASED,
    BEHIND,
    HYBRIDS,
    REPEATS,
    SCALES,
    SUITE,
    TOP,
    Found,
    run_suite,
    source_of,
)
from limbeck.papers.zoology_language.tables import tables
from limbeck.probes.interval import Interval
from limbeck.probes.slices import BINS, DISTANCES
from limbeck.report.words import count, interval, share

MOST = 0.5  # share of the gap that is most of it
CLOSED = (
    0.7  # share of the gap that a hybrid should close; that of the paper closes 72 to 85 % on hits, 97 % in perplexity
)
SLACK = 0.02  # nats on a hit by which a larger state may be worse

BySize = Mapping[str, Mapping[str, Sliced]]  # by size, then by arm
Results = Mapping[str, Sequence[Mapping[str, Any]]]


def run(context: RecipeContext) -> Outcome:
    """Trains the suite and judges the claims: the first two alone on a text that the user gives."""
    found = run_suite(context)
    suite = {size: {arm: found.sliced(arm, size) for arm in SUITE} for size in found.judged}
    of_suite = _results(found, SUITE, found.judged)
    judged = [
        with_failures(judge_behind(suite), of_suite),
        with_failures(judge_on_hits(suite), of_suite),
    ]
    if context.data is None:
        smallest = found.judged[0]
        others = {arm: found.sliced(arm, smallest) for arm in (BASECONV, *HYBRIDS, *BASED)}
        largest = found.sliced(found.best, found.scale.largest.name)
        times = found.scale.largest.parameters / found.scale.sizes[0].parameters
        judged += [
            with_failures(
                judge_larger(suite[smallest][ATTENTION], largest, found.best, times),
                _results(found, [ATTENTION], [smallest]) | _results(found, [found.best], [found.scale.largest.name]),
            ),
            *(
                with_failures(
                    judge_hybrids(
                        {arm: others[arm] for arm in HYBRIDS}, others[BASECONV], suite[smallest][ATTENTION], part
                    ),
                    _results(found, [*HYBRIDS, BASECONV, ATTENTION], [smallest]),
                )
                for part in (ALL, HITS)
            ),
            with_failures(judge_state({arm: others[arm] for arm in BASED}), _results(found, BASED, [smallest])),
        ]
    return Outcome(
        _ours(found, context),
        tuple(of_seeds(one, context.seeds) for one in judged),
        _numbers(found),
        _figures(found, context),
        found.cpu_seconds,
    )


def judge_behind(suite: BySize) -> ClaimResult:
    """Judges whether all models without attention need more nats than attention of their size."""
    gaps = {(size, arm): gap(arms[arm], arms[ATTENTION]) for size, arms in suite.items() for arm in BEHIND}
    verdict: Verdict = "inconclusive"
    if any(one.high < 0 for one in gaps.values()):
        verdict = "refuted"
    elif all(one.low > 0 for one in gaps.values()):
        verdict = "confirmed"
    by_size = (
        f"{size}: " + ", ".join(f"{arm} {interval(gaps[size, arm], '+.3f')}" for arm in BEHIND) for size in suite
    )
    return ClaimResult(
        "At equal size and tokens, language models of convolutions and gates (long convolution, H3, Hyena, RWKV-4) are behind "
        "attention.",
        "Confirmed: each needs more nats per held-out token at each judged size, by the whole 95 % interval over documents and "
        "seeds. Refuted: one of them needs fewer, by the whole of it. Inconclusive otherwise.",
        verdict,
        f"{'; '.join(by_size)}; {_first(suite).size}.",
    )


def judge_on_hits(suite: BySize) -> ClaimResult:
    """Judges whether most of the gap, pooled over arms and sizes, lies on recall hits, and more than their number explains."""
    pairs = [(arms[arm], arms[ATTENTION]) for arms in suite.values() for arm in BEHIND]
    whole, excess, first = pooled_gap(pairs), pooled_excess(pairs), _first(suite)
    verdict: Verdict = "inconclusive"
    seen = f"the whole gap may be 0: {interval(whole, '+.3f')} nats per token"
    if whole.low > 0:
        on_hits = share_of_gap(pairs)
        if on_hits.low > MOST and excess.low > 0:
            verdict = "confirmed"
        elif on_hits.high < MOST or excess.high < 0:
            verdict = "refuted"
        seen = (
            f"{interval(on_hits, '.1%')} of a gap of {interval(whole, '+.3f')} nats on the "
            f"{share(share_of(first, HITS), digits=1)} of tokens that are hits; {interval(excess, '+.3f')} nats more per token "
            "there than elsewhere; on hits of bigrams that training has at most 10 times, "
            f"{share(share_of(first, RARE), digits=1)} of tokens: {interval(share_of_gap(pairs, RARE), '.1%')}"
        )
    return ClaimResult(
        "Most of that gap lies on recall hits: predictions whose bigram occurred earlier in the same document.",
        f"Confirmed: more than {MOST:.0%} of the gap, summed over the four kinds and all judged sizes, lies on hits, and it is "
        "larger per token on hits than elsewhere, both by the whole 95 % interval over documents and seeds. Refuted: less than "
        f"{MOST:.0%}, or smaller per token, by the whole of it. Inconclusive otherwise, and where the whole gap may be 0.",
        verdict,
        f"{seen}; {first.size}.",
    )


def judge_larger(attention: Sliced, larger: Sliced, name: str, times: float) -> ClaimResult:
    """Judges whether attention recalls better than the best gated convolution that is many times as large."""
    more = gap(larger, attention, HITS)
    verdict: Verdict = "inconclusive"
    if more.low > 0:
        verdict = "confirmed"
    elif more.high < 0:
        verdict = "refuted"
    return ClaimResult(
        "A model with attention recalls better than a gated convolution many times as large.",
        "Confirmed: the smallest attention model needs fewer nats on a recall hit than the largest model of the gated "
        "convolution that is best on hits at the size before (H3, Hyena or RWKV-4), by the whole 95 % interval over documents "
        "and seeds. Refuted: more, by the whole of it. Inconclusive otherwise.",
        verdict,
        f"{name} with {times:.0f} times the parameters needs {interval(more, '+.3f')} nats more on a hit; attention "
        f"{interval(mean(attention, HITS), '.3f')}, {name} {interval(mean(larger, HITS), '.3f')}; elsewhere "
        f"{interval(gap(larger, attention, ELSEWHERE), '+.3f')}; {attention.size}.",
    )


def judge_hybrids(hybrids: Mapping[str, Sliced], convolution: Sliced, attention: Sliced, part: str) -> ClaimResult:
    """Judges how much of the gap between BaseConv and attention closes on a part with attention that depends on the input."""
    whole = gap(convolution, attention, part)
    verdict: Verdict = "inconclusive"
    seen = f"there is no gap to close: {interval(whole, '+.3f')} nats"
    if whole.low > 0:
        shares = {arm: closed(hybrid, convolution, attention, part) for arm, hybrid in hybrids.items()}
        ends = [shares[arm] for arm in (REPEATS, TOP)]
        if all(one.low >= CLOSED for one in ends):
            verdict = "confirmed"
        elif any(one.high < CLOSED for one in ends):
            verdict = "refuted"
        listed = ", ".join(f"{arm} {interval(one, '.0%')}" for arm, one in shares.items())
        seen = f"closed: {listed}; of a gap of {interval(whole, '+.3f')} nats per token"
    return ClaimResult(
        f"Attention in one of four layers, at few tokens chosen by the input, closes the gap of BaseConv on {part}.",
        f"Confirmed: both attention where a token repeats and learned top-k close {CLOSED:.0%} or more of the gap between "
        f"BaseConv and attention in all layers, in nats per token on {part}, by the whole 95 % interval over documents and "
        "seeds. Refuted: one of them closes less, by the whole of it. Inconclusive otherwise, and without a gap.",
        verdict,
        f"{seen}; {attention.size}.",
    )


def judge_state(family: Mapping[str, Sliced]) -> ClaimResult:
    """Judges whether a larger state recalls better. ``family`` is in order of state."""
    arms = [*family.values()]
    gained = gap(arms[0], arms[-1], HITS)
    steps = [gap(small, large, HITS) for small, large in pairwise(arms)]
    verdict: Verdict = "inconclusive"
    if gained.high <= 0:
        verdict = "refuted"
    elif gained.low > 0 and all(one.value >= -SLACK for one in steps):
        verdict = "confirmed"
    listed = ", ".join(f"{arm} {interval(mean(found, HITS), '.3f')}" for arm, found in family.items())
    return ClaimResult(
        "Recall rises with the size of the state: linear attention (Based) with more features has fewer nats on hits.",
        "Confirmed: the largest state needs fewer nats on a hit than the smallest, by the whole 95 % interval over documents "
        f"and seeds, and no step up loses more than {SLACK} nats. Refuted: the largest needs no fewer, by the whole of it. "
        "Inconclusive otherwise.",
        verdict,
        f"largest less smallest {interval(gap(arms[-1], arms[0], HITS), '+.3f')} nats on a hit; {listed}; {arms[0].size}.",
    )


def _first(suite: BySize) -> Sliced:
    return next(iter(suite.values()))[ATTENTION]


def _results(found: Found, arms: Sequence[str] | Mapping[str, Any], sizes: Sequence[str]) -> dict[str, list[Any]]:
    """All trainings of arms at sizes that judge a claim."""
    return {arm: [one for size in sizes for one in found.results[arm][size]] for arm in arms}


def _ours(found: Found, context: RecipeContext) -> str:
    scale = found.scale
    sizes = ", ".join(
        f"{size.name} ({size.layers} layers of width {size.width}, {size.heads} heads{'' if size.judged else ', one seed'})"
        for size in found.sizes.values()
    )
    alone = (
        f" At {scale.sizes[0].name} also BaseConv, its hybrids, Based with 4 to 16 features and Gated DeltaNet; at "
        f"{scale.largest.name} attention (one seed) and {found.best} alone."
        if context.data is None
        else " Of a text that is given, only these claims are tried, at the smallest size."
    )
    factors = ", ".join(f"{factor:g}" for factor in scale.factors)
    chosen = (
        f"the best of {factors} times the usual rate of each size, chosen for each kind at {scale.sizes[0].name} on another seed "
        f"and on training documents left out of its {scale.tuning_steps:,} steps"
        if len(scale.factors) > 1
        else f"{factors} times the usual rate of each size"
    )
    text = "60 modules of python:stdlib" if context.data is None and context.scale == "smoke" else source_of(context)
    return (
        f"Decoders from scratch of {len(SUITE)} kinds at {sizes}, with gated MLPs as wide as the parameters without embeddings "
        f"permit.{alone} A BPE of {scale.vocab:,} tokens trained on {text}; each model reads the same {count(scale.tokens)} "
        f"tokens of it in the same order, {scale.steps:,} steps of {scale.rows} rows of {scale.length}. {context.seeds} seeds; "
        f"learning rates {chosen}. Measured on up to {scale.measured} rows of held-out documents; bigrams are counted in the "
        f"whole training text.{doubtful(found.factors, scale.factors)}{_worse(found)}"
    )


def _worse(found: Found) -> str:
    """A sentence on kinds of which a larger model has more perplexity than a smaller one; "" for none."""
    sizes = sorted(found.sizes.values(), key=lambda size: size.parameters)
    rising = []
    for arm, by_size in found.results.items():
        known = [size.name for size in sizes if size.name in by_size]
        nats = {name: mean(found.sliced(arm, name)).value for name in known}
        if worse := [after for before, after in pairwise(known) if nats[after] > nats[before]]:
            rising.append(f"{arm} at {' and '.join(worse)}")
    if not rising:
        return ""
    return (
        f" More perplexity than the next smaller model of their kind have: {', '.join(rising)}. Learning rates are chosen at the "
        "smallest size, so a gap beside such a model may be one of rates."
    )


def _numbers(found: Found) -> dict[str, Any]:
    return {
        "factors": dict(found.factors),
        "best": found.best,
        "judged": found.judged,
        "smallest": found.scale.sizes[0].name,
        "arms": {arm: {size: _of_model(found, arm, size) for size in sizes} for arm, sizes in found.results.items()},
    }


def _of_model(found: Found, arm: str, size: str) -> dict[str, Any]:
    """The size, state, speed and readings of an arm at a size, over its seeds."""
    results, own = found.results[arm][size], found.sliced(arm, size)
    loss = mean(own)
    pair = _with_attention(found, arm, size)
    gaps = {} if pair is None else {part: vars(gap(*pair, part)) for part in (ALL, HITS, ELSEWHERE, RARE)}
    lies = None if pair is None or not gap(*pair).excludes_zero else vars(share_of_gap([pair]))
    return {
        "seeds": len(results),
        "failed": sum(bool(one["failed"]) for one in results),
        **{
            key: results[0][key] for key in ("parameters", "without_embeddings", "mlp", "state_bytes", "trained_tokens")
        },
        **{key: _median(results, key) for key in ("tokens_per_s", "generated_per_s")},
        "perplexity": vars(Interval(math.exp(loss.value), math.exp(loss.low), math.exp(loss.high), loss.n)),
        "nats": {part: vars(mean(own, part)) for part in (ALL, HITS, ELSEWHERE, RARE)},
        "by_seed": (own.nats.sum((1, 2)) / own.tokens.sum((1, 2))).tolist(),
        "by_count": _by_bin(own.nats[..., :-1], own.tokens[..., :-1], BINS),
        "by_distance": _by_bin(own.far_nats, own.far_tokens, DISTANCES),
        "gap": gaps,
        "share_on_hits": lies,
    }


def _with_attention(found: Found, arm: str, size: str) -> tuple[Sliced, Sliced] | None:
    """An arm and attention of the same size, on the seeds that both have; None for attention itself."""
    if arm == ATTENTION:
        return None
    own, attention = found.sliced(arm, size), found.sliced(ATTENTION, size)
    both = min(len(own.tokens), len(attention.tokens))
    return own.seeds(both), attention.seeds(both)


def _by_bin(nats: Any, tokens: Any, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    return {name: vars(ratio(nats[..., i], tokens[..., i])) for i, name in enumerate(names) if tokens[..., i].any()}


def _median(results: Sequence[Mapping[str, Any]], key: str) -> float | None:
    values = [one[key] for one in results if one[key] is not None]
    return median(values) if values else None


def _figures(found: Found, context: RecipeContext) -> dict[Any, str]:
    gaps: dict[str, dict[str, dict[float, Interval]]] = {arm: {HITS: {}, ELSEWHERE: {}} for arm in BEHIND}
    for arm, slices in gaps.items():
        for size in found.results[arm]:
            pair = _with_attention(found, arm, size)
            assert pair is not None
            for part, by_size in slices.items():
                by_size[found.sizes[size].parameters] = gap(*pair, part)
    file = context.out / "gaps.png"
    draw_gaps(gaps, file)
    return {
        file: "Nats per token that a model needs more than attention of its size, on recall hits and elsewhere, by size; bars "
        "are 95 % intervals over documents and seeds."
    }


RECIPE = Recipe(
    name="zoology-language",
    title="Recall in language models by architecture",
    paper="Zoology: Measuring and Improving Recall in Efficient Language Models, arXiv 2312.04927",
    claim="Language models of gated convolutions are up to 2.1 points of perplexity behind attention of their size, and 82 % of "
    "the gap lies on recall hits, 6.4 % of tokens. Attention of 70M parameters recalls better than Hyena of 1.4B. Attention at a "
    "few tokens that depend on the input closes 97.4 % of the gap.",
    differences=(
        "Models of 0.3M to 8M parameters on 1.6M tokens (scale gpu: 8.4M) of the standard library's code or of a text that is "
        "given, there 70M to 1.4B on 10B to 50B tokens of the Pile; a vocabulary of 4,096 and rows of 256 tokens, there about "
        "50,000 and 2,048. A difference "
        "between models that have read so little may be one of how fast they learn.",
        "All hits count, in bins by the count of their bigram in the training text. The paper counts as hits only bigrams that "
        "its training has at most 1,250 times, one in 8 million tokens; here that would be those which training never has. What "
        "lies on hits of rare bigrams stands beside.",
        "Bigrams are counted in the whole training text, of which a training reads a part.",
        "The paper averages shares over models, and clips those above 1; here gaps are summed first, and nothing is clipped.",
        "All models have SwiGLU MLPs, of a width that makes sizes equal; RWKV-4 has its own channel mixing in the paper. The "
        "long convolution has free filters, without projections or gate. Differences of H3, Hyena and top-k from the authors' "
        "code are those of this library's mixers: H3 has one channel a head, and top-k no penalty that makes its gates sparse.",
        "Hybrids have their attention in the third of four layers, in the place of a short convolution; there in 3 of about 48 "
        "layers. They, Based and Gated DeltaNet are trained at the smallest size alone.",
        "What a hybrid closes is judged in nats; the paper's 97.4 % is of perplexity on all tokens.",
        "Learning rates are chosen at the smallest size in shorter trainings, and carried to others by size^(-1/4).",
        "The gated convolution at the largest size is the one that is best on hits at the size before, by the run's own seeds "
        "and held-out text; the choice can only make the claim on larger models harder.",
        "Hits ignore synonyms and longer repeats. Where a gap lies is not why it is there.",
    ),
    run=run,
    scales=SCALES,
    short={
        "are behind attention": Short("Convolutions and gates are behind attention", "[^;]+(?=; n =)"),
        "gap lies on recall hits": Short("Most of the gap lies on recall hits", "^[^;]+"),
        "many times as large": Short("Attention recalls better than a much larger gated convolution", "^[^;]+"),
        "closes the gap of BaseConv on all tokens": Short(
            "A few attending tokens close the gap on all tokens", "^[^;]+"
        ),
        "closes the gap of BaseConv on recall hits": Short("A few attending tokens close the gap on hits", "^[^;]+"),
        "Recall rises with the size": Short("Recall rises with the size of the state", "^[^;]+"),
    },
    tables=tables,
)
