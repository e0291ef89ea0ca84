"""The claims about Compressor with their criteria: of its space by counting, of students by intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from limbeck.papers.compressor.space import HEADS, PUBLISHED, Encoder
from limbeck.papers.lab.paired import nothing_in, with_interval
from limbeck.papers.lab.recipe import ClaimResult, Verdict, of_seeds
from limbeck.probes.interval import Interval
from limbeck.report.words import interval

# Set before the first run. Our choice: 0.01 nats is one per cent of perplexity, too little to change a shape for.
LEAST = 0.01
ORDERED, UNORDERED = 0.6, 0.2  # rank correlation that is an order, and that is none
USUALLY = 0.5  # share of searches
SLOWER = 1.05  # times as long a token that counts as equally fast: a clock is not more exact


def judge_published(megabytes: int, best: Encoder) -> ClaimResult:
    """Judges by the fittest point of the whole space whether the published configuration is it."""
    published = PUBLISHED[megabytes]
    ours, theirs = best.fitness(megabytes), published.fitness(megabytes)
    inside = published.heads in HEADS
    verdict: Verdict = "confirmed" if best == published else "refuted" if ours > theirs else "inconclusive"
    outside = "" if inside else f" Its {published.heads} heads are not in the released space."
    return ClaimResult(
        f"The configuration published for {megabytes} MB is the best of the search space, by the paper's fitness.",
        "Exact, by counting all 10,944,000 points. Confirmed: it is the fittest point. Refuted: a point is fitter.",
        verdict,
        f"fittest: {best}, {best.gflops():.3f} GFLOPs, fitness {ours:.3f}; published: {published}, "
        f"{published.gflops():.3f} GFLOPs, fitness {theirs:.3f}; n = 10,944,000 points; counted, so without seeds.{outside}",
    )


def judge_search(found: Mapping[int, Interval]) -> ClaimResult:
    """Judges by the share of genetic searches, for each target, that end in a point as fit as the fittest of all."""
    verdict: Verdict = "inconclusive"
    if any(share.high < USUALLY for share in found.values()):
        verdict = "refuted"
    elif all(share.low > USUALLY for share in found.values()):
        verdict = "confirmed"
    n = next(iter(found.values())).n
    return ClaimResult(
        "The paper's genetic search finds the best point of its space.",
        f"By the share of searches, each the best of ten runs, that find it, with its Wilson interval. Confirmed: above "
        f"{USUALLY} for each target size. Refuted: below {USUALLY} for one. Inconclusive otherwise.",
        verdict,
        "; ".join(f"{size} MB: {interval(share, '.2f')} of the searches" for size, share in found.items())
        + f"; n = {n} searches of each size, one number each.",
    )


@dataclass(frozen=True)
class Order:
    """Students of equal bytes: the rank correlation of FLOPs per token with quality, and the gain of most over fewest FLOPs."""

    ranks: Interval
    most_over_fewest: Interval

    @property
    def verdict(self) -> Verdict:
        """Whether more FLOPs go with fewer nats."""
        if self.ranks.value <= UNORDERED or nothing_in(self.most_over_fewest, LEAST) or self.most_over_fewest.high < 0:
            return "refuted"
        if self.ranks.value >= ORDERED and self.ranks.low > 0 and self.most_over_fewest.low > 0:
            return "confirmed"
        return "inconclusive"

    def seen(self, seeds: int) -> str:
        """Both numbers as text."""
        most = self.most_over_fewest
        return (
            f"rank correlation {interval(self.ranks, '+.2f')}; the shape of most FLOPs is {with_interval(most)} nats better than "
            f"that of fewest ({most.n} documents, {seeds} seeds)"
        )


_ORDER = (
    f"Confirmed: Spearman's correlation of FLOPs per token with quality is {ORDERED} or more, its 95 % interval is above 0, and "
    "the shape of most FLOPs is better than that of fewest, with its interval. Refuted: the correlation is "
    f"{UNORDERED} or less, or that gain's interval is below 0, or holds 0 or less and ends below {LEAST} nats. Inconclusive "
    "otherwise."
)


def judge_proxy(order: Order, *, seeds: int) -> ClaimResult:
    """Judges what the fitness assumes, at equal bytes and equal tokens."""
    judged = ClaimResult(
        "At an equal number of bytes, a model of more FLOPs is the better student (why the fitness maximises them).",
        f"By loss on held-out text, at equal tokens, each shape with its own rate. {_ORDER}",
        order.verdict,
        order.seen(seeds),
    )
    return of_seeds(judged, seeds)


def judge_compute(order: Order, *, seeds: int) -> ClaimResult:
    """Judges the control: the same shapes, each with as many tokens as the FLOPs of the cheapest training buy."""
    judged = ClaimResult(
        "It is the shape that helps, not the compute that it takes: the order stays at equal training FLOPs (a control that the "
        "paper has not).",
        f"As at equal tokens; each shape has fewer tokens, the more FLOPs it takes. {_ORDER}",
        order.verdict,
        order.seen(seeds),
    )
    return of_seeds(judged, seeds)


def judge_choice(gain: Interval, retained: tuple[float, float], slower: float, *, seeds: int) -> ClaimResult:
    """Judges by how many nats the fitness's choice is better than the shape that `limbeck plan --bytes` chooses.

    ``retained``: the share of the teacher's nats below chance that each keeps, the fitness's first. ``slower``: how many times
    as long the planned one takes for a token.
    """
    verdict: Verdict = "inconclusive"
    if slower <= SLOWER and gain.low > 0:
        verdict = "confirmed"
    elif slower <= SLOWER and (gain.high < 0 or nothing_in(gain, LEAST)):
        verdict = "refuted"
    judged = ClaimResult(
        "What the fitness chooses keeps more of its teacher than a balanced shape that is no larger and no slower (3 MB models "
        "are said to keep 96 to 99 % of their teachers' quality).",
        "By loss on held-out text, at equal tokens; the balanced shape is that of `limbeck plan --bytes`. Confirmed: the "
        "fitness's choice is better, with its 95 % interval. Refuted: the interval is below 0, or holds 0 or less and ends below "
        f"{LEAST} nats. Inconclusive otherwise, and where the balanced shape takes over {SLOWER:g} times as long a token.",
        verdict,
        f"{with_interval(gain)} nats better than the balanced shape; of the teacher's nats below chance it keeps "
        f"{retained[0]:.1%}, the balanced one {retained[1]:.1%} in {slower:.2f} times the time a token "
        f"({gain.n} documents, {seeds} seeds)",
    )
    return of_seeds(judged, seeds)
