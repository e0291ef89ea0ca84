"""`limbeck capture`: a teacher's logits of a text, computed once and kept; with --text a text that it generates, or pairs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from limbeck.config import CaptureSettings
from limbeck.corpora import Rows, require_rows
from limbeck.corpora.mixture import plain
from limbeck.corpora.source import resolve as resolve_source
from limbeck.disk import finite
from limbeck.errors import BadSetting
from limbeck.jobs.capture.certificate import certify
from limbeck.jobs.capture.codecs import DECIDES, codecs_within, sample_of, show_kinds
from limbeck.jobs.capture.completions import check_alone
from limbeck.jobs.capture.generated import capture_text
from limbeck.jobs.capture.here import capture_here
from limbeck.jobs.capture.pairs import capture_pairs
from limbeck.jobs.capture.spread import capture_on_ray, check_spread
from limbeck.jobs.common.environment import Environment, environment_of, row_length
from limbeck.jobs.common.opening import open_once
from limbeck.jobs.common.sample import first_documents
from limbeck.jobs.common.text import columns_of, passing_store
from limbeck.models.load import load
from limbeck.planning.checks.finding import show as show_findings
from limbeck.run.log import console
from limbeck.teachers.ref import ServedRef, computed_here, teacher_ref

SIZES = (24, 48, 96, 160)  # bytes a token that `choose` looks at


def capture(
    settings: CaptureSettings,
    *,
    tokenised: Path | None = None,
    vocabulary: Path | None = None,
    environment: Environment | None = None,
    most: Sequence[int] | None = None,
) -> dict[str, Any]:
    """Computes a teacher's logits of a text, once; gives ``{"out", "rows", "tokens", "bytes", "certificate"}``.

    With ``text`` it generates one: see `capture_text`; with ``pairs`` the student's texts are judged: see `capture_pairs`; with
    ``ray`` the machines of a cluster compute: see `capture_on_ray`.
    ``tokenised`` is a folder that may contain the text as tokens already, ``vocabulary`` that of the trimmed vocabulary that the
    teacher is to have, whatever the settings ask for. ``environment`` is that of the run which this is part of, ``most`` the
    tokens of each source that it reads of one that is streamed.

    Raises BadSetting for several processes or flags that do not apply, and the errors of a faulty text, teacher or server.
    """
    if settings.pairs is not None:
        return capture_pairs(settings)
    if settings.text:
        return capture_text(settings)
    check_alone(settings)
    check_spread(settings)
    if settings.ray:
        return capture_on_ray(settings)
    return capture_here(settings, tokenised=tokenised, vocabulary=vocabulary, environment=environment, most=most)


def choose(settings: CaptureSettings) -> dict[str, Any]:
    """Measures several codecs and sizes on a sample of the text, and prints bytes against bias and noise. Nothing is written.

    Raises BadSetting for a teacher on a server, which does not give the whole distributions that this needs.
    """
    source = teacher_ref(settings.teacher)
    if isinstance(source, ServedRef):
        raise BadSetting(
            f"--teacher {settings.teacher}: bias and noise are measured on whole distributions, which a server does not give: "
            "choose with the model in memory"
        )
    environment = environment_of(settings, computed_here(source))
    resolve_source(plain(settings.data), columns_of(settings))
    teacher = load(settings.teacher, device=environment.world.device, dtype=environment.dtype)
    texts = first_documents(settings, source).texts
    show_findings(open_once(settings, teacher, teacher, texts, device=environment.world.device), console)
    length = row_length(settings, teacher.context, environment.world.device, name=teacher.name)
    with passing_store(settings, teacher) as store:
        require_rows(store, length=length)
        sizes = sorted({*SIZES, settings.bytes_per_token})
        codecs = [codec for size in sizes for codec in codecs_within(teacher.vocab, size, settings.kind)]
        sample = sample_of(teacher, Rows(store, length=length), seed=settings.seed)
        found = certify(sample, codecs, objectives=[DECIDES], seed=settings.seed)
    show_kinds(found, console)
    return {"teacher": settings.teacher, "kinds": finite([certificate.row() for certificate in found])}
