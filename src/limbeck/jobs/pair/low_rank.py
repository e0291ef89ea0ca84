"""A student of low-rank factors: `limbeck shrink --low-rank`, and the start of `limbeck distil --low-rank`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from limbeck.config import DistilSettings, ShrinkSettings
from limbeck.corpora import Rows, TokenStore
from limbeck.errors import BadSetting
from limbeck.jobs.common.environment import Environment
from limbeck.jobs.pair.student import CALIBRATION_ROWS, OnDisk, save_student
from limbeck.models.language_model import LanguageModel
from limbeck.models.streamed import StreamedModel
from limbeck.run.log import console
from limbeck.run.micro import micro_batches
from limbeck.students.factor import Budget, linears
from limbeck.students.low_rank import LINEAGE, low_rank, stored_parameters
from limbeck.teachers.ref import TeacherRef

_TIMES = 2  # tokens of the sample for each input of the widest matrix, at least


def make_factored(
    settings: DistilSettings,
    ref: TeacherRef,
    teacher: LanguageModel | OnDisk,
    store: TokenStore,
    *,
    length: int,
    environment: Environment,
) -> Path:
    """Makes the untrained student of factors in the run's folder; returns its folder. One that was made before is kept.

    ``ref`` names the teacher. Raises as `factored_student`.
    """
    folder = settings.out / "cut"
    if environment.world.first and not (folder / "config.json").exists():
        runs = teacher.run() if isinstance(teacher, OnDisk) else teacher
        student = factored_student(settings, runs, store, length=length, environment=environment)
        save_student(student, settings, ref, folder)
        ranks = ", ".join(f"{kind} {text}" for kind, text in ranks_of(student).items())
        console.print(f"low rank: {settings.low_rank:.0%} of the parameters of each matrix; ranks: {ranks}")
    environment.world.barrier()
    return folder


def budget_of(settings: DistilSettings) -> Budget:
    """The share of each matrix that is kept. Raises BadSetting for shares that leave nothing for factors."""
    assert settings.low_rank is not None
    return Budget(settings.low_rank, settings.sparse)


def factored_student(
    settings: DistilSettings,
    teacher: LanguageModel | StreamedModel,
    store: TokenStore,
    *,
    length: int,
    environment: Environment,
) -> LanguageModel:
    """The student of factors of a teacher's matrices, fitted on a calibration sample of the text.

    Raises BadSetting for a teacher that does not fit in memory, and as `students.low_rank`.
    """
    if isinstance(teacher, StreamedModel):
        raise BadSetting(
            f"--low-rank: {teacher.name} is larger than the memory that is free, and factors are fitted to a teacher in memory: "
            "use a machine with more, or prune it first (limbeck shrink --params)"
        )
    most = max(part.in_features for part in linears(teacher).values())
    rows = max(CALIBRATION_ROWS, math.ceil(_TIMES * most / length))
    taken = Rows(store, length=length, seed=settings.seed).take(rows)
    sample = list(micro_batches(taken, environment.world.device))
    dense = isinstance(settings, ShrinkSettings) and settings.dense
    return low_rank(teacher, sample, budget=budget_of(settings), method=settings.factor, dense=dense)


def sizes(teacher: LanguageModel, student: LanguageModel) -> list[list[str]]:
    """A table of the sizes of teacher and student: parameters, and the ranks of each kind of matrix."""
    ranks = ranks_of(student)
    rows = [["parameters", f"{teacher.parameters_count:,}", f"{student.parameters_count:,}"]]
    if facts_of(student)["dense"]:
        rows.append(["as factors", "", f"{stored_parameters(student):,}"])
    return [["", "teacher", "student"], *rows, *([f"rank of {kind}", "", text] for kind, text in ranks.items())]


def facts_of(student: LanguageModel) -> dict[str, Any]:
    """What its lineage says about its factors."""
    found: dict[str, Any] = (student.lineage or {})[LINEAGE]
    return found


def ranks_of(student: LanguageModel) -> dict[str, str]:
    """The rank of each kind of matrix, such as up_proj; all layers have the same."""
    kinds: dict[str, set[int]] = {}
    for name, (rank, _) in facts_of(student)["ranks"].items():
        kinds.setdefault(name.rpartition(".")[2], set()).add(rank)
    return {kind: ", ".join(map(str, sorted(found))) for kind, found in kinds.items()}
