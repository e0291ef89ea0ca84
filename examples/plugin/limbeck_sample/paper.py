"""A small paper: how often the usual interval of a share holds the truth (Brown, Cai & DasGupta 2001, Statist. Sci. 16:101).

What surprises: nothing is trained. What decides stands in functions called judge..., and no file of theirs imports torch, so that
the digest of the criterion covers it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from limbeck.papers.lab.recipe import ClaimResult, Outcome, Recipe, RecipeContext, Verdict
from limbeck.probes.interval import wilson

PROMISED = 0.95
CLEARLY = 0.01  # coverage that is missing


@dataclass(frozen=True)
class Scale:
    """How many samples of ``n`` are drawn at each share."""

    samples: int
    n: int = 30
    shares: tuple[float, ...] = (0.02, 0.05, 0.1)


SCALES = {"smoke": Scale(200), "small": Scale(20_000), "gpu": Scale(20_000)}


def run(context: RecipeContext) -> Outcome:
    """Draws samples and counts how often each interval holds the share they were drawn with."""
    scale = SCALES[context.scale]
    generator = np.random.default_rng(context.seed)
    drawn = {share: generator.binomial(scale.n, share, scale.samples) for share in scale.shares}
    wald = {share: held(found, share, scale.n, _wald) for share, found in drawn.items()}
    better = {share: held(found, share, scale.n, _wilson) for share, found in drawn.items()}
    ours = f"{scale.samples:,} samples of {scale.n} at each of {len(scale.shares)} shares, with seed {context.seed}."
    numbers = {"wald": list(wald.values()), "wilson": list(better.values()), "shares": list(scale.shares)}
    return Outcome(ours, (judge_wald(wald, better, scale.samples),), numbers, {})


def held(right: np.ndarray, share: float, n: int, interval: Callable[[int, int], tuple[float, float]]) -> float:
    """The part of the samples whose interval holds the share."""
    bounds = {int(k): interval(int(k), n) for k in np.unique(right)}
    return float(np.mean([bounds[int(k)][0] <= share <= bounds[int(k)][1] for k in right]))


def judge_wald(wald: dict[float, float], better: dict[float, float], samples: int) -> ClaimResult:
    """Whether the usual interval misses its promise where Wilson's does not."""
    noise = 3 * math.sqrt(PROMISED * (1 - PROMISED) / samples)
    misses = max(wald.values()) < PROMISED - CLEARLY - noise
    keeps = min(better.values()) > PROMISED - 2 * CLEARLY - noise
    verdict: Verdict = "confirmed" if misses and keeps else "refuted" if not misses else "inconclusive"
    seen = ", ".join(f"{share:g}: {wald[share]:.1%} against {better[share]:.1%}" for share in wald)
    return ClaimResult(
        "Of small samples the usual interval, p ± 1.96 standard errors, holds the truth less often than it says.",
        f"Confirmed: at every share less than {PROMISED - CLEARLY:.0%} by more than noise, and Wilson's not. Refuted: the usual "
        "one keeps its promise somewhere.",
        verdict,
        f"{seen}; n = {samples:,} samples each.",
    )


def _wald(k: int, n: int) -> tuple[float, float]:
    p = k / n
    width = 1.96 * math.sqrt(p * (1 - p) / n)
    return p - width, p + width


def _wilson(k: int, n: int) -> tuple[float, float]:
    found = wilson(k, n)
    return found.low, found.high


RECIPE = Recipe(
    name="wald",
    title="How often the usual interval holds the truth",
    paper="Brown, Cai & DasGupta, Interval Estimation for a Binomial Proportion, Statistical Science 16, 2001",
    claim="The usual interval of a share covers less than it promises, erratically in n and p; Wilson's covers what it does.",
    differences=("Three shares and one n, where the paper draws coverage over all of them.",),
    run=run,
    scales=SCALES,
)
