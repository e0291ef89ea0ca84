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
from limbeck.jobs.slices import recall_by_slices
from limbeck.models.load import LanguageModel, load, load_config
from limbeck.plan.pair import check
from limbeck.plan.vocabulary import tokens_of_pair
from limbeck.probes import calibration, cost, fidelity, likelihood, measure
from limbeck.probes.listops import listops
from limbeck.probes.mqar import mqar
from limbeck.probes.reversal import known_facts, read_facts, reversal
from limbeck.probes.sums import sums
from limbeck.run.log import console
from limbeck.types import Reading

_OF_TEXT = ("likelihood", "slices")


def probe(settings: ProbeSettings, *, model: str, teacher: str | None, out: Path | None) -> dict[str, Any]:
    """Measures a model; gives ``{"model", "readings"}``, the latter by name; of slices also in what was ``counted_in``.

    Likelihood is of all of a source (of python:stdlib on its held-out modules), slices are of it too, both alone or against a
    teacher; the other probes ask tasks that are made here.
    """
    _check(settings, teacher)
    facts = read_facts(settings.task) if settings.task is not None else known_facts()
    where = machine(settings)
    if any(name in _OF_TEXT for name in settings.probe):
        resolve_source(settings.data)
    for name in filter(None, (model, teacher)):
        load_config(name)
    measured = load(model, device=where.world.device, dtype=where.dtype)
    against = load(teacher, device=where.world.device, dtype=where.dtype) if teacher else None
    if against is not None:
        check(list(tokens_of_pair(against, measured)))
    counted_in: dict[str, str] = {}

    def of_slices() -> list[Reading]:
        length = _row_length(settings, where, measured, against)
        found, counted_in["counted_in"] = recall_by_slices(
            settings, model, measured, against, length=length, where=where
        )
        return found

    asked: dict[str, Callable[[], list[Reading]]] = {
        "likelihood": lambda: _of_text(settings, where, measured, against),
        "slices": of_slices,
        "mqar": lambda: mqar(measured, seed=settings.seed),
        "reversal": lambda: reversal(measured, facts, seed=settings.seed),
        "arithmetic": lambda: sums(measured, seed=settings.seed),
        "listops": lambda: listops(measured, seed=settings.seed),
    }
    readings = [reading for name in settings.probe for reading in asked[name]()]
    if out is not None:
        with writing(out):
            out.mkdir(parents=True, exist_ok=True)
        write_text(out / "readings.jsonl", "".join(json.dumps(r.row()) + "\n" for r in readings))
    return {"model": model, **counted_in, "readings": {r.name: r.row() for r in readings}}


def _check(settings: ProbeSettings, teacher: str | None) -> None:
    settings.require_read()
    probes = ",".join(settings.probe)
    if teacher is not None and not any(name in _OF_TEXT for name in settings.probe):
        raise BadSetting(
            f"--teacher is read by --probe {' and --probe '.join(_OF_TEXT)} alone, and this is {probes}: probe the teacher itself"
        )


def _row_length(settings: ProbeSettings, where: Machine, model: LanguageModel, against: LanguageModel | None) -> int:
    shortest = min((m for m in (model, against) if m is not None), key=lambda m: m.context)
    return row_length(settings, shortest.context, where.world.device, name=shortest.name)


def _of_text(
    settings: ProbeSettings, where: Machine, model: LanguageModel, against: LanguageModel | None
) -> list[Reading]:
    length = _row_length(settings, where, model, against)
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
