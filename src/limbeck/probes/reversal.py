"""Facts asked both ways: what a model says of Paris when asked of France, and of France when asked of Paris.

The candidates of a question are what is asked for in all facts, ranked by their likelihood as answers; equal ones share their
ranks. A model that ranks one way well and the other at chance has learned the facts in one direction (arXiv
2309.12288, 2504.01928).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from limbeck.errors import BadTask
from limbeck.models.load import LanguageModel
from limbeck.probes.interval import Interval, mean_interval, wilson
from limbeck.probes.spoken import log_likelihood
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
    path = Path(path).expanduser()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadTask(f"{path}: expected JSONL facts of UTF-8 text that can be read, got: {error}") from error
    facts = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            facts.append(_fact(line, f"{path}:{number}"))
    if len(facts) < _FEWEST:
        raise BadTask(f"{path}: expected at least {_FEWEST} facts, since each is ranked among all, got {len(facts)}")
    return facts


def reversal(model: LanguageModel, facts: Sequence[Fact], *, seed: int = 0) -> list[Reading]:
    """Hits@1 and the mean reciprocal rank both ways, with what a random order would reach."""
    readings = []
    for way, prompts, answers in (
        ("forward", [fact.forward for fact in facts], [fact.object for fact in facts]),
        ("backward", [fact.backward for fact in facts], [fact.subject for fact in facts]),
    ):
        candidates = list(dict.fromkeys(answers))
        pairs = [(prompt, f" {candidate}") for prompt in prompts for candidate in candidates]
        scores = log_likelihood(model, pairs).reshape(len(facts), len(candidates))
        rank = ranks(scores, np.array([candidates.index(answer) for answer in answers]))
        hits = wilson(int((rank == 1).sum()), len(rank))
        mean = mean_interval(1 / rank, np.ones(len(rank)))
        n = len(candidates)
        by_luck = float((1 / np.arange(1, n + 1)).mean())
        found = {
            f"reversal_{way}_hits": hits,
            f"reversal_{way}_mrr": mean,
            f"reversal_{way}_hits_chance": Interval(1 / n, 1 / n, 1 / n, 1),
            f"reversal_{way}_mrr_chance": Interval(by_luck, by_luck, by_luck, 1),
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


def _fact(line: str, where: str) -> Fact:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise BadTask(f"{where}: expected one JSON object a line, got {line.strip()[:60]!r}: repair it") from error
    if not isinstance(row, dict) or any(not isinstance(row.get(key), str) or not row[key] for key in _KEYS):
        raise BadTask(
            f"{where}: expected texts for {', '.join(map(repr, _KEYS))}, got {line.strip()[:80]!r}: add what is missing"
        )
    return Fact(*(row[key] for key in _KEYS))
