"""Shared parts of recipes that judge a pilot: its points, whether its learning rates suited both ends, and a figure.

The pilot runs in the recipe's folder, or an existing one is read. It has the points for both laws, so one pilot serves every
recipe that reads one: limbeck reproduce distillation-law --points runs/capacity-gap-small/pilot.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypedDict

from limbeck.config import PilotSettings
from limbeck.corpora import read
from limbeck.disk import read_json, write_text
from limbeck.errors import BadPoints
from limbeck.jobs.pilot import pilot
from limbeck.jobs.pilot.results import ratio_fits
from limbeck.papers.lab.recipe import RecipeContext
from limbeck.planning.laws.points import Point, read_points
from limbeck.planning.laws.ratio import RatioFit
from limbeck.report.ladder import draw_ladder

FIGURE = "ladder.png"
_SIZES = {"smoke": {"students": "30k", "teachers": "38k,52k,72k"}, "small": {}, "gpu": {}}
_SMOKE_SEEDS = 2
_SMOKE_MODULES = 60  # of the standard library


@dataclass(frozen=True)
class Evidence:
    """``points`` of a pilot, the checks of its learning ``rates`` from its fits.json, and ``said``: the pilot in a sentence."""

    points: tuple[Point, ...]
    rates: tuple[Mapping[str, Any], ...]
    figures: Mapping[Path, str]
    said: str
    cpu_seconds: float

    @property
    def size(self) -> str:
        """The number of points and seeds, as text."""
        return size_of(self.points)


def size_of(points: Sequence[Point]) -> str:
    """The number of points and seeds, as text: the n of a claim."""
    return f"n = {len(points)} trainings, {len({point.seed for point in points})} seeds"


def evidence(context: RecipeContext) -> Evidence:
    """Runs a pilot in the recipe's folder or continues it, or reads the given points."""
    place, spent = context.points, 0.0
    if place is None:
        place = context.out / "pilot"
        spent = pilot(_settings(context, place))["cpu_seconds"]
    table = read_points(place)
    distilled = [p for p in table.points if p.distilled]
    teachers = {(p.teacher_params, p.teacher_tokens) for p in distilled}
    failed = f" {len(table.skipped)} came to nothing and are left out." if table.skipped else ""
    said = (
        f"{'A pilot' if context.points is None else f'The pilot of {context.points}'}: {len(teachers)} teachers, "
        f"{len({p.student_params for p in distilled})} sizes of student, {size_of(table.points)}.{failed}"
        f"{'' if context.points is None else ' What it cost is not counted below.'}"
    )
    if distilled:
        fits = {arm: fit for arm, fit in ratio_fits(table.points).items() if isinstance(fit, RatioFit)}
        draw_ladder(table.points, fits, context.out / FIGURE)
    shown = {context.out / FIGURE: "Students by the size of their teacher and by its own loss, and the best teachers."}
    return Evidence(table.points, _rates(place), shown if distilled else {}, said, spent)


def _settings(context: RecipeContext, out: Path) -> PilotSettings:
    given: dict[str, Any] = {
        "out": out,
        "scale": context.scale,
        "seed": context.seed,
        "workers": context.workers,
        "law": True,
    }
    given |= _SIZES[context.scale]
    given |= {"seeds": context.seeds} if context.data is None else {"seeds": context.seeds, "data": context.data}
    if context.scale == "smoke":
        given |= {"seeds": min(context.seeds, _SMOKE_SEEDS), "data": context.data or str(little(context.out))}
    return PilotSettings(**given)


def little(out: Path) -> Path:
    """A part of python:stdlib in a file of this folder, since tokenising all of it takes too long for a smoke run."""
    file = out / "text.jsonl"
    if not file.exists():
        lines = (json.dumps({"text": d.content}) + "\n" for d in islice(read("python:stdlib"), _SMOKE_MODULES))
        write_text(file, "".join(lines))
    return file


class _Fits(TypedDict):
    """The learning rates in a pilot's fits.json."""

    rates: list[dict[str, Any]]


def _rates(place: Path) -> tuple[Mapping[str, Any], ...]:
    beside = (place if place.is_dir() else place.parent) / "fits.json"
    if not beside.is_file():
        return ()
    return tuple(read_json(beside, _Fits, error=BadPoints, remedy="run the pilot's command again")["rates"])


def unsuited(rates: Sequence[Mapping[str, Any]]) -> str:
    """A reason why learning rates may explain a pilot; "" if no other rate gains more at an end than seeds differ."""
    if not rates:
        return "the learning rates were not checked at the ends"
    unknown = [r for r in rates if r["gain_nats"] is None or r["seed_sd_nats"] is None]
    better = [r for r in rates if r not in unknown and r["gain_nats"] > r["seed_sd_nats"]]
    if better:
        most = max(better, key=lambda r: r["gain_nats"])
        return (
            f"at {len(better)} of {len(rates)} checks of the ends another learning rate is better by more than seeds differ, "
            f"at most by {most['gain_nats']:.3f} nats (seeds: {most['seed_sd_nats']:.3f}; {most['lr_factor']:g} times the rate)"
        )
    return (
        f"{len(unknown)} of {len(rates)} checks of the learning rate have no result or a single seed" if unknown else ""
    )
