"""From the settings of a command to its job and a typed result. The command line and the Python functions both call these.

Jobs are imported inside: the settings are checked before torch is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from limbeck.config import (
    CaptureSettings,
    DistilSettings,
    ExportSettings,
    GrowSettings,
    PilotSettings,
    PlanSettings,
    PredictSettings,
    PretrainSettings,
    ProbeCommandSettings,
    ReproduceSettings,
    ShrinkSettings,
    TuneSettings,
    by_domain,
    require_one_teacher,
    resolve,
)
from limbeck.config.commands import BY_NAME
from limbeck.config.settings import Base
from limbeck.garbage import loading
from limbeck.models.source import require
from limbeck.results import (
    CaptureResult,
    DistilResult,
    DoctorResult,
    ExportResult,
    GrowResult,
    PilotResult,
    PlanResult,
    PredictResult,
    PretrainResult,
    ProbeResult,
    ReproduceResult,
    ShrinkResult,
    TuneResult,
)

_SEVERAL = ("distil", "doctor")  # commands that take several teachers


def settings_of(command: str, file: str | Path | None, keys: Mapping[str, Any]) -> Base:
    """The settings of a command. Raises a LimbeckError for a wrong key or value, or a model that is not there."""
    spec = BY_NAME[command]
    settings = resolve(spec.settings, None if file is None else Path(file), keys, taken=spec.taken())
    if command not in _SEVERAL:
        require_one_teacher(str(getattr(settings, "teacher", "")))
    require(*(model for name in spec.models for model in _models(getattr(settings, name))))
    return settings


def _models(named: str | Path | None) -> list[str | Path | None]:
    """The models that a setting names: one, or several by domain."""
    return [model for _, model in by_domain(str(named)) if model] or [named]


def distil(settings: DistilSettings) -> DistilResult:
    """Distils one student, or several where there are several sizes or objectives."""
    with loading():
        if settings.is_family:
            from limbeck.jobs.distil.sweep import sweep as job
        else:
            from limbeck.jobs.distil.job import distil as job

    return DistilResult.of(job(settings), settings.out)


def tune(settings: TuneSettings) -> TuneResult:
    """Tunes a model."""
    with loading():
        from limbeck.jobs.tune.job import tune as job

    return TuneResult.of(job(settings), settings.out)


def capture(settings: CaptureSettings) -> CaptureResult:
    """Captures logits, or generated text."""
    with loading():
        from limbeck.jobs.capture.job import capture as job

    return CaptureResult.of(job(settings), settings.out)


def pretrain(settings: PretrainSettings) -> PretrainResult:
    """Trains a model from scratch."""
    with loading():
        from limbeck.jobs.pretrain.job import pretrain as job

    return PretrainResult.of(job(settings), settings.out)


def shrink(settings: ShrinkSettings) -> ShrinkResult:
    """Prunes a student out of a teacher."""
    with loading():
        from limbeck.jobs.shrink.job import shrink as job

    return ShrinkResult.of(job(settings), settings.out)


def grow(settings: GrowSettings) -> GrowResult:
    """Makes a larger model out of a small one."""
    with loading():
        from limbeck.jobs.grow.job import grow_model as job

    return GrowResult.of(job(settings), settings.out)


def probe(settings: ProbeCommandSettings) -> ProbeResult:
    """Measures a model."""
    with loading():
        if settings.probe == ("pass-until",):
            from limbeck.jobs.probe.pass_until import pass_until as job
        else:
            from limbeck.jobs.probe.job import probe as job

    return ProbeResult.of(job(settings, model=settings.model, teacher=settings.teacher, out=settings.out))


def pilot(settings: PilotSettings) -> PilotResult:
    """Trains a ladder of small models."""
    with loading():
        from limbeck.jobs.pilot import pilot as job

    return PilotResult.of(job(settings), settings.out)


def predict(settings: PredictSettings) -> PredictResult:
    """Predicts a task's score at another size."""
    with loading():
        from limbeck.jobs.predict.job import predict as job

    return PredictResult.of(job(settings))


def doctor(settings: DistilSettings) -> DoctorResult:
    """Checks a pair and its data."""
    with loading():
        from limbeck.jobs.doctor.job import doctor as job

    return DoctorResult.of(job(settings))


def export(settings: ExportSettings) -> ExportResult:
    """Writes a model in another format."""
    with loading():
        from limbeck.jobs.export.job import export as job

    return ExportResult.of(job(settings))


def plan(settings: PlanSettings) -> PlanResult:
    """Answers a question about size, teacher, device and cost."""
    with loading():
        from limbeck.jobs.plan.job import plan as job

    return PlanResult.of(job(settings))


def reproduce(settings: ReproduceSettings) -> ReproduceResult:
    """Reproduces a published result."""
    with loading():
        from limbeck.papers.reproduce import reproduce as job

    return ReproduceResult.of(job(settings))
