"""The reversal probe: each fact is queried in both directions, such as France to Paris and Paris to France.

The candidates of a question are the answers of all facts, ranked by likelihood; equal candidates share their ranks. A prompt
that several facts share is queried once, and all of their answers are correct: the best one is ranked, without the others. A
model that ranks one direction well and the other at chance has learned the facts in one direction only (arXiv 2309.12288,
2504.01928).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from limbeck.corpora.jsonl import Record
from limbeck.corpora.records import kind
from limbeck.disk import existing, shown
from limbeck.errors import BadTask
from limbeck.models.language_model import LanguageModel
from limbeck.probes.completions import log_likelihood
from limbeck.probes.interval import Interval, mean_interval, wilson
from limbeck.probes.named import ProbeContext, probe
from limbeck.probes.tasks import task_rows
from limbeck.types import Reading

_FEWEST = 3
_KEYS = ("subject", "object", "forward", "backward")
_CAPITALS = (
    "France:Paris Germany:Berlin Italy:Rome Spain:Madrid Portugal:Lisbon Austria:Vienna Poland:Warsaw Greece:Athens Norway:Oslo "
    "Sweden:Stockholm Denmark:Copenhagen Finland:Helsinki Ireland:Dublin Hungary:Budapest Russia:Moscow Turkey:Ankara "
    "Egypt:Cairo Japan:Tokyo China:Beijing India:Delhi Iran:Tehran Iraq:Baghdad Kenya:Nairobi Cuba:Havana Peru:Lima "
    "Chile:Santiago Canada:Ottawa Belgium:Brussels Ukraine:Kyiv Thailand:Bangkok"
)


@dataclass(frozen=True)
class Fact:
    """A fact with two prompts: the object continues ``forward``, and the subject continues ``backward``."""

    subject: str
    object: str
    forward: str
    backward: str


def known_facts() -> list[Fact]:
    """The built-in facts: countries and their capitals."""
    pairs = (pair.split(":") for pair in _CAPITALS.split())
    return [Fact(country, city, f"The capital of {country} is", f"{city} is the capital of") for country, city in pairs]


def read_facts(path: str | Path) -> list[Fact]:
    """Reads facts from a JSONL file with the keys subject, object, forward and backward. Raises BadTask for a faulty file."""
    found = existing(path)
    if found is None:
        raise BadTask(f"{shown(path)}: expected JSONL facts, got a path that does not exist: check the spelling")
    facts = [_fact(row, f"{path}:{number}") for number, row in task_rows(found)]
    if len(facts) < _FEWEST:
        raise BadTask(f"{path}: expected at least {_FEWEST} facts, since each is ranked among all, got {len(facts)}")
    return facts


@probe("reversal", reads=("seed", "task"))
def probe_reversal(model: LanguageModel, teacher: LanguageModel | None, context: ProbeContext) -> list[Reading]:
    """The readings of `reversal` for a model, on the facts of a file or the built-in ones."""
    facts = known_facts() if context.task is None else read_facts(context.task)
    return reversal(model, facts, seed=context.seed)


def reversal(model: LanguageModel, facts: Sequence[Fact], *, seed: int = 0) -> list[Reading]:
    """Hits@1 and mean reciprocal rank in both directions, beside those of a random order and of the most frequent answer."""
    readings = []
    for way, facts_of_way in (
        ("forward", [(fact.forward, fact.object) for fact in facts]),
        ("backward", [(fact.backward, fact.subject) for fact in facts]),
    ):
        prompts, candidates = (list(dict.fromkeys(texts)) for texts in zip(*facts_of_way, strict=True))
        right = np.zeros((len(prompts), len(candidates)), dtype=bool)
        for prompt, answer in facts_of_way:
            right[prompts.index(prompt), candidates.index(answer)] = True
        pairs = [(prompt, f" {candidate}") for prompt in prompts for candidate in candidates]
        rank = _best_ranks(log_likelihood(model, pairs).reshape(right.shape), right)
        by_luck = float(np.mean([_reciprocal_at_random(len(candidates), int(m)) for m in right.sum(1)]))
        one_hit = float(right.mean())
        found = {
            f"reversal_{way}_hits": wilson(int((rank == 1).sum()), len(rank)),
            f"reversal_{way}_mrr": mean_interval(1 / rank, np.ones(len(rank))).within(0.0, 1.0),
            f"reversal_{way}_hits_chance": Interval(one_hit, one_hit, one_hit, 1),
            f"reversal_{way}_mrr_chance": Interval(by_luck, by_luck, by_luck, 1),
            f"reversal_{way}_hits_commonest": wilson(int(right.sum(0).max()), len(rank)),
        }
        readings += [
            Reading(
                model.name, "reversal", name, x.value, "share" if "hits" in name else "1/rank", x.n, x.low, x.high, seed
            )
            for name, x in found.items()
        ]
    return readings


def ranks(scores: Float[np.ndarray, "n candidates"], right: np.ndarray) -> Float[np.ndarray, " n"]:
    """The rank of the correct candidate of each row, from 1 for the best. Equal scores share the mean of their ranks.

    ``right`` is the index of the correct candidate, (n,).
    """
    mine = np.take_along_axis(scores, right[:, None], 1)
    return 1 + (scores > mine).sum(1) + ((scores == mine).sum(1) - 1) / 2


def _best_ranks(
    scores: Float[np.ndarray, "n candidates"], right: Bool[np.ndarray, "n candidates"]
) -> Float[np.ndarray, " n"]:
    """The rank of the best correct candidate of each question, without the other correct ones."""
    best = np.where(right, scores, -np.inf).argmax(1)
    others = right.copy()
    others[np.arange(len(best)), best] = False
    return ranks(np.where(others, -np.inf, scores), best)


def _reciprocal_at_random(candidates: int, right: int) -> float:
    """The mean of 1 / rank of the best of ``right`` correct candidates in a uniformly random order."""
    of_rank = (math.comb(candidates - rank, right - 1) / rank for rank in range(1, candidates - right + 2))
    return sum(of_rank) / math.comb(candidates, right)


def _fact(row: Record, where: str) -> Fact:
    if wrong := [key for key in _KEYS if not isinstance(row.get(key), str) or not row[key]]:
        came = kind(row[wrong[0]]) if wrong[0] in row else "none"
        raise BadTask(
            f"{where}: expected texts for {', '.join(map(repr, _KEYS))}, got {came} for {wrong[0]!r}: add what is missing"
        )
    return Fact(*(row[key] for key in _KEYS))
