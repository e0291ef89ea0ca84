"""`limbeck doctor`: the pair check alone, before anything is spent."""

from __future__ import annotations

from typing import Any

from transformers.configuration_utils import PreTrainedConfig

from limbeck.config import DistilSettings
from limbeck.errors import BadSetting
from limbeck.jobs.align import alignment, check_student
from limbeck.jobs.convert import Planned, check_conversion
from limbeck.jobs.folder import packing_asked
from limbeck.jobs.packing import packed_documents
from limbeck.jobs.sample import Sample, first_documents, of_text, unreadable
from limbeck.jobs.setup import Machine, batch_rows, machine, row_length
from limbeck.jobs.student import target_shape
from limbeck.jobs.teacher import RunTeacher, adopted
from limbeck.models.load import LanguageModel, load
from limbeck.plan.pair import Finding, as_json, examine, show
from limbeck.run.log import console
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
    findings = diagnose(settings, teacher, student, sample, length=length, machine=where, **pair)
    findings += unreadable(sample, teacher)
    findings += packed_documents(
        sample.documents, reads, packing=packing_asked(settings), length=length, context=reads.context
    )
    show(findings, console)
    return {"ok": all(f.level != "error" for f in findings), "findings": as_json(findings)}


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
) -> list[Finding]:
    """The findings about a pair, the first documents of its data, and the run as it is set.

    ``planned``: the configuration of a student that is still to be cut or converted, ``reference`` of what it is matched to.
    """
    rows, _ = batch_rows(settings, length, machine.world.size)
    texts, chat = sample.texts, sample.chat
    aligned = settings.tokenizer_align is not None and student is not None
    found = list(alignment(teacher, student, texts, chat=chat)) if aligned and student is not None else []
    if not aligned:
        found += of_text(sample, teacher)
    return found + examine(
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
    )
