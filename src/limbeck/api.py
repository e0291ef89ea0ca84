"""The jobs as Python functions: the keys are those of the command line, with underscores."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from limbeck.config import (
    AnySettings,
    CaptureSettings,
    DistilSettings,
    PilotSettings,
    PlanSettings,
    PredictSettings,
    PretrainSettings,
    ProbeSettings,
    ReproduceSettings,
    resolve,
)
from limbeck.models.source import require


def settings_of(kind: type[AnySettings], file: str | Path | None, keys: Mapping[str, Any]) -> AnySettings:
    """The settings of a job. Raises a LimbeckError for a wrong key or a model that is not there, before torch is loaded."""
    settings = resolve(kind, None if file is None else Path(file), keys)
    require(*(getattr(settings, key, None) for key in ("teacher", "student", "tokenizer")))
    return settings


def distil(file: str | Path | None = None, /, **keys: Any) -> dict[str, Any]:
    """Makes a small model out of a large one; gives ``{"out", "student", "readings", "verdict"}``.

    >>> limbeck.distil(teacher="Qwen/Qwen3-8B", params="600M", data="my.jsonl", tokens="200M", out="runs/first")

    ``file`` is a TOML run file; keys given here win. Several sizes in ``params``, or several objectives, are as many students;
    then it gives ``{"out", "members"}``. Raises a `limbeck.errors.LimbeckError` that says what to do.
    """
    settings = settings_of(DistilSettings, file, keys)
    if settings.is_family:
        from limbeck.jobs.distil.sweep import sweep

        return sweep(settings)
    from limbeck.jobs.distil.job import distil as job

    return job(settings)


def capture(file: str | Path | None = None, /, **keys: Any) -> dict[str, Any]:
    """Asks a teacher about a text once, and keeps its answers; gives ``{"out", "rows", "tokens", "bytes", "certificate"}``.

    >>> limbeck.capture(teacher="Qwen/Qwen3-8B", data="my.jsonl", bytes_per_token=48, out="answers")
    >>> limbeck.distil(teacher="answers", params="600M", out="runs/first")

    With ``text=True`` the teacher answers prompts, and what it writes is kept; gives ``{"out", "text", "samples", ...}``.
    """
    settings = settings_of(CaptureSettings, file, keys)
    from limbeck.jobs.capture.job import capture as job

    return job(settings)


def pretrain(file: str | Path | None = None, /, **keys: Any) -> dict[str, Any]:
    """Trains a model from scratch, with a tokenizer of its own; gives ``{"out", "model", "readings"}``."""
    from limbeck.jobs.pretrain.job import pretrain as job

    return job(resolve(PretrainSettings, None if file is None else Path(file), keys))


def shrink(*, method: str = "activation", **keys: Any) -> dict[str, Any]:
    """Cuts a student out of a teacher without training it; gives ``{"out", "parameters", "teacher_parameters", "shape"}``."""
    settings = settings_of(DistilSettings, None, keys)
    from limbeck.jobs.shrink.job import shrink as job

    return job(settings, method=method)


def probe(model: str, *, teacher: str | None = None, out: str | Path | None = None, **keys: Any) -> dict[str, Any]:
    """Measures a model, alone or against a teacher; gives ``{"model", "readings"}``, and ``measured_on`` where that is a text.

    A model inside a run is measured on what the run held out, or on what of ``data`` the run was not trained on.
    With ``probe="slices"`` it is measured how well it recalls what stands earlier in its context, and ``counted_in`` is given
    besides; with ``probe="mqar,arithmetic"`` (also reversal, listops) it is asked synthetic tasks. With ``probe="pass-until"``
    and a ``task``, measures how often it passes that; gives ``{"model", "task", "readings"}``.
    """
    settings = resolve(ProbeSettings, None, keys)
    require(model, teacher)
    from limbeck.jobs.probe.job import probe as job
    from limbeck.jobs.probe.pass_until import pass_until as task_job

    measure = task_job if settings.probe == ("pass-until",) else job
    return measure(settings, model=model, teacher=teacher, out=None if out is None else Path(out))


def pilot(file: str | Path | None = None, /, **keys: Any) -> dict[str, Any]:
    """Trains a ladder of small models; gives ``{"out", "points", "teachers", "students", "valleys", ...}``."""
    from limbeck.jobs.pilot import pilot as job

    return job(resolve(PilotSettings, None if file is None else Path(file), keys))


def predict(**keys: Any) -> dict[str, Any]:
    """Predicts a task's score at another size; gives ``{"task", "params", "predictions", "checks", "law"}``."""
    from limbeck.jobs.predict.job import predict as job

    return job(resolve(PredictSettings, None, keys))


def doctor(**keys: Any) -> dict[str, Any]:
    """Looks at a pair and its data before anything is spent; gives ``{"ok", "findings"}``."""
    settings = settings_of(DistilSettings, None, keys)
    from limbeck.jobs.doctor.job import doctor as job

    return job(settings)


def plan(**keys: Any) -> dict[str, Any]:
    """Chooses a teacher for a student, or a student for a device; gives ``{"student", "planners", "costs", ...}``.

    >>> limbeck.plan(params="600M", tokens="10B", candidates=["1.5B", "4B", "Qwen/Qwen3-8B"])

    Raises a `limbeck.errors.LimbeckError`.
    """
    from limbeck.jobs.plan.job import plan as job

    return job(resolve(PlanSettings, None, keys))


def reproduce(recipe: str, **keys: Any) -> dict[str, Any]:
    """Runs the reproduction of a paper; gives ``{"out", "recipe", "scale", "judged", "ours", "numbers", ...}``.

    ``judged`` has for each claim its criterion, "confirmed", "refuted" or "inconclusive", and what was seen.
    """
    from limbeck.papers.reproduce import reproduce as job

    return job(resolve(ReproduceSettings, None, {"recipe": recipe, **keys}))
