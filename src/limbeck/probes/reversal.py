"""Facts asked both ways: what a model says of Paris when asked of France, and of France when asked of Paris.

The candidates of a question are what is asked for in all facts, ranked by their likelihood as answers; equal ones share their
ranks. A prompt that several facts share is asked once, and each of their answers is right: the best of them is ranked, without
the others. A model that ranks one way well and the other at chance has learned the facts in one direction (arXiv 2309.12288,
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
    """``forward`` is a text that the object goes on, ``backward`` one that the subject does."""

    subject: str
    object: str
    forward: str
    backward: str


def known_facts() -> list[Fact]:
    """Countries and their capitals."""
    pairs = (pair.split(":") for pair in _CAPITALS.split())
    return [Fact(country, city, f"The capital of {country} is", f"{city} is the capital of") for country, city in pairs]


def read_facts(path: str | Path) -> list[Fact]:
    """The facts of a JSONL file of ``{"subject", "object", "forward", "backward"}``. Raises BadTask for a faulty one."""
    found = existing(path)
    if found is None:
        raise BadTask(f"{shown(path)}: expected JSONL facts, got a path that does not exist: check the spelling")
    facts = [_fact(row, f"{path}:{number}") for number, row in task_rows(found)]
    if len(facts) < _FEWEST:
        raise BadTask(f"{path}: expected at least {_FEWEST} facts, since each is ranked among all, got {len(facts)}")
    return facts


@probe("reversal", reads=("seed", "task"))
def probe_reversal(model: LanguageModel, teacher: LanguageModel | None, context: ProbeContext) -> list[Reading]:
    """`reversal` of a model, on the facts of a file or the known ones."""
    facts = known_facts() if context.task is None else read_facts(context.task)
    return reversal(model, facts, seed=context.seed)


def reversal(model: LanguageModel, facts: Sequence[Fact], *, seed: int = 0) -> list[Reading]:
    """Hits@1 and the mean reciprocal rank both ways, with what a random order and the commonest answer alone would reach."""
    readings = []
    for way, told in (
        ("forward", [(fact.forward, fact.object) for fact in facts]),
        ("backward", [(fact.backward, fact.subject) for fact in facts]),
    ):
        prompts, candidates = (list(dict.fromkeys(texts)) for texts in zip(*told, strict=True))
        right = np.zeros((len(prompts), len(candidates)), dtype=bool)
        for prompt, answer in told:
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
    """The rank of the right candidate, 1 for the best; among equal ones the middle of their ranks."""
    mine = np.take_along_axis(scores, right[:, None], 1)
    return 1 + (scores > mine).sum(1) + ((scores == mine).sum(1) - 1) / 2


def _best_ranks(
    scores: Float[np.ndarray, "n candidates"], right: Bool[np.ndarray, "n candidates"]
) -> Float[np.ndarray, " n"]:
    """The rank of the best right candidate of each question, the other right ones left out."""
    best = np.where(right, scores, -np.inf).argmax(1)
    others = right.copy()
    others[np.arange(len(best)), best] = False
    return ranks(np.where(others, -np.inf, scores), best)


def _reciprocal_at_random(candidates: int, right: int) -> float:
    """The mean of 1 / rank of the best of some right candidates, where all orders are as likely."""
    of_rank = (math.comb(candidates - rank, right - 1) / rank for rank in range(1, candidates - right + 2))
    return sum(of_rank) / math.comb(candidates, right)


def _fact(row: Record, where: str) -> Fact:
    if wrong := [key for key in _KEYS if not isinstance(row.get(key), str) or not row[key]]:
        came = kind(row[wrong[0]]) if wrong[0] in row else "none"
        raise BadTask(
            f"{where}: expected texts for {', '.join(map(repr, _KEYS))}, got {came} for {wrong[0]!r}: add what is missing"
        )
    return Fact(*(row[key] for key in _KEYS))
