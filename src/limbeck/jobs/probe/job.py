"""`limbeck probe`: a model measured on text of the user's, alone or against a teacher, and on synthetic tasks."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from limbeck.config import ProbeSettings
from limbeck.corpora.source import resolve as resolve_source
from limbeck.disk import claims, take, write_lines
from limbeck.errors import BadFolder, BadSetting
from limbeck.jobs.common.environment import Environment, environment, row_length
from limbeck.jobs.common.held_out import HeldOut
from limbeck.jobs.common.text import columns_of
from limbeck.jobs.probe.slices import recall_by_slices
from limbeck.jobs.probe.text import RunFolder, Texts
from limbeck.models.configuration import load_config
from limbeck.models.language_model import LanguageModel
from limbeck.models.load import load
from limbeck.planning.checks.pair import check
from limbeck.planning.checks.vocabulary import tokens_of_pair
from limbeck.probes import calibration, cost, fidelity, likelihood, measure
from limbeck.probes.listops import listops
from limbeck.probes.mqar import mqar
from limbeck.probes.reversal import known_facts, read_facts, reversal
from limbeck.probes.sums import sums
from limbeck.run.log import console
from limbeck.types import Reading

READINGS = "readings.jsonl"  # what is written
_OF_TEXT = ("likelihood", "slices")


@claims()
def probe(settings: ProbeSettings, *, model: str, teacher: str | None, out: Path | None) -> dict[str, Any]:
    """Measures a model; gives ``{"model", "readings"}``, the latter by name.

    Besides, by probe, the text it was ``measured_on``, and of slices what was ``counted_in``.

    Likelihood and slices, alone or against a teacher, are of a text (`jobs.probed_text`): of a model inside a run never one that
    the run trained on. The other probes ask tasks that are made here.
    """
    _check(settings, teacher)
    if out is not None:
        _require_free(out)
    facts = read_facts(settings.task) if settings.task is not None else known_facts()
    where = environment(settings)
    run = RunFolder.of(model)
    if any(name in _OF_TEXT for name in settings.probe) and (run is None or "data" in settings.model_fields_set):
        resolve_source(settings.data, columns_of(settings))
    for name in filter(None, (model, teacher)):
        load_config(name)
    measured = load(model, device=where.world.device, dtype=where.dtype)
    against = load(teacher, device=where.world.device, dtype=where.dtype) if teacher else None
    if against is not None:
        check(list(tokens_of_pair(against, measured)))
    if out is not None:
        _take(out)
    said: dict[str, Any] = {}
    measured_on: dict[str, str] = {}

    def of_text(texts: Texts) -> list[Reading]:
        length = _row_length(settings, where, measured, against)
        found, measured_on["likelihood"] = _of_text(texts, where, measured, against, length=length)
        return found

    def of_slices(texts: Texts) -> list[Reading]:
        length = _row_length(settings, where, measured, against)
        found, said["counted_in"], measured_on["slices"] = recall_by_slices(
            texts, measured, against, length=length, where=where
        )
        return found

    asked: dict[str, Callable[[Texts], list[Reading]]] = {
        "likelihood": of_text,
        "slices": of_slices,
        "mqar": lambda _: mqar(measured, seed=settings.seed),
        "reversal": lambda _: reversal(measured, facts, seed=settings.seed),
        "arithmetic": lambda _: sums(measured, seed=settings.seed),
        "listops": lambda _: listops(measured, seed=settings.seed),
    }
    with tempfile.TemporaryDirectory() as folder:
        texts = Texts(settings, run, measured, Path(folder))
        # under the name that was asked for: a folder's own is often just "student"
        readings = [replace(reading, model=model) for name in settings.probe for reading in asked[name](texts)]
    if measured_on:
        said["measured_on"] = measured_on
    if out is not None:
        write_lines(out / READINGS, [r.row() for r in readings])
    return {"model": model, **said, "readings": {r.name: r.row() for r in readings}}


def _check(settings: ProbeSettings, teacher: str | None) -> None:
    settings.require_read()
    probes = ",".join(settings.probe)
    if teacher is not None and not any(name in _OF_TEXT for name in settings.probe):
        raise BadSetting(
            f"--teacher is read by --probe {' and --probe '.join(_OF_TEXT)} alone, and this is {probes}: probe the teacher itself"
        )


def _take(out: Path) -> None:
    take(out)
    _require_free(out)  # another may have written meanwhile


def _require_free(out: Path) -> None:
    """Raises BadFolder where readings of another measurement are, which these would replace."""
    for name in (READINGS, "run.json"):
        if (out / name).exists():
            whose = "readings already" if name == READINGS else "a run, which keeps readings of its own"
            raise BadFolder(
                f"{out} holds {whose} ({name}): nothing was measured or written. Give a new folder with --out."
            )


def _row_length(
    settings: ProbeSettings, where: Environment, model: LanguageModel, against: LanguageModel | None
) -> int:
    shortest = min((m for m in (model, against) if m is not None), key=lambda m: m.context)
    return row_length(settings, shortest.context, where.world.device, name=shortest.name)


def _of_text(
    texts: Texts, where: Environment, model: LanguageModel, against: LanguageModel | None, *, length: int
) -> tuple[list[Reading], str]:
    """Readings of a model on a text, and on what they are."""
    text = texts.whole
    held_out = HeldOut(text.store, length=length, machine=where)
    measured_on = text.said + held_out.said
    console.print(f"likelihood is measured on {measured_on}")
    measured = measure(model, against, held_out.batches(), documents=text.store.documents)
    sizes = held_out.text_bytes(measured)
    readings = likelihood("model", [measured], text_bytes=sizes) + calibration("model", [measured])
    return readings + fidelity("model", [measured]) + cost("model", model), measured_on


def show(readings: Iterable[dict[str, Any]], console: Console) -> None:
    """Prints a table of rows of readings."""
    table = Table(box=None, pad_edge=False)
    for column in ("probe", "reading", "value", "95 % interval", "unit", "n"):
        table.add_column(column, no_wrap=column != "95 % interval")  # a name in two lines, or cut off, says nothing
    for r in readings:
        exact = r["low"] == r["value"] == r["high"] and r["n"] == 1  # computed, as chance: nothing was sampled
        interval = "" if r["low"] is None or r["low"] == r["high"] else f"{_digits(r['low'])} to {_digits(r['high'])}"
        table.add_row(r["probe"], r["name"], _digits(r["value"]), interval, r["unit"], "" if exact else f"{r['n']:,}")
    console.print(table)


def _digits(value: float) -> str:
    """Four digits, and of more than four all before the point."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
