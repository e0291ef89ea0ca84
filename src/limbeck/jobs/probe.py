"""`limbeck probe`: a model measured on text of the user's, alone or against a teacher, and on synthetic tasks."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable
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
from limbeck.probes.listops import listops
from limbeck.probes.recall import recall
from limbeck.probes.reversal import known_facts, read_facts, reversal
from limbeck.probes.sums import sums
from limbeck.run.log import console
from limbeck.types import Reading


def probe(settings: ProbeSettings, *, model: str, teacher: str | None, out: Path | None) -> dict[str, Any]:
    """Measures a model; gives ``{"model", "readings"}``, the latter by name.

    Likelihood is of all of a source (of python:stdlib on its held-out modules), alone or against a teacher; the other probes
    ask tasks that are made here.
    """
    _check(settings, teacher)
    facts = read_facts(settings.task) if settings.task is not None else known_facts()
    where = machine(settings)
    if "likelihood" in settings.probe:
        resolve_source(settings.data)
    for name in filter(None, (model, teacher)):
        load_config(name)
    measured_model = load(model, device=where.world.device, dtype=where.dtype)
    asked: dict[str, Callable[[], list[Reading]]] = {
        "likelihood": lambda: _of_text(settings, where, measured_model, teacher),
        "mqar": lambda: recall(measured_model, seed=settings.seed),
        "reversal": lambda: reversal(measured_model, facts, seed=settings.seed),
        "arithmetic": lambda: sums(measured_model, seed=settings.seed),
        "listops": lambda: listops(measured_model, seed=settings.seed),
    }
    readings = [reading for name in settings.probe for reading in asked[name]()]
    if out is not None:
        with writing(out):
            out.mkdir(parents=True, exist_ok=True)
        write_text(out / "readings.jsonl", "".join(json.dumps(r.row()) + "\n" for r in readings))
    return {"model": model, "readings": {r.name: r.row() for r in readings}}


def _check(settings: ProbeSettings, teacher: str | None) -> None:
    probes = ",".join(settings.probe)
    if settings.task is not None and "reversal" not in settings.probe:
        raise BadSetting(
            f"--task {settings.task} is read by --probe pass-until and --probe reversal alone, and this is {probes}: add one of "
            "them, or leave --task out"
        )
    if teacher is not None and "likelihood" not in settings.probe:
        raise BadSetting(
            f"--teacher is read by --probe likelihood alone, and this is {probes}: probe the teacher itself"
        )


def _of_text(settings: ProbeSettings, where: Machine, model: LanguageModel, teacher: str | None) -> list[Reading]:
    against = load(teacher, device=where.world.device, dtype=where.dtype) if teacher else None
    shortest = min((m for m in (model, against) if m is not None), key=lambda m: m.context)
    length = row_length(settings, shortest.context, where.world.device, name=shortest.name)
    if against is not None:
        check(list(tokens_of_pair(against, model)))
    with tempfile.TemporaryDirectory() as folder:
        store = build_held_out(settings.data, model.tokenizer, folder, end=model.end, progress=console.is_terminal)
        held_out = HeldOut(store, length=length, machine=where)
        measured = measure(model, against, held_out.batches(), documents=store.documents)
        sizes = held_out.text_bytes(measured)
    readings = likelihood("model", [measured], text_bytes=sizes) + calibration("model", [measured])
    return readings + fidelity("model", [measured]) + cost("model", model)


def show(readings: Iterable[dict[str, Any]], console: Console) -> None:
    """Prints a table of rows of readings."""
    table = Table("probe", "reading", "value", "95 % interval", "unit", "n")
    table.columns[1].overflow = "fold"  # a name that is cut off says nothing
    for r in readings:
        interval = "" if r["low"] is None or r["low"] == r["high"] else f"{r['low']:,.4g} to {r['high']:,.4g}"
        table.add_row(r["probe"], r["name"], f"{r['value']:,.4g}", interval, r["unit"], f"{r['n']:,}")
    console.print(table)
