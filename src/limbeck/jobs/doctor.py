"""`limbeck doctor`: the pair check alone, before anything is spent."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

from transformers.configuration_utils import PreTrainedConfig

from limbeck.config import DistilSettings
from limbeck.corpora import Document, read
from limbeck.corpora.source import resolve as resolve_source
from limbeck.errors import BadSetting
from limbeck.jobs.align import alignment, check_student
from limbeck.jobs.capture.captured import is_captured
from limbeck.jobs.convert import Planned, check_conversion
from limbeck.jobs.folder import packing_asked
from limbeck.jobs.packing import packed_documents
from limbeck.jobs.setup import Machine, batch_rows, machine, row_length
from limbeck.jobs.student import target_shape
from limbeck.jobs.teacher import RunTeacher, adopted
from limbeck.models.load import LanguageModel, load
from limbeck.plan.pair import Finding, as_json, examine, show
from limbeck.run.log import console
from limbeck.students.shape import config_of
from limbeck.teachers.http import is_served

_DOCUMENTS = 64


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
    documents = first_documents(settings)
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
    findings = diagnose(settings, teacher, student, documents, length=length, machine=where, **pair)
    findings += packed_documents(
        documents, reads, packing=packing_asked(settings), length=length, context=reads.context
    )
    show(findings, console)
    return {"ok": all(f.level != "error" for f in findings), "findings": as_json(findings)}


def first_documents(settings: DistilSettings) -> list[Document]:
    """Some of the text, to look at; none where a teacher's answers hold it in tokens."""
    if is_captured(settings.teacher):
        return []
    resolve_source(settings.data)
    return list(islice(read(settings.data), _DOCUMENTS))


def diagnose(
    settings: DistilSettings,
    teacher: LanguageModel,
    student: LanguageModel | None,
    documents: Sequence[Document],
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
    texts, chat = [d.text for d in documents if d.text is not None], any(d.messages is not None for d in documents)
    aligned = settings.tokenizer_align is not None and student is not None
    found = list(alignment(teacher, student, texts, chat=chat)) if aligned and student is not None else []
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
