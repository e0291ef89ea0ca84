"""Reads a run's folder for its report.

All but run.json is optional, and a last line that a kill cut short is left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limbeck.disk import AGAIN, read_json, read_lines, read_plain, read_rows
from limbeck.errors import BadFolder
from limbeck.probes import Measurements
from limbeck.probes.change import CHANGE, MovedRow
from limbeck.report import schema as kinds
from limbeck.report.figures import Curve
from limbeck.report.trained import Trained, trained_in
from limbeck.types import Reading, ReadingRow

ANSWERS_FILE = "answers.json"  # greedy answers to some held-out prompts, of a tuning by a reward
_ARM = re.compile(r"(.+)-seed(\d+)")
_OTHER_PROBES = (
    "overlap-",
    "slices-",
    "recall-",
    "other-",
    "reward-",
)  # whose files, and those of other text, lie beside those of likelihood and calibration


@dataclass(frozen=True)
class RunFolder:
    """The files of a run, parsed. What is not there is empty."""

    run: Mapping[str, Any]
    readings: Sequence[Reading]
    curves: Sequence[Curve]
    watched: Sequence[Curve]  # held-out loss during the trainings
    trained: Sequence[Trained]  # how far those went that could end early
    verdict: Mapping[str, Any]
    samples: Sequence[Mapping[str, Any]]
    answers: Sequence[Mapping[str, Any]]  # to held-out prompts, of a tuning by a reward
    surprises: Sequence[Mapping[str, Any]]
    config: Mapping[str, Any]  # the student's
    moved: Sequence[MovedRow]  # how far each kind of matrix is from the student's start, all of them first
    measured: Mapping[str, Sequence[Measurements]]  # sums over held-out documents by model, one a seed

    @classmethod
    def read(cls, folder: Path) -> RunFolder:
        """Reads a folder. Raises BadFolder where it holds no run, or a file of it is no JSON."""
        run = read_run(folder)
        return cls(
            run=run,
            readings=[Reading.of(row) for row in read_lines(folder / "readings.jsonl", ReadingRow, appended=False)],
            curves=_curves(folder, "metrics.jsonl", _steps),
            watched=_curves(folder, "held_out.jsonl", lambda path: read_lines(path, kinds.Watched)),
            trained=trained_in(folder, run),
            verdict=_there(folder / "verdict.json", lambda file: read_json(file, kinds.Verdict), {}),
            samples=_there(folder / "samples.json", lambda file: read_rows(file, kinds.Sample), []),
            answers=_there(folder / ANSWERS_FILE, lambda file: read_rows(file, kinds.Answered), []),
            surprises=_there(folder / "surprises.json", lambda file: read_rows(file, kinds.KLExample), []),
            config=_config(folder / "student") or _config(folder / "cut"),
            moved=_there(folder / "measurements" / CHANGE, lambda file: read_rows(file, MovedRow), []),
            measured=_measured(folder / "measurements"),
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
    run: Mapping[str, Any] = read_json(folder / "run.json", kinds.Run)
    return run


def _measured(folder: Path) -> dict[str, list[Measurements]]:
    found: dict[str, list[Measurements]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        arm = _ARM.fullmatch(file.stem)
        if arm and not arm[1].startswith(_OTHER_PROBES):
            found.setdefault(arm[1], []).append(Measurements.load(file))
    return found


def _curves(folder: Path, name: str, read: Callable[[Path], Sequence[Mapping[str, Any]]]) -> list[Curve]:
    curves = [Curve("student", read(folder / name))]
    curves += [Curve("student", read(path)) for path in sorted(folder.glob(f"seeds/*/{name}"))]
    for path in sorted(folder.glob(f"baselines/*/{name}")):
        arm = _ARM.fullmatch(path.parent.name)
        curves.append(Curve(arm[1] if arm else path.parent.name, read(path)))
    return [curve for curve in curves if curve.rows]


def _steps(path: Path) -> list[dict[str, Any]]:
    rows = read_lines(path, kinds.Step)
    complete = ("step", "tokens")
    for number, row in enumerate(rows, start=1):
        if missing := [key for key in complete if key not in row]:
            raise BadFolder(
                f"{path}, line {number}: expected a step of a training, it lacks {', '.join(missing)}: {AGAIN}."
            )
    return rows


def _there(file: Path, read: Callable[[Path], Any], otherwise: Any) -> Any:
    return read(file) if file.is_file() else otherwise


def _config(model: Path) -> Mapping[str, Any]:
    file = model / "config.json"
    remedy = "copy the model's folder again"
    return _there(file, lambda path: read_plain(path, dict[str, Any], error=BadFolder, remedy=remedy), {})
