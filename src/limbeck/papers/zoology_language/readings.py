"""What the claims are judged by: sums of nats over slices of held-out text, and gaps between two models on the same text.

A slice is a bin of recall hits by the training count of their bigram, or all other tokens (`probes.slices`). Gaps are paired by
seed and document. Intervals are over documents and seeds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from limbeck.probes.interval import Interval, bootstrap

ALL, HITS, ELSEWHERE = "all tokens", "recall hits", "elsewhere"
RARE = "rare hits"  # whose bigram training has at most ten times
_PARTS = {ALL: slice(None), HITS: slice(0, -1), ELSEWHERE: slice(-1, None), RARE: slice(0, 2)}

Sums = Float[np.ndarray, "seeds documents slices"]
Columns = Float[np.ndarray, "seeds documents"]


@dataclass(frozen=True)
class Sliced:
    """The sums of an arm at a size over its seeds. The last slice is all tokens that are no hits.

    ``far_tokens`` and ``far_nats`` are those of hits by distance.
    """

    tokens: Sums
    nats: Sums
    far_tokens: Sums
    far_nats: Sums

    @classmethod
    def of(cls, results: Sequence[Mapping[str, Any]]) -> Sliced:
        """The sums of trainings, one a seed."""
        names = ("tokens", "nats", "far_tokens", "far_nats")
        return cls(*(np.array([one[name] for one in results], dtype=float) for name in names))

    @property
    def size(self) -> str:
        """The number of documents and seeds, as text."""
        return f"n = {self.tokens.shape[1]:,} documents, {len(self.tokens)} seeds"

    def seeds(self, count: int) -> Sliced:
        """The first seeds alone."""
        return Sliced(self.tokens[:count], self.nats[:count], self.far_tokens[:count], self.far_nats[:count])


def mean(found: Sliced, part: str = ALL) -> Interval:
    """Nats per token of a part."""
    return ratio(found.nats[..., _PARTS[part]].sum(-1), found.tokens[..., _PARTS[part]].sum(-1))


def share_of(found: Sliced, part: str) -> float:
    """The share of tokens that are in a part."""
    return float(found.tokens[..., _PARTS[part]].sum() / found.tokens.sum())


def gap(more: Sliced, less: Sliced, part: str = ALL) -> Interval:
    """How many nats per token of a part the first has more than the second."""
    return ratio(_gap(more, less, part), more.tokens[..., _PARTS[part]].sum(-1))


def share_of_gap(pairs: Sequence[tuple[Sliced, Sliced]], part: str = HITS) -> Interval:
    """The share of the summed gaps of several pairs (more, less) that lies on a part, not clipped to 0 and 1.

    It means nothing where the whole gap may be 0. All pairs have the same documents and seeds.
    """
    return ratio(sum_of(pairs, part), sum_of(pairs, ALL))


def pooled_gap(pairs: Sequence[tuple[Sliced, Sliced]], part: str = ALL) -> Interval:
    """The mean gap of several pairs (more, less) in nats per token of a part."""
    tokens = np.sum([more.tokens[..., _PARTS[part]].sum(-1) for more, _ in pairs], 0)
    return ratio(sum_of(pairs, part), tokens)


def pooled_excess(pairs: Sequence[tuple[Sliced, Sliced]]) -> Interval:
    """How much larger the mean gap per token is on hits than elsewhere, in nats."""
    columns = [
        column
        for part in (HITS, ELSEWHERE)
        for column in (sum_of(pairs, part), np.sum([m.tokens[..., _PARTS[part]].sum(-1) for m, _ in pairs], 0))
    ]
    return bootstrap(
        lambda total: total[..., :1] / total[..., 1:2] - total[..., 2:3] / total[..., 3:], np.stack(columns, -1)
    )[0]


def sum_of(pairs: Sequence[tuple[Sliced, Sliced]], part: str) -> Columns:
    """The summed gaps of several pairs on a part, by seed and document."""
    total: Columns = np.sum([_gap(more, less, part) for more, less in pairs], 0)
    return total


def closed(hybrid: Sliced, without: Sliced, attention: Sliced, part: str) -> Interval:
    """The share of the gap between models without attention and with it alone that a hybrid closes on a part."""
    return ratio(_gap(without, hybrid, part), _gap(without, attention, part))


def ratio(sums: Columns, counts: Columns) -> Interval:
    """The ratio of two sums over documents, with its interval over documents and seeds; NaN if nothing was counted."""
    if not counts.any():
        return Interval(math.nan, math.nan, math.nan, 0)
    return bootstrap(lambda total: total[..., :1] / total[..., 1:], np.stack([sums, counts], -1))[0]


def _gap(more: Sliced, less: Sliced, part: str) -> Columns:
    found: Columns = (more.nats[..., _PARTS[part]] - less.nats[..., _PARTS[part]]).sum(-1)
    return found
