"""`limbeck doctor`: the pair check alone, before anything is spent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers.configuration_utils import PreTrainedConfig

from limbeck.config import DistilSettings
from limbeck.errors import BadSetting
from limbeck.jobs.align import alignment, check_student
from limbeck.jobs.capture.captured import is_captured
from limbeck.jobs.convert import Planned, check_conversion
from limbeck.jobs.folder import packing_asked
from limbeck.jobs.known import knowledge, known, of_source
from limbeck.jobs.lone import lone_cost, rows_of_documents
from limbeck.jobs.packing import packed_documents
from limbeck.jobs.rates import rate_finding
from limbeck.jobs.sample import Sample, first_documents, of_text, unreadable
from limbeck.jobs.setup import Machine, batch_rows, machine, row_length
from limbeck.jobs.student import target_shape
from limbeck.jobs.teacher import RunTeacher, adopted
from limbeck.jobs.text import columns_of
from limbeck.jobs.uses import uses_before
from limbeck.models.load import LanguageModel, load
from limbeck.objectives import TAID, parse
from limbeck.plan.pair import Finding, as_json, examine
from limbeck.plan.size import Size
from limbeck.students.shape import config_of
from limbeck.teachers.http import is_served


def doctor(settings: DistilSettings) -> dict[str, Any]:
    """Looks at teacher, student and data; gives ``{"ok", "findings"}``, ok where none of them is an error.

    Without a student, the one that `distil` would cut is spoken of as far as its shape tells.
    """
    if is_served(settings.teacher):
        raise BadSetting(
            f"--teacher {settings.teacher}: the doctor looks at models that are here: give the folder or hub id of the served "
            "model's configuration with --teacher, or let limbeck distil ask the server, which looks at the pair before it trains"
        )
    check_student(settings)
    settings, _ = adopted(settings)
    sample = first_documents(settings)
    where = machine(settings)
    shape = target_shape(settings)
    teacher = RunTeacher.of(settings, where).about
    student = load(settings.student) if settings.student else None
    reads = student if student is not None and settings.tokenizer_align else teacher
    length = settings.length or row_length(settings, reads.context, where.world.device, name=reads.name)
    pair: dict[str, PreTrainedConfig | None] = {"planned": None if shape is None else config_of(shape, teacher.config)}
    if asked := check_conversion(settings, shape):
        found = Planned.of(settings, asked, shape)
        pair = {"planned": found.student, "reference": found.reference}
    uses = uses_before(settings, teacher, sample, length=length)
    findings = diagnose(settings, teacher, student, sample, length=length, machine=where, uses=uses, **pair)
    findings += unreadable(sample, teacher)
    findings += packed_documents(
        sample.documents, reads, packing=packing_asked(settings), length=length, context=reads.context
    )
    findings += what_is_known(settings, teacher, length=length, machine=where)
    return {"ok": all(f.level != "error" for f in findings), "findings": as_json(findings)}


def what_is_known(settings: DistilSettings, teacher: LanguageModel, *, length: int, machine: Machine) -> list[Finding]:
    """Whether a teacher in memory knows more of the text than a unigram model; nothing of captured answers.

    A student that does not listen to it may have any teacher, which is then no more than said.
    """
    if is_captured(settings.teacher) or is_served(settings.teacher):
        return []
    found = known(
        teacher,
        of_source(settings.data, teacher, columns_of(settings)),
        vocab=teacher.vocab,
        length=min(length, teacher.context),
        device=machine.world.device,
    )
    listens = any(parse(text).needs_teacher for text in settings.objectives)
    return list(knowledge(found, teacher.name, anyway=settings.any_teacher or not listens))


def _packing(model: LanguageModel, texts: Sequence[str], length: int) -> list[Finding]:
    """What it costs that a decoder must be given each document alone; nothing of one that takes packed rows."""
    if model.packs:
        return []
    tokens = [len(model.tokenizer(text, verbose=False)["input_ids"]) for text in texts]
    return [Finding("packing", "warning", lone_cost(model.name, rows_of_documents(tokens, length)))]


def diagnose(
    settings: DistilSettings,
    teacher: LanguageModel,
    student: LanguageModel | None,
    sample: Sample,
    *,
    length: int,
    machine: Machine,
    planned: PreTrainedConfig | None = None,
    reference: PreTrainedConfig | None = None,
    uses: float | None = None,
) -> list[Finding]:
    """The findings about a pair, the first documents of its data, and the run as it is set.

    ``planned``: the configuration of a student that is still to be cut or converted, ``reference`` of what it is matched to.
    ``uses``: how often a forward pass of the teacher is trained with, where that is known.
    """
    rows, steps = batch_rows(settings, length, machine.world.size)
    texts, chat = sample.texts, sample.chat
    aligned = settings.tokenizer_align is not None and student is not None
    lone = [finding for model in (teacher, student) if model is not None for finding in _packing(model, texts, length)]
    found = list(alignment(teacher, student, texts, chat=chat)) if aligned and student is not None else []
    made = student.config if student is not None else planned
    if made is not None:
        found.append(rate_finding(settings, Size.of(made).parameters))
    parts = (part for text in settings.objectives for part in parse(text).modules() if isinstance(part, TAID))
    found += [Finding("objective", "ok", remark) for part in parts if (remark := part.remark(steps))]
    if not aligned:
        found += of_text(sample, teacher)
    return (
        found
        + lone
        + examine(
            teacher,
            student,
            planned=planned,
            reference=reference,
            length=length,
            tokens=settings.tokens,
            batch_tokens=rows * length,
            dtype=machine.dtype,
            device=machine.world.device,
            out=settings.out,
            chat=chat and not aligned,
            texts=texts,
            aligned=aligned,
            uses=uses,
        )
    )
