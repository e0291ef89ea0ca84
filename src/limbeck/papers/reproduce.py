"""`limbeck reproduce`: runs a recipe in a folder, judges its claims, and writes its page.

The same command continues. The page (README.md) and reproduction.json have the claim, the run and its differences from the
paper, the cost, and a verdict for each claim: confirmed, refuted or inconclusive by its criterion. The digest of the criterion
is recorded from the first start on. If it changed, the page begins with that.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

import torch
from rich.console import Console
from rich.text import Text

from limbeck.config import ReproduceSettings
from limbeck.disk import claims, finite, write_json, write_text
from limbeck.errors import BadSetting
from limbeck.jobs.common.environment import require_device
from limbeck.jobs.common.folder import claim, now, signature_of, update
from limbeck.papers import recipe
from limbeck.papers.lab import provenance
from limbeck.papers.lab.criterion import criterion_of
from limbeck.papers.lab.recipe import ClaimResult, Outcome, Recipe, RecipeContext, Verdict, count_of
from limbeck.planning.laws.points import read_points
from limbeck.report.words import duration

_SMOKE = "this scale only checks that everything runs; "


@claims()
def reproduce(settings: ReproduceSettings) -> dict[str, Any]:
    """Runs a recipe; gives ``{"out", "recipe", "scale", "judged", "ours", "numbers", "seconds", "cpu_seconds"}``.

    Raises BadSetting for an unknown recipe or a device that is not available, BadPoints for points that cannot be read, and the
    errors of the recipe's jobs.
    """
    chosen = recipe(settings.recipe)
    _check(settings, chosen)
    out = settings.out or _usual_folder(settings)
    run = claim(out, signature_of(settings, "reproduce"))
    judged_by = criterion_of(chosen, settings.scale)
    provenance.started(out, run, judged_by, recipe=chosen.name, scale=settings.scale)
    started, before = time.monotonic(), _cpu_seconds()
    context = RecipeContext(
        out=out,
        scale=settings.scale,
        data=settings.data,
        seed=settings.seed,
        seeds=settings.seeds,
        workers=settings.workers or os.cpu_count() or 1,
        device=settings.device,
        points=settings.points,
    )
    outcome = chosen.run(context)
    if "ended" not in run:
        spent = {"seconds": time.monotonic() - started, "cpu_seconds": _cpu_seconds() - before + outcome.cpu_seconds}
        update(out, run, ended=now(), **{name: round(value, 1) for name, value in spent.items()})
    judged = [_undecided(one) if settings.scale == "smoke" else one for one in outcome.judged]
    outcome = replace(outcome, judged=tuple(judged))
    provenance.judged(out, run, outcome.judged)
    result = _result(chosen, outcome, run, settings)
    write_json(out / "reproduction.json", result)
    write_text(out / "README.md", page(chosen, outcome, run, settings, notes=_notes(chosen, run, settings)))
    return {"out": str(out), **result}


def show(result: dict[str, Any], console: Console) -> None:
    """Prints the verdicts and the path of the page."""
    for one in result["judged"]:
        console.print(Text.assemble((one["verdict"], "bold"), ": "), end="")
        console.print(f"{one['claim']} {one['seen']}", soft_wrap=True)
    console.print(f"page: {result['out']}/README.md", soft_wrap=True)


def page(
    chosen: Recipe, outcome: Outcome, run: Mapping[str, Any], settings: ReproduceSettings, *, notes: Sequence[str]
) -> str:
    """The reproduction in Markdown: a sentence, ``notes``, a table of short cells and a figure, then all details."""
    figures = [f"![{said}]({figure.name})\n\n{said}" for figure, said in outcome.figures.items()]
    digest = f", judged by criterion {run[provenance.KEY][-1]['digest']}" if run.get(provenance.KEY) else ""
    parts = [
        f"# {chosen.title}",
        _sentence(outcome.judged, settings),
        *notes,
        _table(chosen, outcome.judged, settings),
        *figures[:1],
        *chosen.tables(finite(outcome.numbers)),
        "## Criteria and numbers by seed",
        *(_judged(one) for one in outcome.judged),
        *figures[1:],
        "## The paper's claim and this run",
        f"**The claim** ({chosen.paper}). {chosen.claim}",
        f"**What was done here.** {outcome.ours}",
        f"**Cost.** {_cost(run)}",
        "**Differences from the paper.**",
        "\n".join(f"- {said}" for said in chosen.differences),
        f"Made by `{' '.join(run['command'])}`{digest}; numbers in `reproduction.json`.",
    ]
    return "\n\n".join(parts) + "\n"


def _sentence(judged: Sequence[ClaimResult], settings: ReproduceSettings) -> str:
    if settings.scale == "smoke":
        return "This run only checks that everything works: scale smoke decides nothing."
    counts = {verdict: sum(one.verdict == verdict for one in judged) for verdict in get_args(Verdict)}
    found = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    claims = f"{len(judged)} claims are" if len(judged) > 1 else "1 claim is"
    return f"{claims} judged at scale {settings.scale}: {found}."


def _check(settings: ReproduceSettings, chosen: Recipe) -> None:
    if settings.scale == "gpu" and (settings.device == "cpu" or not torch.cuda.is_available()):
        raise BadSetting("--scale gpu needs a CUDA device, and torch sees or was given none: take --scale small")
    require_device(settings.device)
    if settings.points is None:
        return
    if not chosen.takes_points:
        raise BadSetting(
            f"--points {settings.points}: {chosen.name} is judged by trainings of its own, not by a pilot's points as "
            "capacity-gap and distillation-law are. Leave --points out."
        )
    read_points(settings.points)


def _usual_folder(settings: ReproduceSettings) -> Path:
    return Path("runs") / f"{settings.recipe}-{settings.scale}"


def _undecided(one: ClaimResult) -> ClaimResult:
    return replace(one, verdict="inconclusive", seen=f"{_SMOKE}{one.seen}")


def _notes(chosen: Recipe, run: dict[str, Any], settings: ReproduceSettings) -> list[str]:
    if settings.scale == "smoke":
        return []
    seeds = range(settings.seed, settings.seed + settings.seeds)
    return provenance.notes(run, chosen.name, settings.scale, seeds=seeds, points=settings.points)


def _table(chosen: Recipe, judged: Sequence[ClaimResult], settings: ReproduceSettings) -> str:
    rows = ["| claim | verdict | effect, 95 % interval | n |", "|---|---|---|---|"]
    for one in judged:
        short = chosen.short_of(one.claim)
        seen = one.seen.removeprefix(_SMOKE)
        cells = (short.claim, f"**{one.verdict}**", short.effect_of(seen), count_of(seen, settings.seeds))
        rows.append(f"| {' | '.join(map(_cell, cells))} |")
    return "\n".join(rows)


def _judged(one: ClaimResult) -> str:
    return f"**{one.claim}** {one.verdict.capitalize()}.\n\n- Criterion: {one.criterion}\n- Seen: {one.seen}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _cost(run: Mapping[str, Any]) -> str:
    places = [f"on {_place(run['versions'])}"]
    places += [f"continued on {_place(one['versions'])}" for one in run.get(provenance.CONTINUED, [])]
    return (
        f"{duration(run['cpu_seconds'])} of processors, {duration(run['seconds'])} since it was last started, "
        f"{', '.join(places)}, {run['ended'][:10]}."
    )


def _place(versions: dict[str, str]) -> str:
    libraries = ", ".join(f"{name} {versions[name]}" for name in ("limbeck", "torch", "transformers", "python"))
    return f"{versions['machine']} ({libraries})"


def _result(chosen: Recipe, outcome: Outcome, run: dict[str, Any], settings: ReproduceSettings) -> dict[str, Any]:
    return {
        "recipe": chosen.name,
        "scale": settings.scale,
        "paper": chosen.paper,
        "ours": outcome.ours,
        "judged": [asdict(one) for one in outcome.judged],
        "numbers": finite(outcome.numbers),
        "criterion": provenance.record(run, chosen.name, settings.scale),
        "seed": settings.seed,
        "seeds": settings.seeds,
        "command": run["command"],
        "versions": run["versions"],
        "date": run["ended"],
        "seconds": run["seconds"],
        "cpu_seconds": run["cpu_seconds"],
    }


def _cpu_seconds() -> float:
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system
