"""What a reproduction of a paper is: claims with criteria, whose digest is kept (criterion.py), and what was seen.

A recipe is one file: the claims, what was done here, where that differs, and a function that does it. What surprises: at
scale "smoke" nothing is ever judged, since so few seconds decide nothing, whatever they show.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from limbeck.probes.interval import FEWEST_SEEDS

Verdict = Literal["confirmed", "refuted", "inconclusive"]
_DIFFERENCES = ("difference", " less ", "on the whole")  # words of a clause that gives the effect of a claim


@dataclass(frozen=True)
class RecipeContext:
    """Where a recipe runs: its folder, its scale ("smoke", "small", "gpu") and what a user may choose.

    ``data`` is a source as `--data` takes it, None for the recipe's own. ``points`` are those of a pilot that exists
    already, given only to recipes that take them. Seeds are ``seed`` to ``seed + seeds - 1``.
    """

    out: Path
    scale: str
    data: str | None
    seed: int
    seeds: int
    workers: int
    device: str
    points: Path | None = None


@dataclass(frozen=True)
class ClaimResult:
    """A claim of the paper with its number, what confirms and what refutes it, and what came out here.

    ``seen`` gives our number with its interval, n and seeds.
    """

    claim: str
    criterion: str
    verdict: Verdict
    seen: str


def of_seeds(judged: ClaimResult, seeds: int) -> ClaimResult:
    """The same by a criterion that adds: fewer than three seeds decide nothing."""
    ruled = replace(judged, criterion=f"{judged.criterion} With fewer than {FEWEST_SEEDS} seeds: inconclusive.")
    if seeds >= FEWEST_SEEDS:
        return ruled
    return replace(
        ruled, verdict="inconclusive", seen=f"{seeds} of the {FEWEST_SEEDS} seeds that decide; {judged.seen}"
    )


def with_failures(judged: ClaimResult, trained: Mapping[str, Sequence[Mapping[str, Any]]]) -> ClaimResult:
    """The same by a criterion that adds: where all trainings of an arm diverged nothing is known of it. Those that did are told.

    ``trained`` has of each arm all trainings that the claim is judged by.
    """
    failed = {arm: sum(bool(one["failed"]) for one in results) for arm, results in trained.items()}
    lost = any(n == len(trained[arm]) for arm, n in failed.items())
    told = ", ".join(f"{arm} {n} of {len(trained[arm])}" for arm, n in failed.items() if n)
    return replace(
        judged,
        criterion=f"{judged.criterion} Inconclusive also where all trainings of one of the kinds diverged.",
        verdict="inconclusive" if lost else judged.verdict,
        seen=judged.seen + (f" Diverged, and judged by the weights before that: {told}." if told else ""),
    )


@dataclass(frozen=True)
class Outcome:
    """What a recipe found. ``ours`` says in a sentence or two what was run; ``numbers`` is written as JSON.

    ``figures`` are files in the recipe's folder, each with what it shows. ``cpu_seconds`` is what other processes spent
    and the recipe knows of.
    """

    ours: str
    judged: tuple[ClaimResult, ...]
    numbers: Mapping[str, Any]
    figures: Mapping[Path, str]
    cpu_seconds: float = 0.0


@dataclass(frozen=True)
class Short:
    """A claim in a few words, and its effect: what ``effect`` makes of what was seen, or finds there as a regular expression.

    Without one it is the first clause that is a difference, else the first. Clauses have semicolons between them.
    """

    claim: str
    effect: str | Callable[[str], str] = ""

    def effect_of(self, seen: str) -> str:
        """The effect with its interval, as it was seen; several with semicolons between them."""
        if callable(self.effect):
            return self.effect(seen)
        if self.effect:
            found = [one.group().strip(" ;.") for one in re.finditer(self.effect, seen)]
            return "; ".join(found) or seen
        clauses = [clause.strip().rstrip(".") for clause in seen.split(";")]
        return next((one for one in clauses if any(word in one for word in _DIFFERENCES)), clauses[0])


def count_of(seen: str, seeds: int) -> str:
    """n with its seeds, as what was seen has it; the number of seeds alone where it has no n."""
    clauses = [clause.strip().rstrip(".") for clause in seen.split(";")]
    if in_brackets := re.search(r"\((\d[\d,]* [^()]*seeds)\)", clauses[-1]):
        return in_brackets[1]
    found = next((one.partition("n = ")[2] for one in clauses if "n = " in one), "").removesuffix(", one number each")
    return found if "seeds" in clauses[-1] else f"{found}, {seeds} seeds".removeprefix(", ")


@dataclass(frozen=True)
class Recipe:
    """A paper's reproduction. Its ``differences`` say what here is not as there; ``takes_points``: a pilot may be given.

    ``scales``: by the name of a scale all that it sets, which is part of the criterion. ``short``: short forms of claims for the
    page's table, each by words that its claim has and no other; they only show.
    """

    name: str
    title: str
    paper: str
    claim: str
    differences: tuple[str, ...]
    run: Callable[[RecipeContext], Outcome]
    scales: Mapping[str, Any]
    takes_points: bool = False
    short: Mapping[str, Short] = field(default_factory=dict)

    def short_of(self, claim: str) -> Short:
        """The short form of a claim; without one it stands for itself."""
        return next((short for words, short in self.short.items() if words in claim), Short(claim))
