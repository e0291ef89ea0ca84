"""Who is asked by a capture: a model in memory, one read from disk layer by layer, or one on a server.

Of the last only configuration and tokenizer are here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from limbeck.config import CaptureSettings, TeacherSettings
from limbeck.corpora.tokenizer import fingerprint
from limbeck.disk import writing
from limbeck.errors import BadSetting, Mismatch
from limbeck.jobs.capture.certificate import kept_bytes
from limbeck.jobs.common.environment import Environment
from limbeck.models.language_model import LanguageModel
from limbeck.models.load import load
from limbeck.models.source import resolve, resolve_description, weights_digest
from limbeck.models.streamed import StreamedModel, load_streamed
from limbeck.models.weightless import load_without_weights
from limbeck.run.log import console
from limbeck.teachers.cache import CELLS
from limbeck.teachers.codec import TopK
from limbeck.teachers.remote.http import Address, RetryPolicy, is_served
from limbeck.teachers.remote.served import ServedTeacher, connect
from limbeck.units import binary_size

_ROWS_EACH = (
    8  # rows that are asked about together, for each question in flight: the last of them wait for nothing else
)


Whole = LanguageModel | StreamedModel  # who gives whole distributions


@dataclass(frozen=True)
class LogitSource:
    """``about`` tells what the teacher is, ``told`` is asked; only of a model in memory they are the same.

    ``made_from`` is what tells it from another.
    """

    about: LanguageModel
    told: Whole | ServedTeacher
    made_from: dict[str, Any]

    @property
    def whole(self) -> Whole | None:
        """The model that gives whole distributions, None where it is on a server."""
        return None if isinstance(self.told, ServedTeacher) else self.told

    @property
    def cells(self) -> int:
        """Logits that may exist at a time."""
        return cells_of(self.told)

    @property
    def served(self) -> ServedTeacher | None:
        """The model on a server, None where it is in memory."""
        return self.told if isinstance(self.told, ServedTeacher) else None


def cells_of(teacher: Whole | ServedTeacher) -> int:
    """Logits of a teacher that may exist at a time."""
    return teacher.budget.chunk_logits if isinstance(teacher, StreamedModel) else CELLS


def check_asked(settings: CaptureSettings) -> None:
    """Raises BadSetting where a limit is given that nothing would keep, or what this teacher does not give."""
    if settings.params and (settings.stream or is_served(settings.teacher)):
        raise BadSetting(
            f"--params: a student is cut out of a teacher in memory, and {settings.teacher} is "
            + ("read layer by layer" if settings.stream else "on a server")
            + ": leave it out, and give distil a student that exists with --student"
        )
    if settings.kind == "drawn" and is_served(settings.teacher):
        raise BadSetting("--codec sampled: a server gives its likeliest tokens and no samples: use top-k or auto")
    if settings.stream and is_served(settings.teacher):
        raise BadSetting(
            f"--stream: {settings.teacher} is on a server, and nothing of it is read from disk here; leave it out"
        )
    if settings.device_memory is not None and not settings.stream:
        raise BadSetting(
            f"--device-memory {binary_size(settings.device_memory)}: it limits a teacher that is read layer by layer; add "
            "--stream, or leave it out"
        )


def description_of(settings: TeacherSettings) -> str:
    """Where the teacher's configuration is. Raises BadSetting where the flags do not say it, or do not belong together."""
    if not is_served(settings.teacher):
        if settings.tokenizer is not None:
            raise BadSetting(
                f"--tokenizer {settings.tokenizer}: only a teacher on a server needs it; {settings.teacher} has its own"
            )
        return settings.teacher
    Address.of(settings.teacher)
    if settings.tokenizer is None:
        raise BadSetting(
            f"--teacher {settings.teacher}: text is made into tokens here, and a server does not give its tokenizer: give the "
            "folder or hub id of the model's configuration and tokenizer (its weights are not needed) with --tokenizer"
        )
    return settings.tokenizer


@contextmanager
def asking(settings: CaptureSettings, where: Environment, *, length: int, k: int | None) -> Iterator[LogitSource]:
    """The teacher of a capture; of a served one so many outcomes as were begun with, else as many as fit and are told."""
    if not is_served(settings.teacher):
        told = _streamed(settings, where, length=length) if settings.stream else _resident(settings, where)
        about = told if isinstance(told, LanguageModel) else told.about
        dtype = str(where.dtype).removeprefix("torch.")
        made_from = {"teacher": weights_digest(resolve(settings.teacher)), "dtype": dtype}
        yield LogitSource(about, told, made_from | {"tokenizer": fingerprint(about.tokenizer)})
        return
    address = Address.of(settings.teacher)
    assert settings.tokenizer is not None, "description_of looked for it"
    about = load_without_weights(resolve_description(settings.tokenizer), name=address.model)
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
                f"{address}: this capture was begun with {k} outcomes a token, the server now gives {served.k}: let it give as "
                "many again, or capture anew into another --out"
            )
        server_info = json.dumps(served.server_info, sort_keys=True)
        console.print(
            f"{address} is asked as {served.kind.name}, for {served.k} outcomes a token; it reports {server_info}"
        )
        made_from = {"teacher": f"served {server_info}", "dtype": "the server's"}
        yield LogitSource(about, served, made_from | {"tokenizer": fingerprint(about.tokenizer)})


def _resident(settings: CaptureSettings, where: Environment) -> LanguageModel:
    return load(settings.teacher, device=where.world.device, dtype=where.dtype)


def _streamed(settings: CaptureSettings, where: Environment, *, length: int) -> StreamedModel:
    """The teacher read layer by layer. Raises BadSetting where it needs more memory than it may take."""
    with writing(settings.out):
        settings.out.mkdir(parents=True, exist_ok=True)
    teacher = load_streamed(
        settings.teacher,
        device=where.world.device,
        dtype=where.dtype,
        memory=settings.device_memory,
        length=length,
        spill=settings.out,
        caller_bytes=kept_bytes,
    )
    budget = teacher.budget
    console.print(
        f"the teacher is read from disk layer by layer, in {binary_size(budget.peak)}: {budget.block_tokens:,} tokens a pass "
        f"over its weights, {budget.micro_tokens:,} at a time; hidden states wait "
        + ("on disk" if budget.spill else "in memory")
        + (", the next layer is read meanwhile" if budget.prefetch else "")
    )
    return teacher


def rows_in_flight(served: ServedTeacher) -> int:
    """Rows that a server is asked about at once."""
    return _ROWS_EACH * served.in_flight
