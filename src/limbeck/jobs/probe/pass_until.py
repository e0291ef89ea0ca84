"""`limbeck probe --probe pass-until`: counts how often a model passes each instance of a task, for predictions.

A result is a JSON-lines file: a description of the measurement, then a count for each instance. The file name has the task, the
parameters and the model. So a folder collects the models of a family, and a new measurement replaces the file of its model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict

from limbeck.config import ProbeSettings
from limbeck.disk import existing, locked, read_lines, require_type, write_lines
from limbeck.errors import BadPoints, BadSetting
from limbeck.jobs.common.environment import environment_of
from limbeck.jobs.common.folder import command, now, versions
from limbeck.jobs.probe.job import require_one_process, require_read
from limbeck.models.configuration import load_config
from limbeck.models.load import load
from limbeck.probes.pass_rate import readings
from limbeck.probes.pass_until import Count, log_probability
from limbeck.probes.pass_until import pass_until as draw
from limbeck.probes.tasks import MAKERS, task_of
from limbeck.run.sharded import REPLICATE

FORMAT = "limbeck pass-until 1"


class _About(TypedDict):
    """The part of the description that is read."""

    format: str
    task: str
    task_sha256: str
    model: str
    parameters: int
    measured: str


@dataclass(frozen=True)
class Result:
    """The contents of a file of results: ``about`` describes the measurement, with a count for each instance."""

    path: Path
    about: Mapping[str, Any]
    counts: tuple[Count, ...]

    @property
    def parameters(self) -> int:
        """The number of parameters of the model."""
        return int(self.about["parameters"])


def pass_until(settings: ProbeSettings, *, model: str, teacher: str | None, out: Path | None) -> dict[str, Any]:
    """Counts passes of a task; gives ``{"model", "task", "parameters", "file", "readings"}``, ``file`` None without ``out``.

    Raises BadSetting without a task or for flags that the probe does not read, and BadTask for an unknown or faulty task.
    """
    require_read(settings, teacher=teacher is not None)
    if settings.task is None:
        raise BadSetting(
            f"--probe pass-until needs --task: {', '.join(MAKERS)}, or a JSONL file of prompts and answers"
        )
    if settings.mesh not in (None, REPLICATE):
        raise BadSetting(
            f"--mesh {settings.mesh}: --probe pass-until samples with a model in one process: leave --mesh out"
        )
    task = task_of(settings.task)
    environment = environment_of(settings, model)
    require_one_process(environment.world, settings.mesh)
    load_config(model)
    measured = load(model, device=environment.world.device, dtype=environment.dtype)
    counts = draw(measured, task, successes=settings.successes, max_samples=settings.max_samples, seed=settings.seed)
    exact = log_probability(measured, task)
    counts = [replace(count, log_p=log_p) for count, log_p in zip(counts, exact, strict=True)]
    found = {r.name: r.row() for r in readings(measured.name, counts, seed=settings.seed)}
    about = {
        "format": FORMAT,
        "task": task.name,
        "task_sha256": task.sha256,
        "model": measured.name,
        "parameters": measured.parameters_count,
        "successes": settings.successes,
        "max_samples": settings.max_samples,
        "seed": settings.seed,
        "readings": found,
        "command": command(),
        "versions": versions(),
        "measured": now(),
    }
    file = None if out is None else _write(out, about, counts, of=model)
    return {
        "model": model,
        "task": task.name,
        "parameters": measured.parameters_count,
        "file": None if file is None else str(file),
        "readings": found,
    }


def _write(out: Path, about: dict[str, Any], counts: list[Count], *, of: str) -> Path:
    path = out / f"{about['task']}-{about['parameters']}-{_mark(of)}.jsonl"
    rows = [about, *(count.row() for count in counts)]
    with locked(out, wait=True):  # others measure other models into it
        write_lines(path, rows)
    return path


def _mark(model: str) -> str:
    """Identifies the files of a model among those of its size."""
    given = existing(model)
    return hashlib.sha256(str(model if given is None else given.resolve()).encode()).hexdigest()[:8]


def result_of(model: str, task: str, folder: Path) -> Result | None:
    """The earlier measurement of a model, None if there is none. Raises BadPoints for a damaged file."""
    found = next(iter(folder.glob(f"{task}-*-{_mark(model)}.jsonl")), None)
    return None if found is None else _read(found)


def read_results(folder: Path) -> list[Result]:
    """All results in a folder, by name. Other files are skipped. Raises BadPoints for a damaged one, or without any."""
    if not folder.is_dir():
        raise BadPoints(
            f"expected a folder of results at {folder}, got none: limbeck probe MODEL --probe pass-until --out"
        )
    found = [result for path in sorted(folder.glob("*.jsonl")) if (result := _read(path)) is not None]
    if not found:
        raise BadPoints(
            f"{folder} holds no result: write some with limbeck probe MODEL --probe pass-until --task NAME --out {folder}"
        )
    return found


def _read(path: Path) -> Result | None:
    try:
        with path.open("rb") as file:
            about = json.loads(file.readline())
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        return None
    remedy = "measure that model again with limbeck probe --probe pass-until, or remove the file"
    about, *rest = read_lines(path, appended=False, error=BadPoints, remedy=remedy)
    require_type(path, about, _About, error=BadPoints, remedy=remedy)
    try:
        result = Result(path, about, tuple(Count(**row) for row in rest))
        if not (result.parameters > 0 and result.counts and about["task"] and about["task_sha256"]):
            raise ValueError("no parameters or no counts")
        for number, count in enumerate(result.counts, 2):
            if not (0 <= count.successes <= count.samples and count.samples > 0):
                raise ValueError(f"line {number}: {count.successes} successes of {count.samples} samples")
    except (ValueError, TypeError, KeyError) as error:
        raise BadPoints(
            f"{path} is damaged ({error}): measure that model again with limbeck probe --probe pass-until, or remove the file"
        ) from error
    return result
