"""The suite of the recipe zoology-language: its models, sizes and trainings.

Attention and four kinds of models without it are trained at several sizes. At the smallest size there are also BaseConv, its
hybrids, Based with several sizes of state, and Gated DeltaNet. The largest size has the best gated convolution of the size before
it, with all seeds, and attention with one. All models read the same tokens in the same order.

Of a text that the user gives, only the arms of the first two claims are trained, at the smallest size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from limbeck.errors import BadCorpus
from limbeck.papers.lab.pilots import little
from limbeck.papers.lab.rates import TUNING, best_rates
from limbeck.papers.lab.recipe import RecipeContext
from limbeck.papers.lab.text import text_of
from limbeck.papers.lab.trainings import Trainings
from limbeck.papers.zoology_language.readings import HITS, Sliced, mean
from limbeck.papers.zoology_language.training import LanguageCell, train_language, tune_language
from limbeck.run.optim import suggested_learning_rate

ATTENTION, LONG, BASECONV = "attention", "long convolution", "BaseConv"
GATED = {"H3": ("h3",), "Hyena": ("hyena",), "RWKV-4": ("rwkv4",)}
BEHIND = {LONG: ("longconv",)} | GATED
SUITE: Mapping[str, tuple[str, ...]] = {ATTENTION: ("attention",)} | BEHIND

_SHORT, _IMPLICIT = "conv", "longconv:implicit,gated=true"
EVERYWHERE, REPEATS, TOP, WINDOW = "attention in one layer", "attention at repeats", "learned top-k", "window"
HYBRIDS = {
    name: (_SHORT, _IMPLICIT, one, _IMPLICIT)
    for name, one in {EVERYWHERE: "attention", REPEATS: "repeats", TOP: "topk:32", WINDOW: "swa:32"}.items()
}
BASED = {f"Based, {features} features": (_SHORT, f"based:{features}") for features in (4, 8, 16)}
OTHERS: Mapping[str, tuple[str, ...]] = {BASECONV: (_SHORT, _IMPLICIT)} | HYBRIDS | BASED | {"Gated DeltaNet": ("gdn",)}
ARMS: Mapping[str, tuple[str, ...]] = {**SUITE, **OTHERS}


@dataclass(frozen=True)
class Size:
    """A size: ``parameters`` without embeddings, and a shape. The suite has all seeds if it is ``judged``, else the first."""

    parameters: int
    width: int
    layers: int
    heads: int
    judged: bool = True

    @property
    def name(self) -> str:
        """The size in millions of parameters."""
        return f"{self.parameters / 1e6:g}M"


@dataclass(frozen=True)
class Scale:
    """The ``sizes`` of the suite from the smallest, the ``largest`` of two arms, and the trainings.

    ``factors`` of the usual learning rate are tried for each arm at the smallest size, in ``tuning_steps``.
    """

    sizes: tuple[Size, ...]
    largest: Size
    vocab: int
    length: int
    rows: int
    steps: int
    tuning_steps: int
    measured: int
    factors: tuple[float, ...]

    @property
    def tokens(self) -> int:
        """The tokens that each model reads."""
        return self.steps * self.rows * self.length


SCALES = {
    "smoke": Scale(
        (Size(60_000, 16, 4, 2), Size(80_000, 16, 4, 2, judged=False)), Size(120_000, 24, 4, 2),
        512, 32, 4, 4, 2, 16, (1.0,),
    ),
    "small": Scale(
        (
            Size(300_000, 80, 4, 4),
            Size(1_000_000, 144, 4, 4),
            Size(3_000_000, 256, 4, 8, judged=False),
        ),
        Size(8_000_000, 288, 8, 8),
        4096, 256, 4, 1536, 384, 400, (0.5, 1.0, 2.0),
    ),
    "gpu": Scale(
        (Size(300_000, 80, 4, 4), Size(1_000_000, 144, 4, 4), Size(3_000_000, 256, 4, 8)), Size(8_000_000, 288, 8, 8),
        4096, 256, 16, 2048, 512, 800, (0.5, 1.0, 2.0),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Found:
    """The trained suite: the chosen ``factors`` of the rates by arm, results by arm and size, one a seed, and the best arm.

    ``best`` is the gated convolution with the fewest nats on hits at the last size of the suite. It is the one at the largest
    size.
    """

    scale: Scale
    sizes: Mapping[str, Size]
    factors: Mapping[str, float]
    results: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]
    best: str
    cpu_seconds: float

    def sliced(self, arm: str, size: str) -> Sliced:
        """The sums of an arm at a size."""
        return Sliced.of(self.results[arm][size])

    @property
    def judged(self) -> list[str]:
        """The names of the sizes of the whole suite with all seeds."""
        return [size.name for size in self.scale.sizes if size.judged and size.name in self.sizes]


def run_suite(context: RecipeContext) -> Found:
    """Trains the cells without a result, and gives all results. Raises BadCorpus if the held-out text has no recall hit."""
    scale, folder, alone = SCALES[context.scale], context.out / "text", context.data is not None
    vocab = text_of(folder, source_of(context), vocab=scale.vocab, length=scale.length)
    trainings = Trainings(context, partial(train_language, folder=folder))
    tuning = Trainings(replace(context, out=context.out / "tuning"), partial(tune_language, folder=folder))
    sizes = {size.name: size for size in (scale.sizes[:1] if alone else scale.sizes)}
    factors = _factors(tuning, scale, vocab, SUITE if alone else ARMS, context.seed + TUNING)

    def cells(arm: str, size: Size, *, all_seeds: bool) -> list[LanguageCell]:
        seeds = range(context.seed, context.seed + (context.seeds if all_seeds else 1))
        return [_cell(scale, vocab, arm, size, factors[arm], seed, scale.steps) for seed in seeds]

    planned = {arm: {name: cells(arm, size, all_seeds=size.judged) for name, size in sizes.items()} for arm in SUITE}
    if not alone:
        planned |= {arm: {scale.sizes[0].name: cells(arm, scale.sizes[0], all_seeds=True)} for arm in OTHERS}
    results = _done(trainings, planned)
    last = list(sizes)[-1]
    if not np.array(results[ATTENTION][last][0]["tokens"])[:, :-1].any():
        raise BadCorpus(
            f"{source_of(context)}: its held-out rows of {scale.length} tokens repeat no pair of tokens, so there is no recall "
            "to measure: give longer documents with --data"
        )
    best = min(GATED, key=lambda arm: mean(Sliced.of(results[arm][last]), HITS).value)
    if not alone:
        more = _done(
            trainings,
            {arm: {scale.largest.name: cells(arm, scale.largest, all_seeds=arm == best)} for arm in (ATTENTION, best)},
        )
        results |= {arm: results[arm] | found for arm, found in more.items()}
        sizes[scale.largest.name] = scale.largest
    return Found(scale, sizes, factors, results, best, trainings.cpu_seconds() + tuning.cpu_seconds())


def source_of(context: RecipeContext) -> str:
    """The text of a run, as for `--data`. Scale smoke reads a part of the default one."""
    if context.data is not None:
        return context.data
    return str(little(context.out)) if context.scale == "smoke" else "python:stdlib"


def _done(trainings: Trainings, planned: Mapping[str, Mapping[str, Sequence[LanguageCell]]]) -> dict[str, Any]:
    """Trains cells by arm and size, and gives their results in the same places."""
    trainings.do(cell for sizes in planned.values() for cells in sizes.values() for cell in cells)
    return {
        arm: {name: [trainings.result(cell) for cell in cells] for name, cells in sizes.items()}
        for arm, sizes in planned.items()
    }


def _factors(
    tuning: Trainings, scale: Scale, vocab: int, arms: Mapping[str, tuple[str, ...]], seed: int
) -> dict[str, float]:
    """The factor of each arm with the lowest loss at the smallest size, on documents that its training did not read."""
    tried = {
        arm: {
            factor: _cell(scale, vocab, arm, scale.sizes[0], factor, seed, scale.tuning_steps)
            for factor in scale.factors
        }
        for arm in arms
    }
    return best_rates(tuning, tried, _nats)


def _nats(result: Mapping[str, Any]) -> float:
    """The loss of a training in nats per token of the documents that it was measured on."""
    tokens = math.fsum(map(math.fsum, result["tokens"]))
    return math.fsum(map(math.fsum, result["nats"])) / tokens


def _cell(scale: Scale, vocab: int, arm: str, size: Size, factor: float, seed: int, steps: int) -> LanguageCell:
    return LanguageCell(
        name=f"{_slug(arm)}-{size.name.lower()}-factor{factor:g}-seed{seed}",
        mixers=ARMS[arm],
        parameters=size.parameters,
        vocab=vocab,
        width=size.width,
        layers=size.layers,
        heads=size.heads,
        length=scale.length,
        steps=steps,
        rate=factor * suggested_learning_rate(size.parameters + vocab * size.width),
        seed=seed,
        rows=scale.rows,
        measured=scale.measured,
    )


def _slug(arm: str) -> str:
    return arm.lower().replace(",", "").replace(" ", "-")
