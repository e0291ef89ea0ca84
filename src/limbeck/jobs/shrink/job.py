"""`limbeck shrink`: prunes a student from a teacher, without training, into a model folder."""

from __future__ import annotations

import os
import shlex
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from limbeck.config import DistilSettings, nearest
from limbeck.corpora.source import resolve as resolve_source
from limbeck.disk import LOCK, claims, remove_beside, take
from limbeck.ending import Ending, show_ending
from limbeck.errors import BadFolder, BadSetting
from limbeck.jobs.common.environment import Environment, environment_of, row_length
from limbeck.jobs.common.folder import command
from limbeck.jobs.common.opening import open_once
from limbeck.jobs.common.sample import first_documents
from limbeck.jobs.common.text import columns_of, passing_store
from limbeck.jobs.pair.student import shrink_stored, stored_as, target_shape
from limbeck.jobs.pair.trimmed import load_teacher_within, stored_teacher
from limbeck.jobs.pair.vocabulary import trimmed_beside
from limbeck.models.language_model import LanguageModel
from limbeck.models.sidecar import licence_of
from limbeck.models.source import resolve_description
from limbeck.planning.checks.finding import show
from limbeck.report.card import model_card
from limbeck.run.log import console
from limbeck.students.score import METHODS
from limbeck.students.shape import Shape
from limbeck.teachers.ref import LocalRef, TeacherRef, computed_here, teacher_ref


@claims()
def shrink(settings: DistilSettings, *, method: str) -> dict[str, Any]:
    """Prunes a student from the teacher into ``settings.out``; returns ``{"out", "parameters", "shape", "teacher_parameters"}``.

    Raises BadSetting for an unknown method or several processes, BadFolder for a folder that is not empty, and the errors of a
    faulty text or teacher.
    """
    if method not in METHODS:
        raise BadSetting(f"unknown --method {method!r}{nearest(method, METHODS)} There are: {', '.join(METHODS)}.")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise BadSetting("shrink runs in one process: start it without torchrun")
    source = teacher_ref(settings.teacher)
    environment = environment_of(settings, computed_here(source))
    _require_empty(settings.out)
    with tempfile.TemporaryDirectory() as folder:
        if isinstance(source, LocalRef):
            source = trimmed_beside(settings, source, Path(folder))
        return _shrunk(settings, source, environment, method=method)


def _shrunk(settings: DistilSettings, source: TeacherRef, environment: Environment, *, method: str) -> dict[str, Any]:
    out, shape = settings.out, target_shape(settings, source)
    assert shape is not None, "shrink has no --student"
    resolve_source(settings.data, columns_of(settings))
    take(out)
    _require_empty(out)  # another process may just have finished
    remove_beside(out)
    local = source if isinstance(source, LocalRef) else LocalRef(settings.teacher)
    stored_weights = stored_teacher(local, environment)
    teacher = stored_weights.about
    length = row_length(settings, teacher.context, environment.world.device, name=teacher.name)
    runs = load_teacher_within(local, environment, length=length, spill=out)
    texts = first_documents(settings, source).texts
    show(open_once(settings, teacher, runs, texts, device=environment.world.device), console)
    with passing_store(settings, teacher) as store:
        cut = shrink_stored(
            *(shape, stored_weights, runs, store),
            length=length,
            environment=environment,
            method=method,
            seed=settings.seed,
        )
    student = cut.about
    stored = stored_as(settings, source)
    facts = {
        "teacher": {
            "name": teacher.name,
            "parameters": teacher.parameters_count,
            "shape": asdict(Shape.of(teacher.config)),
            "stated": licence_of(resolve_description(settings.teacher)),
        },
        "student": {
            "parameters": student.parameters_count,
            "shape": asdict(shape),
            "dtype": str(stored).removeprefix("torch."),
        },
        "lineage": student.lineage,
        "command": command(),
    }
    wanted = ["--teacher", settings.teacher, "--student", str(out), "--data", settings.data]
    then = shlex.join(["limbeck", "distil", *wanted, "--out", str(out.with_name(f"{out.name}-distilled"))])
    cut.save(out.resolve(), card=model_card(facts, [], then=then), dtype=stored)  # --out may be a link
    ending = Ending(
        f"{teacher.parameters_count:,} -> {student.parameters_count:,} parameters: {shape}",
        _sizes(teacher, shape, student.parameters_count),
        {"card": out / "README.md", "student": out},
        then=then,
    )
    show_ending(ending, console)
    return {
        "out": str(out),
        "parameters": student.parameters_count,
        "teacher_parameters": teacher.parameters_count,
        "shape": str(shape),
    }


def _sizes(teacher: LanguageModel, shape: Shape, parameters: int) -> list[list[str]]:
    """A table of the sizes of teacher and student, one row an axis."""
    before, after = asdict(Shape.of(teacher.config)), asdict(shape)
    rows = [[axis.replace("_", " "), f"{before[axis]:,}", f"{after[axis]:,}"] for axis in after]
    return [["", "teacher", "student"], ["parameters", f"{teacher.parameters_count:,}", f"{parameters:,}"], *rows]


def _require_empty(out: Path) -> None:
    if out.exists() and (not out.is_dir() or {path.name for path in out.iterdir()} - {LOCK}):
        raise BadFolder(f"{out} exists and is not an empty folder: nothing was written. Give a new folder with --out.")
