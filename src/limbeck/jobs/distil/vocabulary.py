"""Which vocabulary the students of a run have: all tokens of the teacher, or those that --vocab or a given student has."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from limbeck.errors import BadSetting
from limbeck.jobs.common.captured import Captured
from limbeck.jobs.common.environment import Environment
from limbeck.jobs.common.mixture import check_frequent
from limbeck.jobs.distil.request import DistilRequest
from limbeck.jobs.pair.restricted import restricted_beside, restricted_in_run
from limbeck.jobs.pair.vocabulary import trimmed_beside, trimmed_in_run
from limbeck.models.trim.folder import open_vocabulary
from limbeck.teachers.ref import CapturedRef, LocalRef, ServedRef, TeacherRef


def check_vocabulary(request: DistilRequest) -> None:
    """Raises BadSetting where --vocab is asked for and cannot be, from the settings alone."""
    settings, teacher = request.settings, request.teacher
    if settings.vocab is None:
        return
    check_frequent(settings)
    if settings.tokenizer_align is not None:
        raise BadSetting(
            "--vocab: with --tokenizer-align the student has a tokenizer of its own, which is not trimmed: leave one of them out"
        )
    if isinstance(teacher, ServedRef):
        raise BadSetting(
            f"--vocab {settings.vocab}: {teacher.name} is on a server, which gives log-probabilities of all its tokens: keep "
            f"them first, with limbeck capture --teacher {teacher.name} ... --out LOGITS, and give --teacher LOGITS --vocab "
            f"{settings.vocab}: captured outcomes are restricted to the kept tokens"
        )
    if isinstance(teacher, CapturedRef) and teacher.vocabulary is not None:
        theirs = Captured(teacher.folder).facts["signature"].get("vocab")
        if theirs != settings.vocab:
            how = f"with --vocab {theirs}" if theirs else "with another"
            raise BadSetting(
                f"--vocab {settings.vocab}: the logits in {teacher.name} were captured {how}: capture them anew with limbeck "
                "capture --vocab, or leave it out"
            )


def with_vocabulary(
    request: DistilRequest, answers: dict[str, Any], environment: Environment
) -> tuple[DistilRequest, dict[str, Any]]:
    """The request with the vocabulary of its run, and what the run's signature holds of it beside that of captured logits.

    Raises a LimbeckError where there can be no such, or the run's folder holds another.
    """
    settings, teacher = request.settings, request.teacher
    if settings.tokenizer_align is not None:
        return request, answers
    if isinstance(teacher, CapturedRef) and teacher.vocabulary is None:
        restricted = restricted_in_run(settings, teacher, environment, student=_student(request))
        if restricted.vocabulary is None:
            return request, answers
        _check_largest(request)
        return replace(request, teacher=restricted), answers | vocabulary_of(restricted)
    if not isinstance(teacher, LocalRef):
        return request, answers
    trimmed = trimmed_in_run(settings, teacher, environment, student=_student(request))
    if trimmed.vocabulary is None:
        return request, answers
    if request.domains is not None:
        raise BadSetting(
            f"--student {settings.student}: its vocabulary was trimmed, and several teachers have all their tokens: give a "
            "student with these, or one teacher"
        )
    return replace(request, teacher=trimmed), answers | vocabulary_of(trimmed)


def vocabulary_of(teacher: TeacherRef) -> dict[str, Any]:
    """What a run's signature holds of the vocabulary that was trimmed for it; nothing where none was."""
    trimmed = teacher.trimmed if isinstance(teacher, CapturedRef) else teacher.vocabulary
    return {} if trimmed is None else {"vocabulary": open_vocabulary(trimmed).digest}


def beside_vocabulary(request: DistilRequest, folder: Path) -> DistilRequest:
    """The request with the vocabulary that its run would have, made in a folder that may go afterwards."""
    settings, teacher, student = request.settings, request.teacher, _student(request)
    if settings.tokenizer_align is not None:
        return request
    if isinstance(teacher, CapturedRef) and teacher.vocabulary is None:
        return replace(request, teacher=restricted_beside(settings, teacher, folder, student=student))
    if not isinstance(teacher, LocalRef):
        return request
    return replace(request, teacher=trimmed_beside(settings, teacher, folder, student=student))


def _check_largest(request: DistilRequest) -> None:
    """Raises BadSetting where an objective compares sorted probabilities: of dropped outcomes the next ones are not captured."""
    if any(term.largest for spec in request.objectives for term in spec.terms):
        raise BadSetting(
            f"--objective {request.settings.objective}: it compares the largest probabilities in order, and where "
            f"{request.teacher.name} has outcomes of tokens that are left out, those that follow them were not captured: capture "
            "with --vocab, or take another objective"
        )


def _student(request: DistilRequest) -> str | None:
    """The student that exists, whose vocabulary the teacher would have; with --mixers there is none, which others check."""
    return request.settings.student if request.settings.mixers is None else None
