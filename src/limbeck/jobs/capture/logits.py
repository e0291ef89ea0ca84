"""The source of the logits of a capture: a model in memory, one read from disk layer by layer, or one on a server.

Of a model on a server, only configuration and tokenizer are local.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from limbeck.config import CaptureSettings
from limbeck.corpora.mixture import Mixture
from limbeck.corpora.tokenizer import fingerprint
from limbeck.disk import writing
from limbeck.errors import BadSetting, Mismatch
from limbeck.jobs.capture.certificate import kept_bytes
from limbeck.jobs.common.environment import Environment
from limbeck.jobs.common.mixture import check_frequent
from limbeck.jobs.pair.trimmed import load_teacher, with_kept_streamed
from limbeck.models.language_model import LanguageModel
from limbeck.models.source import resolve, resolve_description, weights_digest
from limbeck.models.streamed import StreamedModel, load_streamed
from limbeck.models.trim.folder import open_vocabulary
from limbeck.models.weightless import load_without_weights
from limbeck.run.log import console
from limbeck.teachers.cache import CELLS
from limbeck.teachers.codec import TopK
from limbeck.teachers.ref import CapturedRef, LocalRef, ServedRef, TeacherRef
from limbeck.teachers.remote.http import RetryPolicy
from limbeck.teachers.remote.served import ServedTeacher, connect
from limbeck.units import binary_size

_ROWS_EACH = 8  # rows that are queried together, for each request in flight: the last of them wait for nothing else


Whole = LanguageModel | StreamedModel  # models with whole distributions


@dataclass(frozen=True)
class LogitSource:
    """``about`` describes the teacher, and ``logits`` computes them. Only for a model in memory they are the same object.

    ``made_from`` identifies the teacher.
    """

    about: LanguageModel
    logits: Whole | ServedTeacher
    made_from: dict[str, Any]

    @property
    def whole(self) -> Whole | None:
        """The model that gives whole distributions; None if it is on a server."""
        return None if isinstance(self.logits, ServedTeacher) else self.logits

    @property
    def cells(self) -> int:
        """The number of logits in memory at a time."""
        return cells_of(self.logits)

    @property
    def served(self) -> ServedTeacher | None:
        """The model on a server; None if it is in memory."""
        return self.logits if isinstance(self.logits, ServedTeacher) else None


def cells_of(teacher: Whole | ServedTeacher) -> int:
    """The number of logits of a teacher in memory at a time."""
    return teacher.budget.chunk_logits if isinstance(teacher, StreamedModel) else CELLS


def check_capture(settings: CaptureSettings, teacher: TeacherRef) -> None:
    """Raises BadSetting if a flag has no effect with this teacher, or needs what the teacher does not give."""
    served = isinstance(teacher, ServedRef)
    if isinstance(teacher, CapturedRef):
        raise BadSetting(
            f"--teacher {teacher.name}: it holds captured logits, and a capture computes them with a model: give that model, or "
            "give these to limbeck distil as its --teacher"
        )
    if settings.qat is not None and not settings.params:
        raise BadSetting(
            f"--qat {settings.qat}: it is for the shapes of the students of --params: give these, or leave it out here and "
            "give it to limbeck distil"
        )
    if settings.params and served:
        raise BadSetting(
            f"--params: a student is pruned from its teacher's weights, and {settings.teacher} is on a server: leave it out, and "
            "give distil a model with --student"
        )
    if settings.vocab is not None and served:
        raise BadSetting(
            f"--vocab {settings.vocab}: {settings.teacher} is on a server, which gives log-probabilities of all its tokens: "
            f"leave it out here, and give limbeck distil --vocab {settings.vocab} with these logits, which are restricted then"
        )
    if settings.kind == "drawn" and served:
        raise BadSetting("--codec sampled: a server gives its top tokens and no samples: use top-k or auto")
    if settings.stream and served:
        raise BadSetting(
            f"--stream: {settings.teacher} is on a server, and nothing of it is read from disk here; leave it out"
        )
    if settings.tokens is not None and Mixture.of(settings.data) is not None:
        raise BadSetting(
            f"--tokens {settings.tokens} does not go with weights of sources in --data: rows of all sources may be read, so all "
            "of them get logits; leave it out"
        )
    check_frequent(settings)
    if settings.device_memory is not None and not settings.stream:
        raise BadSetting(
            f"--device-memory {binary_size(settings.device_memory)}: it limits a teacher that is read layer by layer; add "
            "--stream, or leave it out"
        )


def check_together(settings: CaptureSettings, teacher: TeacherRef) -> None:
    """Raises BadSetting for what needs all weights of the teacher in one process, or none."""
    if isinstance(teacher, ServedRef):
        raise BadSetting(
            f"--mesh {settings.mesh}: {settings.teacher} is on a server, and nothing of it is here: leave it out"
        )
    for flag, given, instead in (
        ("--stream", settings.stream, ""),
        ("--params", settings.params, ", and prune with limbeck shrink"),
    ):
        if given:
            raise BadSetting(
                f"{flag} needs the whole teacher in one process, and --mesh {settings.mesh} spreads it: leave {flag} out{instead}"
            )


@contextmanager
def open_source(
    settings: CaptureSettings,
    teacher: TeacherRef,
    environment: Environment,
    *,
    length: int,
    k: int | None,
    led: LanguageModel | None = None,
) -> Iterator[LogitSource]:
    """The source of a capture's logits. A server gives ``k`` outcomes per token; with None, as many as fit and it returns.

    ``led`` is the teacher where it is loaded already.

    Raises Mismatch if a server now gives fewer than the ``k`` of a capture in progress.
    """
    if not isinstance(teacher, ServedRef):
        assert isinstance(teacher, LocalRef), "check_capture refuses others"
        if settings.stream:
            model: Whole = _streamed(settings, teacher, environment, length=length)
        else:
            model = led or load_teacher(teacher, environment)
        about = model if isinstance(model, LanguageModel) else model.about
        dtype = str(environment.dtype).removeprefix("torch.")
        made_from = {"teacher": weights_digest(resolve(settings.teacher)), "dtype": dtype}
        if teacher.vocabulary is not None:
            made_from["vocabulary"] = open_vocabulary(teacher.vocabulary).digest
        yield LogitSource(about, model, made_from | {"tokenizer": fingerprint(about.tokenizer)})
        return
    address = teacher.address
    about = load_without_weights(resolve_description(teacher.config_source), name=address.model)
    served = connect(
        address,
        about.tokenizer,
        k=k or TopK.most(about.vocab, settings.bytes_per_token).k,
        length=length,
        retry=RetryPolicy(limit=settings.time_limit),
        in_flight=settings.in_flight,
    )
    with served:
        if k is not None and served.k < k:
            raise Mismatch(
                f"{address}: this capture was begun with {k} outcomes a token, the server now gives {served.k}: set it to return "
                "as many again, or capture again into another --out"
            )
        server_info = json.dumps(served.server_info, sort_keys=True)
        console.print(
            f"{address} is queried as {served.kind.name}, for {served.k} outcomes a token; it reports {server_info}"
        )
        made_from = {"teacher": f"served {server_info}", "dtype": "the server's"}
        yield LogitSource(about, served, made_from | {"tokenizer": fingerprint(about.tokenizer)})


def _streamed(settings: CaptureSettings, ref: LocalRef, environment: Environment, *, length: int) -> StreamedModel:
    """The teacher, read layer by layer. Raises BadSetting if it needs more memory than the limit."""
    with writing(settings.out):
        settings.out.mkdir(parents=True, exist_ok=True)
    folder = ref.vocabulary
    teacher = load_streamed(
        settings.teacher,
        device=environment.world.device,
        dtype=environment.dtype,
        memory=settings.device_memory,
        length=length,
        spill=settings.out,
        caller_bytes=kept_bytes,
        kept=0 if folder is None else len(open_vocabulary(folder).kept),
    )
    budget = teacher.budget
    console.print(
        f"the teacher is read from disk layer by layer, in {binary_size(budget.peak)}: {budget.block_tokens:,} tokens a pass "
        f"over its weights, {budget.micro_tokens:,} at a time; hidden states wait "
        + ("on disk" if budget.spill else "in memory")
        + (", the next layer is read meanwhile" if budget.prefetch else "")
    )
    return with_kept_streamed(teacher, ref, environment)


def rows_in_flight(served: ServedTeacher) -> int:
    """The number of rows in a server's queries at a time."""
    return _ROWS_EACH * served.in_flight
