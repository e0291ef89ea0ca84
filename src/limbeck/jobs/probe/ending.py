"""The last screen of `limbeck probe`: the first measurement, the path of the readings, and a further command."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from limbeck.config import ProbeCommandSettings
from limbeck.ending import Ending
from limbeck.jobs.common.folder import command
from limbeck.jobs.probe.job import READINGS
from limbeck.report.screen import with_flag
from limbeck.report.words import bounded, counted

_LARGER = 10  # times the parameters of the model that was measured: a size to predict


def ending(result: Mapping[str, Any], settings: ProbeCommandSettings) -> Ending:
    """The last screen of the readings of a model."""
    readings = result["readings"]
    main = readings.get("held_out") or next(iter(readings.values()), None)
    headline = f"{result['model']}: " + ("nothing was measured" if main is None else _said(main))
    if len(readings) > 1:
        headline += f"; {counted(len(readings), 'reading')} in all"
    places = {}
    if settings.out is not None:
        file = result.get("file")
        places["readings"] = settings.out / READINGS if file is None else Path(file)
    return Ending(headline, places=places, then=_next(result, settings))


def _said(row: Mapping[str, Any]) -> str:
    name, value = row["name"].replace("_", " "), row["value"]
    if row["low"] is None or row["high"] is None:
        return f"{name} {value:.4g} {row['unit']}"
    return f"{name} {bounded(value, row['low'], row['high'])} {row['unit']} (n = {row['n']:,})"


def _next(result: Mapping[str, Any], settings: ProbeCommandSettings) -> str:
    words = [word for word in command() if word != "--json"]
    if settings.probe == ("pass-until",):
        if settings.out is None:
            return with_flag(words, "--out", "points")
        larger = str(_LARGER * result["parameters"])
        return shlex.join(
            ["limbeck", "predict", "--points", str(settings.out), "--task", result["task"], "--params", larger]
        )
    if "likelihood" in settings.probe and "slices" not in settings.probe:
        more = with_flag(words, "--probe", ",".join((*settings.probe, "slices")))
        out = settings.out
        return more if out is None else with_flag(shlex.split(more), "--out", str(out.with_name(f"{out.name}-slices")))
    exported = f"{Path(settings.model).name}-exported"
    return shlex.join(["limbeck", "export", settings.model, "--out", exported])
