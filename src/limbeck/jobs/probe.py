"""`limbeck probe`: a model measured on text of the user's, alone or against a teacher."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from limbeck.config import ProbeSettings
from limbeck.corpora import build_held_out
from limbeck.corpora.source import resolve as resolve_source
from limbeck.disk import write_text, writing
from limbeck.errors import BadSetting
from limbeck.jobs.held_out import HeldOut
from limbeck.jobs.setup import Machine, machine, row_length
from limbeck.models.load import LanguageModel, load, load_config
from limbeck.plan.pair import check
from limbeck.plan.vocabulary import tokens_of_pair
from limbeck.probes import calibration, cost, fidelity, likelihood, measure
from limbeck.run.log import console
from limbeck.types import Reading


def probe(settings: ProbeSettings, *, model: str, teacher: str | None, out: Path | None) -> dict[str, Any]:
    """Measures a model on all of a source (of python:stdlib on its held-out modules); gives ``{"model", "readings"}``."""
    no_task(settings)
    where = machine(settings)
    measured_model, against, length = models_of(settings, model, teacher, where)
    with tempfile.TemporaryDirectory() as folder:
        store = build_held_out(
            settings.data, measured_model.tokenizer, folder, end=measured_model.end, progress=console.is_terminal
        )
        held_out = HeldOut(store, length=length, machine=where)
        measured = measure(measured_model, against, held_out.batches(), documents=store.documents)
        sizes = held_out.text_bytes(measured)
    readings = likelihood("model", [measured], text_bytes=sizes) + calibration("model", [measured])
    readings += fidelity("model", [measured]) + cost("model", measured_model)
    written(readings, out)
    return {"model": model, "readings": {r.name: r.row() for r in readings}}


def no_task(settings: ProbeSettings) -> None:
    """Raises BadSetting where a task is named for a probe that reads text."""
    if settings.task is not None:
        raise BadSetting(f"--task {settings.task} is read by --probe pass-until alone: add that, or leave --task out")


def models_of(
    settings: ProbeSettings, model: str, teacher: str | None, where: Machine
) -> tuple[LanguageModel, LanguageModel | None, int]:
    """The model to measure, what it is compared with, and the tokens of a row. Raises a LimbeckError where they do not fit."""
    resolve_source(settings.data)
    for name in filter(None, (model, teacher)):
        load_config(name)
    measured = load(model, device=where.world.device, dtype=where.dtype)
    against = load(teacher, device=where.world.device, dtype=where.dtype) if teacher else None
    shortest = min((m for m in (measured, against) if m is not None), key=lambda m: m.context)
    length = row_length(settings, shortest.context, where.world.device, name=shortest.name)
    if against is not None:
        check(list(tokens_of_pair(against, measured)))
    return measured, against, length


def written(readings: Iterable[Reading], out: Path | None) -> None:
    """Writes readings.jsonl into a folder, where one is asked for."""
    if out is not None:
        with writing(out):
            out.mkdir(parents=True, exist_ok=True)
        write_text(out / "readings.jsonl", "".join(json.dumps(r.row()) + "\n" for r in readings))


def show(readings: Iterable[dict[str, Any]], console: Console) -> None:
    """Prints a table of rows of readings."""
    table = Table("probe", "reading", "value", "95 % interval", "unit", "n")
    for r in readings:
        interval = "" if r["low"] is None or r["low"] == r["high"] else f"{r['low']:,.4g} to {r['high']:,.4g}"
        table.add_row(r["probe"], r["name"], f"{r['value']:,.4g}", interval, r["unit"], f"{r['n']:,}")
    console.print(table)
