"""Who teaches a run: a model in memory, or the answers it gave before.

A model on a server is asked about the run's text first of all, once, into the run's folder: its answers are then read like any
others, so a run that was stopped, another epoch, seed or arm asks nothing again. So is a model in memory where that saves passes
(`jobs.keep`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limbeck.config import CaptureSettings, DistilSettings, TeacherSettings, flag_of
from limbeck.corpora import TokenStore
from limbeck.corpora.layout import PACKINGS
from limbeck.errors import BadSetting
from limbeck.jobs.capture.certificate import why_not
from limbeck.jobs.capture.job import capture
from limbeck.jobs.capture.logits import description_of
from limbeck.jobs.common.captured import CERTIFICATE, DATA, Captured, is_captured
from limbeck.jobs.common.environment import Environment
from limbeck.jobs.common.text import stores_of
from limbeck.jobs.distil.keep_logits import CAPTURED, check_keeps, keeps
from limbeck.models.language_model import LanguageModel
from limbeck.models.load import load
from limbeck.objectives import parse
from limbeck.objectives.base import terms_of
from limbeck.planning.cost.size import Size
from limbeck.teachers.codec import Codec, Sampled, TopK
from limbeck.teachers.remote.http import is_served
from limbeck.types import Batch, Teacher

_PASSED_ON = TeacherSettings.model_fields.keys() - {"length", "out", "json_", "lr", "schedule", "batch_tokens"}
_LITTLE = 8  # tokens of a vocabulary on which it is tried whether an objective can be computed


@dataclass(frozen=True)
class RunTeacher:
    """``about`` tells what it is (of captured answers without its weights), ``told`` what it says of training rows."""

    about: LanguageModel
    told: Teacher
    captured: Captured | None = None

    @classmethod
    def of(
        cls, settings: DistilSettings, where: Environment, *, length: int | None = None, objectives: Sequence[str] = ()
    ) -> RunTeacher:
        """The teacher of a run in rows of ``length``, which one on a server is asked about.

        ``objectives`` are those of all students that learn from it; without them nothing of a model in memory is kept.
        """
        if is_served(settings.teacher):
            captured = _asked(settings, where, length=length)
        elif is_captured(settings.teacher):
            captured = Captured(Path(settings.teacher).expanduser())
        elif objectives and length and keeps(settings, where, length=length, objectives=objectives):
            captured = _asked(settings, where, length=length)
        else:
            model = load(settings.teacher, device=where.world.device, dtype=where.dtype)
            return cls(model, model)
        return cls(captured.about, captured.answers, captured)

    def weights(self, where: Environment) -> LanguageModel:
        """The model itself, to cut a student out of."""
        if self.captured is None:
            return self.about
        return self.captured.weights(device=where.world.device, dtype=where.dtype)

    def stores(self, settings: DistilSettings, where: Environment) -> tuple[TokenStore, TokenStore]:
        """(training, held-out) text of the run."""
        return stores_of(settings, self.about, where) if self.captured is None else self.captured.stores()

    @property
    def rows(self) -> int | None:
        """Rows of the text that it can be asked about, None for all."""
        return None if self.captured is None else self.captured.answers.rows

    def counted(self, batch: Batch) -> Batch:
        """A batch of training rows, with weight 0 where the teacher has no answer."""
        return batch if self.captured is None else self.captured.answers.masked(batch)

    @property
    def size(self) -> Size | None:
        """What computes beside the student: None where the answers are there."""
        return Size.of(self.about.config) if self.captured is None else None

    @property
    def facts(self) -> dict[str, Any]:
        """What a report says of answers that were captured."""
        if self.captured is None:
            return {}
        codec, missing = self.captured.answers.codec, self.captured.answers.missing
        without = f"; {missing:,} positions without an answer count nothing" if missing else ""
        return {"answers": f"{codec} outcomes in {codec.bytes} bytes a token{without}"}

    def passes(self, tokens: int, length: int) -> float:
        """Forward passes of the teacher for each of the ``tokens`` that one student trains on.

        Captured logits took one pass over their text, all of which is charged to this run, so far as it reads them. Several seeds
        are repetitions of one measurement, each charged as if it were alone.
        """
        return 1.0 if self.rows is None else min(1.0, self.rows * length / tokens)


def _asked(settings: DistilSettings, where: Environment, *, length: int | None) -> Captured:
    """What a teacher says of this run's text: asked now, as far as it was not before, into the run's folder."""
    folder = settings.out / CAPTURED
    if not (folder / CERTIFICATE).exists():  # which is written last
        if where.world.size > 1:
            raise BadSetting(
                f"--teacher {settings.teacher}: one process captures: let this command begin without torchrun, or begin with "
                "limbeck capture, and give --teacher ANSWERS"
            )
        keys = settings.model_dump(include=_PASSED_ON) | {"text_tokens": settings.text_tokens, "length": length}
        capture(CaptureSettings(**keys, out=folder), tokenised=settings.out / DATA)
    return Captured(folder)


def _check(settings: DistilSettings, codec: Codec, *, said: str) -> None:
    for objective in map(parse, settings.objectives):
        if objective.needs_teacher and (reason := why_not(codec, objective)):
            raise BadSetting(f"--teacher {settings.teacher}: {said}. {reason}")


def adopted(settings: DistilSettings) -> tuple[DistilSettings, dict[str, Any]]:
    """The settings with the text and the rows of captured answers, and what a run's signature says of those.

    Raises BadSetting where others were asked for. Settings with a model for a teacher, here or on a server, stay as they are.
    """
    description_of(settings)  # whether what is said of a server is said of one
    check_keeps(settings, live=not (is_served(settings.teacher) or is_captured(settings.teacher)))
    if is_served(settings.teacher):
        if settings.student is None:
            raise BadSetting(
                f"--teacher {settings.teacher}: a server does not give its weights, and nothing can be cut out of a model "
                "without them: give a student that exists with --student"
            )
        if settings.tokenizer_align is None:
            _check(settings, TopK(vocab=_LITTLE, k=1), said="it tells its likeliest outcomes")
        return settings, {}
    if not is_captured(settings.teacher):
        return settings, {}
    captured = Captured(Path(settings.teacher).expanduser())
    codec = captured.answers.codec
    if settings.tokenizer_align is None:
        _check(settings, codec, said=f"it holds {codec} outcomes a token")
    elif isinstance(codec, Sampled) and any(
        t.largest for text in settings.objectives for _, t in terms_of(parse(text))
    ):
        raise BadSetting(
            f"--teacher {settings.teacher}: it holds {codec} outcomes a token, of which it cannot be told how large the "
            "teacher's largest probabilities are, in order, and --objective compares those: capture with --codec top-k, take the "
            "live teacher, or ALM"
        )
    if captured.served and settings.student is None:
        raise BadSetting(
            f"--teacher {settings.teacher}: its answers are from a server, which does not give its weights, and nothing can be "
            "cut out of a model without them: give a student that exists with --student"
        )
    identity = {"answers": captured.identity}
    there = {"data": captured.facts["signature"]["data"], "eval_data": captured.facts["signature"]["eval_data"]}
    columns = captured.facts["signature"].get("columns")
    there["columns"] = tuple((ours, theirs) for ours, theirs in columns) if columns else None
    there["skip_bad"] = captured.facts["signature"].get("skip_bad")
    if settings.tokenizer_align is None:  # a student of other tokens has rows and counts of its own
        there |= {"text_tokens": captured.text_tokens}
        long = next((name for name, packing in PACKINGS.items() if packing == captured.packing), None)
        there |= {"length": captured.answers.length, "long_conversations": long}
        identity["packing"] = captured.packing
    for key in settings.model_fields_set & there.keys():
        if getattr(settings, key) != there[key]:
            raise BadSetting(
                f"{flag_of(type(settings), key)} {getattr(settings, key)}: the answers in {settings.teacher} were made with "
                f"{there[key]}; leave it out, or capture anew"
            )
    return settings.model_copy(update=there), identity
