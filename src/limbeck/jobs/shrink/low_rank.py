"""A student of low-rank factors: `limbeck shrink --low-rank`."""

from __future__ import annotations

import math
from typing import Any

from limbeck.config import DistilSettings, ShrinkSettings, flag_of
from limbeck.corpora import Rows, TokenStore
from limbeck.errors import BadSetting
from limbeck.jobs.common.environment import Environment
from limbeck.jobs.pair.student import CALIBRATION_ROWS, SIZES
from limbeck.models.language_model import LanguageModel
from limbeck.models.streamed import StreamedModel
from limbeck.run.micro import micro_batches
from limbeck.students.factor import Budget, linears
from limbeck.students.low_rank import LINEAGE, low_rank, stored_parameters

_TIMES = 2  # tokens of the sample for each input of the widest matrix, at least


def check_flags(settings: ShrinkSettings) -> None:
    """Raises BadSetting for flags of factors without --low-rank, and with it for another size or a score of importance."""
    given = settings.model_fields_set
    if settings.low_rank is None:
        for name in ("factor", "sparse", "dense"):
            if name in given:
                raise BadSetting(
                    f"{flag_of(ShrinkSettings, name)} is about low-rank factors: give --low-rank SHARE too, or leave it out"
                )
        return
    for name in SIZES:
        if getattr(settings, name) is not None:
            raise BadSetting(
                f"--low-rank and {flag_of(DistilSettings, name)} both define the student: give one of them. A student that is "
                "pruned first can be factored by a second limbeck shrink, with it as --teacher"
            )
    for name in ("method", "depth"):
        if name in given:
            raise BadSetting(f"--{name} scores what is pruned, and --low-rank prunes nothing: leave it out")
    Budget(settings.low_rank, settings.sparse)


def factored_student(
    settings: ShrinkSettings,
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
    assert settings.low_rank is not None
    most = max(part.in_features for part in linears(teacher).values())
    rows = max(CALIBRATION_ROWS, math.ceil(_TIMES * most / length))
    taken = Rows(store, length=length, seed=settings.seed).take(rows)
    sample = list(micro_batches(taken, environment.world.device))
    budget = Budget(settings.low_rank, settings.sparse)
    return low_rank(teacher, sample, budget=budget, method=settings.factor, dense=settings.dense)


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
