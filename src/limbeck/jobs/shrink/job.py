"""`limbeck shrink`: makes a student of a teacher's weights, without training: pruned, or of low-rank factors."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from limbeck.config import ShrinkSettings
from limbeck.corpora import TokenStore
from limbeck.corpora.source import resolve as resolve_source
from limbeck.disk import claims, remove_beside, take
from limbeck.ending import Ending, show_ending
from limbeck.jobs.common.environment import Environment, environment_of, require_one_process, row_length
from limbeck.jobs.common.folder import require_empty
from limbeck.jobs.common.made import made_of
from limbeck.jobs.common.opening import open_once
from limbeck.jobs.common.sample import first_documents
from limbeck.jobs.common.text import columns_of, passing_store
from limbeck.jobs.pair.low_rank import factored_student, sizes
from limbeck.jobs.pair.student import (
    Pruning,
    check_factors,
    scored_by,
    shrink_stored,
    shrink_to,
    stored_as,
    target_shape,
)
from limbeck.jobs.pair.trimmed import load_teacher, load_teacher_within, stored_teacher
from limbeck.jobs.pair.vocabulary import trimmed_beside
from limbeck.models.configuration import load_config
from limbeck.models.experts import expert_count, is_mixture
from limbeck.models.language_model import LanguageModel
from limbeck.models.save import save
from limbeck.models.stored import StoredModel
from limbeck.models.streamed import StreamedModel
from limbeck.planning.checks.finding import show
from limbeck.report.card import model_card
from limbeck.run.log import console
from limbeck.students.shape import Shape
from limbeck.teachers.ref import LocalRef, TeacherRef, computed_here, teacher_ref


@claims()
def shrink(settings: ShrinkSettings) -> dict[str, Any]:
    """Makes a student of the teacher in ``settings.out``, pruned or of low-rank factors.

    Returns ``{"out", "parameters", "shape", "teacher_parameters"}``. Raises BadSetting for flags that do not go together or
    several processes, BadFolder for a folder that is not empty, and the errors of a faulty text or teacher.
    """
    check_factors(settings)
    require_one_process("shrink")
    source = teacher_ref(settings.teacher)
    environment = environment_of(settings, computed_here(source))
    require_empty(settings.out)
    with tempfile.TemporaryDirectory() as folder:
        if isinstance(source, LocalRef):
            source = trimmed_beside(settings, source, Path(folder))
        return _shrunk(settings, source, environment)


@dataclass(frozen=True)
class _Made:
    """A student, its shape, the table of its sizes, and how it is saved with a card and a number format."""

    about: LanguageModel
    shape: Shape
    sizes: list[list[str]]
    save: Callable[..., None]


def _shrunk(settings: ShrinkSettings, source: TeacherRef, environment: Environment) -> dict[str, Any]:
    out = settings.out
    shape = target_shape(settings, source)
    resolve_source(settings.data, columns_of(settings))
    take(out)
    require_empty(out)  # another process may just have finished
    remove_beside(out)
    local = source if isinstance(source, LocalRef) else LocalRef(settings.teacher)
    # The files of a mixture hold its experts in another form than that in which Transformers computes: it is in memory.
    mixture = load_teacher(local, environment) if is_mixture(load_config(local.config_source)) else None
    files = stored_teacher(local, environment) if mixture is None else None
    teacher = mixture if files is None else files.about
    assert teacher is not None
    length = row_length(settings, teacher.context, environment.world.device, name=teacher.name)
    runs = mixture or load_teacher_within(local, environment, length=length, spill=out)
    texts = first_documents(settings, source).texts
    show(open_once(settings, teacher, runs, texts, device=environment.world.device), console)
    with passing_store(settings, teacher) as store:
        if shape is None:
            made = _factored(settings, runs, store, length=length, environment=environment)
        else:
            made = _pruned(settings, shape, files, runs, store, length=length, environment=environment)
    student = made.about
    stored = stored_as(settings, source)
    wanted = ["--teacher", settings.teacher, "--student", str(out), "--data", settings.data]
    then = shlex.join(["limbeck", "distil", *wanted, "--out", str(out.with_name(f"{out.name}-distilled"))])
    facts = made_of(settings.teacher, teacher, student, shape=made.shape, stored=stored)
    card = model_card(facts, [], then=then)
    made.save(out.resolve(), card=card, dtype=stored)  # --out may be a link
    ending = Ending(
        f"{teacher.parameters_count:,} -> {student.parameters_count:,} parameters: {made.shape}",
        made.sizes,
        {"card": out / "README.md", "student": out},
        then=then,
    )
    show_ending(ending, console)
    return {
        "out": str(out),
        "parameters": student.parameters_count,
        "teacher_parameters": teacher.parameters_count,
        "shape": str(made.shape),
    }


def _pruned(
    settings: ShrinkSettings,
    shape: Shape,
    files: StoredModel | None,
    runs: LanguageModel | StreamedModel,
    store: TokenStore,
    *,
    length: int,
    environment: Environment,
) -> _Made:
    """The student that is pruned from the files of a teacher, or from a mixture of experts in memory."""
    how: Pruning = {"length": length, "environment": environment, **scored_by(settings)}
    if files is not None:
        cut = shrink_stored(shape, files, runs, store, **how)
        return _Made(cut.about, shape, _sizes(files.about, shape, cut.about.parameters_count), cut.save)
    assert isinstance(runs, LanguageModel)
    student = shrink_to(shape, runs, store, experts=settings.experts, **how)
    return _Made(student, shape, _sizes(runs, shape, student.parameters_count), partial(save, student))


def _factored(
    settings: ShrinkSettings,
    runs: LanguageModel | StreamedModel,
    store: TokenStore,
    *,
    length: int,
    environment: Environment,
) -> _Made:
    student = factored_student(settings, runs, store, length=length, environment=environment)
    assert isinstance(runs, LanguageModel)
    return _Made(student, Shape.of(runs.config), sizes(runs, student), partial(save, student))


def _sizes(teacher: LanguageModel, shape: Shape, parameters: int) -> list[list[str]]:
    """A table of the sizes of teacher and student, one row an axis."""
    before, after = asdict(Shape.of(teacher.config)), asdict(shape)
    rows = [[axis.replace("_", " "), f"{before[axis]:,}", f"{after[axis]:,}"] for axis in after]
    if is_mixture(teacher.config):
        rows.append(["experts", f"{teacher.config.num_experts_per_tok} of {expert_count(teacher.config)}", "dense"])
    return [["", "teacher", "student"], ["parameters", f"{teacher.parameters_count:,}", f"{parameters:,}"], *rows]
