"""How long both sides of preference pairs are, and how far a judge's scores go with length; prompts are the sampling unit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from jaxtyping import Float

from limbeck.disk import finite
from limbeck.jobs.capture.choosing import Candidate, Sides
from limbeck.probes.interval import Interval, bootstrap, mean_interval, share_interval

CHOSEN, REJECTED, LONGER, CORRELATION = "chosen_tokens", "rejected_tokens", "longer_chosen", "score_length_correlation"


def lengths(pairs: Sequence[Sequence[Sides]], judged: Sequence[Sequence[Candidate]]) -> dict[str, Any]:
    """The readings by name, each with ``value``, ``low``, ``high`` and ``n`` prompts.

    ``pairs`` are those of each prompt, ``judged`` all its texts with a score. Of both sides the mean number of tokens, the share
    of pairs whose preferred side is longer (one half for equal ones), and within prompts the correlation of scores with numbers
    of tokens.
    """
    there = [some for some in pairs if some]
    found: dict[str, Interval] = {}
    if there:
        count = np.array([float(len(some)) for some in there])
        for name, side in ((CHOSEN, 0), (REJECTED, 1)):
            sums = np.array([float(sum(sides[side].tokens for sides in some)) for some in there])
            found[name] = mean_interval(sums, count).within(0.0)
        wins = np.array([sum((np.sign(a.tokens - b.tokens) + 1) / 2 for a, b in some) for some in there])
        found[LONGER] = share_interval(wins, count)
    columns = np.array([_products(some) for some in judged if len(some) > 1])
    if len(columns):
        found[CORRELATION] = bootstrap(_correlation, columns[None])[0].within(-1.0, 1.0)
    return {name: finite(asdict(one)) for name, one in found.items() if np.isfinite(one.value)}


def _products(some: Sequence[Candidate]) -> Float[np.ndarray, " 3"]:
    """Sums over a prompt's texts of squares and products of score and length, each less its mean there."""
    score = np.array([one.score for one in some], dtype=float)
    tokens = np.array([one.tokens for one in some], dtype=float)
    score, tokens = score - score.mean(), tokens - tokens.mean()
    return np.array([(score**2).sum(), (tokens**2).sum(), (score * tokens).sum()])


def _correlation(total: Float[np.ndarray, "*draws 3"]) -> Float[np.ndarray, "*draws 1"]:
    scores, tokens, products = np.moveaxis(total, -1, 0)
    spread = np.sqrt(scores * tokens)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(spread > 0, products / spread, np.nan)[..., None]
