"""`limbeck doctor`: the pair check alone, before anything is spent."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from limbeck.config import DistilSettings
from limbeck.ending import Ending
from limbeck.errors import BadSetting, LimbeckError
from limbeck.jobs.common.environment import Environment, batch_rows, environment_of, row_length
from limbeck.jobs.common.folder import command, continues, kept_rate, packing_in_settings
from limbeck.jobs.common.opening import open_once
from limbeck.jobs.common.packing import packed_documents
from limbeck.jobs.common.sample import Sample, first_documents, unreadable
from limbeck.jobs.distil.adapters import check_adapters
from limbeck.jobs.distil.align import check_student
from limbeck.jobs.distil.conversion import Planned, check_conversion
from limbeck.jobs.distil.correction import check_correction
from limbeck.jobs.distil.diagnose import diagnose, masked, what_is_known
from limbeck.jobs.distil.plan import DistilPlan, planned_config
from limbeck.jobs.distil.request import DistilRequest
from limbeck.jobs.distil.rollouts import check_rollouts, on_own_texts
from limbeck.jobs.distil.several import SeveralTeachers, check_domains
from limbeck.jobs.distil.teacher import RunTeacher, adopted
from limbeck.jobs.distil.uses import uses_before
from limbeck.jobs.distil.vocabulary import beside_vocabulary, vocabulary_of
from limbeck.jobs.pair.rounds import check_rounds
from limbeck.jobs.pair.student import target_shape
from limbeck.jobs.pair.vocabulary import given_student
from limbeck.models.language_model import LanguageModel
from limbeck.planning.checks.pair import Finding, Pair, as_json
from limbeck.report.words import counted
from limbeck.teachers.ref import ServedRef


def doctor(settings: DistilSettings) -> dict[str, Any]:
    """Checks teacher, student and data; gives ``{"ok", "findings"}``. ``ok`` is true if no finding is an error.

    Without a student, the checks use the shape of the student that `distil` would make. Raises BadSetting for a teacher on a
    server, and the errors of settings, models and data that cannot be read.
    """
    request = DistilRequest.of(settings)
    if isinstance(request.teacher, ServedRef):
        raise BadSetting(
            f"--teacher {settings.teacher}: the doctor looks at models that are here: give the folder or hub id of the served "
            "model's configuration with --teacher, or run limbeck distil, which checks the pair before it trains"
        )
    check_student(settings)
    request, logits = adopted(request)
    with tempfile.TemporaryDirectory() as folder:
        return _examined(beside_vocabulary(request, Path(folder)), logits)


def _examined(request: DistilRequest, logits: dict[str, Any]) -> dict[str, Any]:
    """The findings; ``logits``: what the run's signature holds of captured logits."""
    settings = request.settings
    sample = first_documents(settings, request.teacher)
    environment = environment_of(settings, *request.computing)
    check_adapters(settings, environment)
    check_correction(request, environment)
    check_domains(request, environment)
    shape = target_shape(settings, request.teacher)
    source = SeveralTeachers.load(request, environment) if request.domains else RunTeacher.of(request, environment)
    teacher, several = source.about, source.models if isinstance(source, SeveralTeachers) else ()
    check_rollouts(request, environment)
    opening = (
        [] if source.captured else open_once(settings, teacher, teacher, sample.texts, device=environment.world.device)
    )
    student = given_student(settings.student, request.teacher) if settings.student else None
    reads = student if student is not None and settings.tokenizer_align else teacher
    length = settings.length or row_length(settings, reads.context, environment.world.device, name=reads.name)
    if isinstance(source, SeveralTeachers):
        source.within(length)
    planned = None if settings.student else planned_config(request, shape, None, teacher.config)
    pair = Pair(teacher, student, planned)
    if settings.rounds > 1:
        _, steps = batch_rows(settings, length, environment.world.size)
        check_rounds(settings, request.teacher, shape, steps=steps)
    if conversion := check_conversion(request, shape):
        found = Planned.of(request, conversion, shape)
        pair = replace(pair, planned=found.student, reference=found.reference)
    uses = uses_before(request, teacher, sample, length=length)
    kept = _kept_rate(request, logits, environment)
    findings = diagnose(request, pair, sample, length=length, environment=environment, uses=uses, kept=kept)
    findings += unreadable(sample, teacher)
    findings += masked(settings, sample)
    findings += packed_documents(
        sample.documents, reads, packing=packing_in_settings(settings), length=length, context=reads.context
    )
    if settings.rollouts is not None and student is not None and all(f.level != "error" for f in findings):
        findings += _on_own_texts(request, student, several or (teacher,), sample, length=length)
    if isinstance(source, SeveralTeachers):
        findings += source.beside_first(chat=sample.chat)
    findings += opening
    findings += what_is_known(request, teacher, length=length, environment=environment, several=several)
    return {"ok": all(f.level != "error" for f in findings), "findings": as_json(findings)}


def _on_own_texts(
    request: DistilRequest, student: LanguageModel, teachers: Sequence[LanguageModel], sample: Sample, *, length: int
) -> list[Finding]:
    """What `on_own_texts` finds; of several teachers on the text of each one's domain."""
    settings, domains, findings = request.settings, request.domains, list[Finding]()
    packing = packing_in_settings(settings)
    for number, model in enumerate(teachers):
        own = first_documents(domains.alone(settings, number)) if domains else sample
        found = on_own_texts(student, model, own.documents, length=length, packing=packing)
        of = f"{domains.names[number]}: " if domains else ""
        findings += [replace(one, message=f"{of}{one.message}") for one in found]
    return findings


def _kept_rate(request: DistilRequest, logits: dict[str, Any], environment: Environment) -> float | None:
    """The learning rate of the run in --out, if `distil` with these settings would continue it."""
    rate = kept_rate(request.settings.out)
    if rate is None:
        return None
    try:
        signature = DistilPlan.of(request, environment).signature(logits | vocabulary_of(request.teacher), environment)
    except LimbeckError:  # settings that do not fit begin no run, and continue none
        return None
    return rate if continues(request.settings.out, signature) else None


def ending(findings: Sequence[Finding]) -> Ending:
    """The last screen: how many checks passed, and the command that distils this pair, or looks at it once it is mended."""
    by_level = {level: [one.check for one in findings if one.level == level] for level in ("error", "warning", "ok")}
    errors, warnings = (counted(len(by_level[level]), level) for level in ("error", "warning"))
    if by_level["error"]:
        headline = f"{errors}: limbeck distil would stop before it begins; what to do is beside each"
    else:
        headline = f"no error, {warnings}: limbeck distil can begin"
    rows = [[level, str(len(checks)), ", ".join(dict.fromkeys(checks))] for level, checks in by_level.items() if checks]
    return Ending(headline, [["level", "checks", "of"], *rows], then=_next(command(), failed=bool(by_level["error"])))


def _next(words: Sequence[str], *, failed: bool) -> str:
    """The command of a doctor once more where a check failed, else that of the run with the same flags."""
    if failed or list(words[:2]) != ["limbeck", "doctor"]:
        return shlex.join(words) if failed else ""
    given = [word for word in words[2:] if word != "--json"]
    out = any(word == "--out" or word.startswith("--out=") or word.endswith(".toml") for word in given)
    return shlex.join(["limbeck", "distil", *given, *([] if out else ["--out", "runs/first"])])
