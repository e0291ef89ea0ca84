"""The parts of a reproduction: claims with criteria, whose digest is kept (criterion.py), and results.

A recipe is one file: the claims, the trainings, their differences from the paper, and a function that runs them. At scale
"smoke", no claim is judged, since a few seconds of training decide nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from limbeck.probes.interval import FEWEST_SEEDS

Verdict = Literal["confirmed", "refuted", "inconclusive"]
_DIFFERENCES = ("difference", " less ", "on the whole")  # words of a clause with the effect of a claim


@dataclass(frozen=True)
class RecipeContext:
    """The context of a run: its folder, its scale ("smoke", "small", "gpu") and the user's choices.

    ``data`` is a source as for `--data`, None for the recipe's own. ``points`` are those of an existing pilot, and only some
    recipes take them. Seeds are ``seed`` to ``seed + seeds - 1``.
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
    """A claim of the paper with its number, the conditions that confirm and refute it, and the result.

    ``seen`` has our number with its interval, n and seeds.
    """

    claim: str
    criterion: str
    verdict: Verdict
    seen: str


def of_seeds(judged: ClaimResult, seeds: int) -> ClaimResult:
    """The result by a criterion with a further condition: fewer than three seeds decide nothing."""
    ruled = replace(judged, criterion=f"{judged.criterion} With fewer than {FEWEST_SEEDS} seeds: inconclusive.")
    if seeds >= FEWEST_SEEDS:
        return ruled
    return replace(
        ruled, verdict="inconclusive", seen=f"{seeds} of the {FEWEST_SEEDS} seeds that decide; {judged.seen}"
    )


def with_failures(judged: ClaimResult, trained: Mapping[str, Sequence[Mapping[str, Any]]]) -> ClaimResult:
    """The result by a criterion with a further condition: an arm whose trainings all diverged decides nothing.

    The text names diverged trainings. ``trained`` has all trainings of each arm that judge the claim.
    """
    failed = {arm: sum(bool(one["failed"]) for one in results) for arm, results in trained.items()}
    lost = any(n == len(trained[arm]) for arm, n in failed.items())
    diverged = ", ".join(f"{arm} {n} of {len(trained[arm])}" for arm, n in failed.items() if n)
    return replace(
        judged,
        criterion=f"{judged.criterion} Inconclusive also where all trainings of one of the kinds diverged.",
        verdict="inconclusive" if lost else judged.verdict,
        seen=judged.seen + (f" Diverged, and judged by the weights before that: {diverged}." if diverged else ""),
    )


@dataclass(frozen=True)
class Outcome:
    """The results of a recipe. ``ours`` describes the run in a sentence or two, and ``numbers`` is written as JSON.

    ``figures`` are files in the recipe's folder with their captions. ``cpu_seconds`` is the time of other processes that the
    recipe knows.
    """

    ours: str
    judged: tuple[ClaimResult, ...]
    numbers: Mapping[str, Any]
    figures: Mapping[Path, str]
    cpu_seconds: float = 0.0


@dataclass(frozen=True)
class Short:
    """A claim in a few words. ``effect`` is a regular expression, or a function, that finds the effect in the result's text.

    Without one, the effect is the first clause with a difference, else the first clause. Semicolons separate clauses.
    """

    claim: str
    effect: str | Callable[[str], str] = ""

    def effect_of(self, seen: str) -> str:
        """The effect with its interval, from the result's text. Semicolons separate several."""
        if callable(self.effect):
            return self.effect(seen)
        if self.effect:
            found = [one.group().strip(" ;.") for one in re.finditer(self.effect, seen)]
            return "; ".join(found) or seen
        clauses = [clause.strip().rstrip(".") for clause in seen.split(";")]
        return next((one for one in clauses if any(word in one for word in _DIFFERENCES)), clauses[0])


def count_of(seen: str, seeds: int) -> str:
    """n with its seeds, from the result's text; the number of seeds alone if there is no n."""
    clauses = [clause.strip().rstrip(".") for clause in seen.split(";")]
    if in_brackets := re.search(r"\((\d[\d,]* [^()]*seeds)\)", clauses[-1]):
        return in_brackets[1]
    found = next((one.partition("n = ")[2] for one in clauses if "n = " in one), "").removesuffix(", one number each")
    return found if "seeds" in clauses[-1] else f"{found}, {seeds} seeds".removeprefix(", ")


@dataclass(frozen=True)
class Recipe:
    """A reproduction of a paper. ``differences`` are those from the paper. ``takes_points``: it can read a pilot's points.

    ``scales`` has all settings of each scale, which are part of the criterion. ``short`` has short forms of claims for the
    page's table, each by words that only its claim has. ``tables`` gives further parts of the page, in Markdown, from the numbers
    of an outcome. Both are display only.
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
    tables: Callable[[Mapping[str, Any]], Sequence[str]] = lambda numbers: ()

    def short_of(self, claim: str) -> Short:
        """The short form of a claim, or the claim itself if it has none."""
        return next((short for words, short in self.short.items() if words in claim), Short(claim))
