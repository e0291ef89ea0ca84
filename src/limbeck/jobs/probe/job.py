"""`limbeck probe`: a model measured on text of the user's, alone or against a teacher, and on synthetic tasks."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from limbeck.config import OF_TASK, ProbeCommandSettings, ProbeSettings, flag_of
from limbeck.corpora.source import resolve as resolve_source
from limbeck.disk import claims, take, write_lines
from limbeck.errors import BadFolder, BadPlugin, BadSetting
from limbeck.jobs.common.environment import Environment, environment_of
from limbeck.jobs.common.text import columns_of
from limbeck.jobs.pair.vocabulary import trimmed_like
from limbeck.jobs.probe.context import Context
from limbeck.jobs.probe.text import RunFolder, Texts, rewarded_run
from limbeck.models.configuration import load_config
from limbeck.models.language_model import LanguageModel
from limbeck.models.led import led
from limbeck.models.trim.model import LINEAGE
from limbeck.planning.checks.pair import check
from limbeck.planning.checks.vocabulary import tokens_of_pair
from limbeck.probes.named import PROBES, reads
from limbeck.run.sharded import REPLICATE, Sharded
from limbeck.run.world import World, alone
from limbeck.types import Reading

READINGS = "readings.jsonl"  # what is written
_BY_ALL = ("device", "dtype", "threads", "mesh", "json_", "model", "out")
_BY_TEXT = {"tasks"}  # probes that compare models with different tokenizers
_OF_TASK = ("task", "successes", "max_samples", "seed")


@claims()
def probe(settings: ProbeSettings, *, model: str, teacher: str | None, out: Path | None) -> dict[str, Any]:
    """Measures a model; gives ``{"model", "readings"}``, the latter by name.

    Besides, by probe, the text it was ``measured_on``, and of slices what was ``counted_in``.

    A probe is found by its name (`probes.named`). The text that some read (`jobs.probe.text`) is, of a model inside a run, never
    one that the run trained on. Raises BadSetting for a setting that none of the probes reads.
    """
    chosen = {name: PROBES[name] for name in settings.probe}
    require_read(settings, teacher=teacher is not None)
    if out is not None:
        _require_free(out)
    environment = environment_of(settings, model, teacher)
    require_one_process(environment.world, settings.mesh)
    run = RunFolder.of(model)
    if any("data" in reads(found) for found in chosen.values()) and (
        run is None or "data" in settings.model_fields_set
    ):
        resolve_source(settings.data, columns_of(settings))
    names = [model] if teacher is None else [model, teacher]
    for name in names:
        load_config(name)
    world = environment.world
    loaded = [world.load(name, dtype=environment.dtype) for name in names]
    if not isinstance(world, Sharded):
        return _measure(settings, chosen, loaded, environment, run, model=model, out=out)
    with led(*loaded) as together:
        if together is None:
            return {}
        alone_ = Environment(alone(world.device), environment.bf16)
        return _measure(settings, chosen, together, alone_, run, model=model, out=out)


def _measure(
    settings: ProbeSettings,
    chosen: Mapping[str, Any],
    loaded: list[LanguageModel],
    environment: Environment,
    run: RunFolder | None,
    *,
    model: str,
    out: Path | None,
) -> dict[str, Any]:
    """The result of `probe` for the loaded model, and its teacher after it if there is one."""
    measured, against = loaded[0], loaded[1] if len(loaded) > 1 else None
    if against is not None:
        against = _like(against, measured)
        if chosen.keys() - _BY_TEXT:
            check(list(tokens_of_pair(against, measured)))
    if out is not None:
        _take(out)
    shortest = min((m for m in (measured, against) if m is not None), key=lambda m: m.context)
    readings: dict[str, Reading] = {}
    said: dict[str, Any] = {}
    measured_on: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        texts = Texts(settings, run, measured, Path(folder), prompts=rewarded_run(model))
        for name, found in chosen.items():
            context = Context(name, settings, environment, texts, shortest)
            with PROBES.blamed(name):
                # by the given name, since a folder's own is often just "student"
                given = (replace(reading, model=model) for reading in found(measured, against, context))
                readings |= _new(readings, name, given)
            if context.measured_on:
                measured_on[name] = context.measured_on
            if context.counted_in:
                said["counted_in"] = context.counted_in
    if measured_on:
        said["measured_on"] = measured_on
    if out is not None:
        write_lines(out / READINGS, [r.row() for r in readings.values()])
    return {"model": model, **said, "readings": {name: r.row() for name, r in readings.items()}}


def _like(teacher: LanguageModel, student: LanguageModel) -> LanguageModel:
    """The teacher with the student's tokens. Raises BadSetting where that changes weights which are spread."""
    if not teacher.in_one_process and LINEAGE in (student.lineage or {}):
        raise BadSetting(
            f"--mesh: {student.name} has a trimmed vocabulary, and its teacher would be trimmed likewise, which needs all "
            "weights in one process: leave --teacher or --mesh out"
        )
    return trimmed_like(teacher, student)


def require_one_process(world: World, mesh: str | None) -> None:
    """Raises BadSetting for several processes that each hold all weights, which would all measure the same."""
    if world.size > 1 and not isinstance(world, Sharded):
        raise BadSetting(
            f"--mesh {mesh or REPLICATE}: probe is one process; for a model that does not fit one device give --mesh shard"
        )


def require_read(settings: ProbeSettings, *, teacher: bool) -> None:
    """Raises BadSetting for a setting that none of these probes reads, since it would have no effect."""
    known = {name: reads(PROBES[name]) for name in dict.fromkeys((*PROBES.own, *settings.probe)) if name != OF_TASK}
    known[OF_TASK] = _OF_TASK
    given = settings.model_fields_set - {*_BY_ALL, "probe"}
    unread = []
    for key in sorted({*given, "teacher"} if teacher else given):
        readers = sorted(name for name, found in known.items() if key in found)
        if not set(readers) & set(settings.probe):
            users = f"used by {', '.join(readers)}" if readers else "used by no probe"
            unread.append(f"{flag_of(ProbeCommandSettings, key)} ({users})")
    if unread:
        raise BadSetting(
            f"--probe {','.join(settings.probe)} does not use {', '.join(unread)}: leave it out, or name a probe that uses it; "
            f"{OF_TASK} runs alone"
        )


def _new(before: Mapping[str, Reading], probe: str, found: Iterable[Reading]) -> dict[str, Reading]:
    """Readings by name. Raises BadPlugin for a name that another probe has used."""
    readings = {one.name: one for one in found}
    if taken := sorted(before.keys() & readings.keys()):
        raise BadPlugin(
            f"--probe {probe} gives {', '.join(taken)}, as another probe does: ask for one of them at a time"
        )
    return readings


def _take(out: Path) -> None:
    take(out)
    _require_free(out)  # another may have written meanwhile


def _require_free(out: Path) -> None:
    """Raises BadFolder if the folder has readings of another measurement, which these would replace."""
    for name in (READINGS, "run.json"):
        if (out / name).exists():
            whose = "readings already" if name == READINGS else "a run, which keeps readings of its own"
            raise BadFolder(
                f"{out} holds {whose} ({name}): nothing was measured or written. Give a new folder with --out."
            )


def show(readings: Iterable[dict[str, Any]], console: Console) -> None:
    """Prints a table of rows of readings."""
    table = Table(box=None, pad_edge=False)
    for column in ("probe", "reading", "value", "95 % interval", "unit", "n"):
        table.add_column(column, no_wrap=column != "95 % interval")  # a name in two lines, or cut off, cannot be read
    for r in readings:
        exact = r["low"] == r["value"] == r["high"] and r["n"] == 1  # computed, as chance: nothing was sampled
        interval = "" if r["low"] is None or r["low"] == r["high"] else f"{_digits(r['low'])} to {_digits(r['high'])}"
        table.add_row(r["probe"], r["name"], _digits(r["value"]), interval, r["unit"], "" if exact else f"{r['n']:,}")
    console.print(table)


def _digits(value: float) -> str:
    """A number with four digits, or with all digits before the point if these are more."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
