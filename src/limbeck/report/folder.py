"""What a run's folder holds, read for its report.

All but run.json is optional, and a last line that a kill cut short is left out.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from limbeck.disk import damaged, read_lines
from limbeck.errors import BadFolder
from limbeck.report.figures import Curve
from limbeck.types import Reading

_ARM = re.compile(r"(.+)-seed(\d+)")


@dataclass(frozen=True)
class RunFolder:
    """The files of a run, parsed. What is not there is empty."""

    run: Mapping[str, Any]
    readings: Sequence[Reading]
    curves: Sequence[Curve]
    verdict: Mapping[str, Any]
    samples: Sequence[Mapping[str, Any]]
    surprises: Sequence[Mapping[str, Any]]
    config: Mapping[str, Any]  # the student's

    @classmethod
    def read(cls, folder: Path) -> RunFolder:
        """Reads a folder. Raises BadFolder where it holds no run, or a file of it is no JSON."""
        return cls(
            run=read_run(folder),
            readings=[_reading(row) for row in read_lines(folder / "readings.jsonl")],
            curves=_curves(folder),
            verdict=_json(folder / "verdict.json", {}),
            samples=_json(folder / "samples.json", []),
            surprises=_json(folder / "surprises.json", []),
            config=_json(folder / "student" / "config.json", {}) or _json(folder / "cut" / "config.json", {}),
        )

    def reading(self, model: str, name: str) -> Reading | None:
        """A reading of a model: the one over all seeds where there is one, else the first seed's."""
        found = [reading for reading in self.readings if reading.model == model and reading.name == name]
        return min(found, key=lambda reading: -1 if reading.seed is None else reading.seed, default=None)

    @property
    def models(self) -> list[str]:
        """The models that were measured, in the order they were written."""
        return list(dict.fromkeys(reading.model for reading in self.readings))


def read_run(folder: Path) -> Mapping[str, Any]:
    """The run.json of a folder. Raises BadFolder where there is none, or it is no JSON."""
    if not (folder / "run.json").is_file():
        raise BadFolder(f"{folder} holds no run.json, so there is nothing to report: give the --out folder of a run")
    run: Mapping[str, Any] = _json(folder / "run.json", {})
    return run


def _curves(folder: Path) -> list[Curve]:
    curves = [Curve("student", read_lines(folder / "metrics.jsonl"))]
    curves += [Curve("student", read_lines(path)) for path in sorted(folder.glob("seeds/*/metrics.jsonl"))]
    for path in sorted(folder.glob("baselines/*/metrics.jsonl")):
        arm = _ARM.fullmatch(path.parent.name)
        curves.append(Curve(arm[1] if arm else path.parent.name, read_lines(path)))
    return [curve for curve in curves if curve.rows]


def _reading(row: dict[str, Any]) -> Reading:
    """A row of readings.jsonl; JSON has no NaN, so a number that is null was one."""
    was_nan = {key: math.nan for key in ("value", "low", "high") if row.get(key) is None}
    named = {field.name for field in fields(Reading)}
    return Reading(**{key: value for key, value in (row | was_nan).items() if key in named})


def _json(path: Path, otherwise: Any) -> Any:
    if not path.is_file():
        return otherwise
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise damaged(path, error) from error
