"""The student before training: its shape from the budget, and the cut out of the teacher."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired, TypedDict, Unpack

import torch

from limbeck.config import ATTENTION, LAYERS, PTQ, DistilSettings, ShrinkSettings, byte_budget, flag_of
from limbeck.config.defaults import SHRINK
from limbeck.corpora import Rows, TokenStore
from limbeck.errors import BadSetting
from limbeck.jobs.common.environment import Environment
from limbeck.jobs.pair.mixers import parse_mixers
from limbeck.jobs.pair.vocabulary import given_student
from limbeck.models.configuration import load_config
from limbeck.models.experts import DENSE, is_mixture
from limbeck.models.gguf.numbers import BLOCK
from limbeck.models.gguf.quantiser import KIND_OF
from limbeck.models.language_model import LanguageModel
from limbeck.models.save import holds, save
from limbeck.models.sidecar import FLOATS, stored_dtype
from limbeck.models.source import resolve_description
from limbeck.models.stored import StoredModel
from limbeck.models.streamed import StreamedModel
from limbeck.report.experts import experts_sentence
from limbeck.report.words import count
from limbeck.run.log import console
from limbeck.run.micro import micro_batches
from limbeck.students.convert import choose as choose_converted
from limbeck.students.dense import CHOSEN, LINEAGE, lineage_of_experts, make_dense
from limbeck.students.factor import Budget as FactorBudget
from limbeck.students.prune import StoredStudent, prune, prune_stored
from limbeck.students.score import score
from limbeck.students.shape import (
    BODY,
    Budget,
    Shape,
    budget_of_shrink,
    choose,
    choose_unblocked,
    choose_within,
    parse_shape,
)
from limbeck.students.tally import Scores
from limbeck.teachers.ref import TeacherRef
from limbeck.types import Batch

_DTYPES = {name: getattr(torch, name) for name in FLOATS.values()}
CALIBRATION_ROWS = 64
SIZES = ("params", "shrink", "shape", "weight_bytes", "body_params")  # settings that say how large a pruned student is
METHOD = "activation"  # how importance is scored unless --method names another; --depth is its own by default


def target_shape(settings: DistilSettings, teacher: TeacherRef) -> Shape | None:
    """The shape for the budget of parameters or bytes, from the teacher's configuration alone.

    None for an existing student, for factors, and for a conversion that keeps the teacher's shape. Raises BadSetting if several
    flags define the student, or several sizes are given, and BadShape if no shape fits.
    """
    check_factors(settings)
    if settings.low_rank is not None:
        return None
    chosen = [flag_of(DistilSettings, name) for name in ("student", *SIZES) if getattr(settings, name) is not None]
    if len(chosen) > 1:
        raise BadSetting(f"{' and '.join(chosen)} both define the student: give one of them")
    check_conversion_flags(settings)
    _check_quantised_flags(settings)
    if LAYERS in settings.baselines and settings.learngene is None:
        raise BadSetting(
            f"--baselines {LAYERS} is compared with a student of shared layers: give --learngene, or leave it out"
        )
    if settings.student is not None and settings.experts is not None:
        raise BadSetting("--student and --experts both define the student: give one of them")
    if settings.student is not None or (settings.mixers is not None and not chosen):
        _check_not_scored(settings)
        return None
    config = load_config(teacher.config_source)
    if settings.experts is not None and not is_mixture(config):
        raise BadSetting(
            f"--experts {settings.experts}: {settings.teacher} is no mixture of experts that becomes a dense student "
            f"({', '.join(sorted(DENSE))}): leave --experts out"
        )
    if settings.depths is not None and settings.shape is None:
        shown = ",".join(map(str, settings.depths))
        raise BadSetting(f"--depths {shown}: one student is made here; give --shape layers={settings.depths[0]}")
    if settings.shape is not None:
        return parse_shape(settings.shape, config)
    if isinstance(settings.params, tuple):
        raise BadSetting(f"--params {','.join(map(str, settings.params))}: one student is made here; give one size")
    if settings.weight_bytes is not None or settings.body_params is not None:
        return choose_within(config, _other_budget(settings, teacher), multiple=multiple_of(settings.qat))
    budget = settings.params or budget_of_shrink(config, SHRINK if settings.shrink is None else settings.shrink)
    if settings.mixers is not None:
        return choose_converted(config, lambda layers: mixers_for(settings, layers), budget=budget)
    return choose(config, parameters=budget, multiple=multiple_of(settings.qat))


def _check_not_scored(settings: DistilSettings) -> None:
    """Raises BadSetting for scores of importance where nothing is pruned."""
    for flag, given in (("--method", settings.method != METHOD), ("--depth", settings.depth is not None)):
        if given:
            why = (
                "with --student nothing is pruned"
                if settings.student
                else "with --mixers and no size nothing is pruned"
            )
            raise BadSetting(f"{flag} scores what is pruned out of the teacher, and {why}: leave one of the two out")


def check_factors(settings: DistilSettings) -> None:
    """Raises BadSetting for flags of factors without --low-rank, and with it for another student or a score of importance."""
    given = settings.model_fields_set
    if settings.low_rank is None:
        for name in ("factor", "sparse", "dense"):
            if name in given:
                raise BadSetting(
                    f"{flag_of(ShrinkSettings, name)} is about low-rank factors: give --low-rank SHARE too, or leave it out"
                )
        return
    others = ("student", *SIZES, "depths", "mixers", "experts")
    named = [name for name in others if getattr(settings, name) is not None] + ["rounds"] * (settings.rounds > 1)
    if named:
        raise BadSetting(
            f"--low-rank and {flag_of(DistilSettings, named[0])} both define the student: give one of them. A student that is "
            "pruned first can be factored by a second limbeck shrink, with it as --teacher"
        )
    for name in ("method", "depth"):
        if name in given:
            raise BadSetting(f"--{name} scores what is pruned, and --low-rank prunes nothing: leave it out")
    if settings.qat is not None:
        raise BadSetting(f"--qat {settings.qat}: no GGUF file holds low-rank factors: leave --low-rank out, or --qat")
    FactorBudget(settings.low_rank, settings.sparse)  # for its errors


def possible_shapes(settings: DistilSettings, teacher: TeacherRef) -> tuple[Shape, ...]:
    """The shapes that a student made for these settings may have, `target_shape` first.

    The other is the choice of earlier versions for the same budget, of which a folder of captured logits may hold a student.
    """
    target = target_shape(settings, teacher)
    others = (settings.shape, settings.weight_bytes, settings.body_params, settings.mixers, settings.qat)
    free = all(one is None for one in others)
    if target is None or not free or isinstance(settings.params, tuple):
        return () if target is None else (target,)
    config = load_config(teacher.config_source)
    budget = settings.params or budget_of_shrink(config, SHRINK if settings.shrink is None else settings.shrink)
    return target, choose_unblocked(config, parameters=budget)


def _other_budget(settings: DistilSettings, teacher: TeacherRef) -> Budget:
    """The budget of --body-params, or of --bytes: in its own format, else in that of the student's file, of the GGUF file with
    --qat.
    """
    if settings.mixers is not None:
        flag = "--bytes" if settings.weight_bytes else "--body-params"
        raise BadSetting(
            f"{flag} counts the weights of a pruned student, and --mixers makes layers of other kinds: give --params instead"
        )
    if settings.body_params is not None:
        return Budget(settings.body_params, BODY)
    assert settings.weight_bytes is not None
    most, kind = byte_budget(settings.weight_bytes)
    if kind is None and settings.qat is not None:
        kind = KIND_OF[settings.qat]
    return Budget(most, kind or str(stored_as(settings, teacher)).removeprefix("torch."))


def multiple_of(qat: str | None) -> int:
    """What divides the rows of a student's matrices: a block of quantised weights, 1 in full precision."""
    return 1 if qat is None else BLOCK


def mixers_for(settings: DistilSettings, layers: int) -> list[str]:
    """A mixer for each layer. The first --keep-attention of them are attention: the cost does not depend on which keep it."""
    assert settings.mixers is not None
    pattern, kept = parse_mixers(settings.mixers), settings.keep_attention or 0
    return [ATTENTION if layer < kept else pattern[layer % len(pattern)] for layer in range(layers)]


def check_conversion_flags(settings: DistilSettings) -> None:
    """Raises BadSetting for flags of a conversion without --mixers, and for --mixers with --student."""
    if settings.mixers is None:
        for flag, given in (
            ("--keep-attention", settings.keep_attention is not None),
            ("--match", settings.match is not None),
            (f"--baselines {ATTENTION}", ATTENTION in settings.baselines),
        ):
            if given:
                raise BadSetting(f"{flag} needs a student with other mixers: give --mixers, or leave it out")
    elif settings.student is not None:
        raise BadSetting(
            "--student and --mixers both define the student: with --mixers it is made of the teacher's weights; leave "
            "--student out, or give the model to be converted as --teacher"
        )


def _check_quantised_flags(settings: DistilSettings) -> None:
    """Raises BadSetting for flags that do not go with --qat, or without it."""
    if settings.qat is None:
        if PTQ in settings.baselines:
            raise BadSetting(
                f"--baselines {PTQ} is a student quantised after its training: give --qat, or leave it out"
            )
        return
    if settings.mixers is not None:
        raise BadSetting(
            f"--qat {settings.qat}: no GGUF file holds layers of limbeck's own mixers: leave --mixers out, or --qat"
        )
    if settings.student_dtype not in (None, "float32"):
        raise BadSetting(
            f"--student-dtype {settings.student_dtype}: with --qat the student's file is in float32, the only format that keeps "
            "what was trained exactly: leave it out"
        )


def stored_as(settings: DistilSettings, teacher: TeacherRef) -> torch.dtype:
    """The number format of the saved student: from the settings, else that of the model it starts from.

    float32 with --qat: other formats would round what is quantised once more.
    """
    if settings.qat is not None:
        return torch.float32
    if settings.student_dtype is not None:
        return _DTYPES[settings.student_dtype]
    return _DTYPES[stored_dtype(resolve_description(settings.student or teacher.config_source))]


def size_name(size: int) -> str:
    """The folder name of a size, such as 600M, 1.3B or 250k."""
    number, *unit = count(size).split()
    return f"{float(number):g}" + "".join(unit)


def make_student(
    settings: DistilSettings,
    ref: TeacherRef,
    shape: Shape | None,
    teacher: LanguageModel | OnDisk,
    store: TokenStore,
    *,
    length: int,
    environment: Environment,
    folder: Path | None = None,
) -> Path:
    """Makes the untrained student, pruned from the teacher by importance or copied from --student; returns its folder.

    A student that was made before is kept. The teacher runs only for pruning, on a calibration sample of ``store``.
    ``ref`` names the teacher. The files have the number format of the model that it is made of, where that rounds nothing.
    """
    folder = folder or settings.out / "cut"
    if environment.world.first and not (folder / "config.json").exists():
        keys: Pruning = {"length": length, "environment": environment, **scored_by(settings)}
        if isinstance(teacher, OnDisk) and shape is not None:
            shrink_stored(shape, teacher.stored, teacher.run(), store, **keys).save(folder)
        else:
            save_student(_in_memory(settings, ref, shape, teacher, store, keys), settings, ref, folder)
    environment.world.barrier()
    return folder


def save_student(student: LanguageModel, settings: DistilSettings, ref: TeacherRef, folder: Path) -> None:
    """Saves an untrained student in the number format of the model that it is made of, where that rounds nothing.

    Routing weights multiply the matrices of a mixture's experts, which are rounded to its format again.
    """
    own = _DTYPES[stored_dtype(resolve_description(settings.student or ref.config_source))]
    save(student, folder, dtype=own if holds(student, own) or lineage_of_experts(student) else None)


class Scoring(TypedDict):
    """What scores importance, and by which seed."""

    method: str
    depth: NotRequired[str | None]
    seed: int


class Pruning(Scoring):
    """How a student is pruned: also the length of rows of its calibration sample."""

    length: int
    environment: Environment


def scored_by(settings: DistilSettings) -> Scoring:
    """What scores importance by the settings."""
    return {"method": settings.method, "depth": settings.depth, "seed": settings.seed}


@dataclass(frozen=True)
class OnDisk:
    """A teacher whose weights are on disk: ``run`` gives it to be scored, in memory or layer by layer, when that is needed."""

    stored: StoredModel
    run: Callable[[], LanguageModel | StreamedModel]


def _in_memory(
    settings: DistilSettings,
    ref: TeacherRef,
    shape: Shape | None,
    teacher: LanguageModel | OnDisk,
    store: TokenStore,
    keys: Pruning,
) -> LanguageModel:
    """The student that --student names, or one that is pruned from a teacher in memory."""
    if shape is None:
        assert settings.student is not None
        return given_student(settings.student, ref, train=True)
    assert isinstance(teacher, LanguageModel)
    return shrink_to(shape, teacher, store, experts=settings.experts, **keys)


def shrink_to(
    shape: Shape, teacher: LanguageModel, store: TokenStore, *, experts: str | None = None, **how: Unpack[Pruning]
) -> LanguageModel:
    """A student of this shape, pruned from the teacher by importance on a calibration sample of the training text.

    A mixture of experts is made dense first, by ``experts`` of `students.dense`.
    """
    if is_mixture(teacher.config):
        teacher = make_dense(teacher, _sample(store, how), method=experts or CHOSEN)
        console.print(experts_sentence(lineage_of_experts(teacher)[LINEAGE]))
    return prune(teacher, shape=shape, scores=_scores(teacher, store, shape.layers, how))


def shrink_stored(
    shape: Shape,
    teacher: StoredModel,
    runs: LanguageModel | StreamedModel,
    store: TokenStore,
    **how: Unpack[Pruning],
) -> StoredStudent:
    """The same from a teacher on disk. ``runs`` is what computes of it, with the same vocabulary."""
    return prune_stored(teacher, shape=shape, scores=_scores(runs, store, shape.layers, how))


def _scores(teacher: LanguageModel | StreamedModel, store: TokenStore, keep: int, how: Pruning) -> Scores:
    """The scores by which so many layers are kept."""
    return score(
        teacher, _sample(store, how), keep=keep, method=how["method"], depth=how.get("depth"), seed=how["seed"]
    )


def _sample(store: TokenStore, how: Pruning) -> list[Batch]:
    """The calibration sample of the training text."""
    sample = Rows(store, length=how["length"], seed=how["seed"]).take(CALIBRATION_ROWS)
    return list(micro_batches(sample, how["environment"].world.device))
