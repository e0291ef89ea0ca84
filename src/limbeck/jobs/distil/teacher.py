"""The teacher of a run: a model in memory, or captured logits.

The logits of a model on a server are captured into the run's folder before the training, once. A continued run and further
epochs, seeds and arms read them from there and send no query. Logits of a local model are stored as well if that saves forward
passes (`jobs.distil.keep_logits`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from limbeck.config import CaptureSettings, TeacherSettings, flag_of
from limbeck.corpora import TokenStore
from limbeck.corpora.layout import PACKINGS
from limbeck.corpora.mixture import Mixture
from limbeck.corpora.opening import begin_with
from limbeck.errors import BadSetting
from limbeck.jobs.capture.certificate import why_not
from limbeck.jobs.capture.job import capture
from limbeck.jobs.common.captured import CERTIFICATE, DATA, Captured
from limbeck.jobs.common.environment import Environment
from limbeck.jobs.common.mixture import wanted_tokens
from limbeck.jobs.common.text import stores_of
from limbeck.jobs.distil.align import LITTLE, AlignedTexts
from limbeck.jobs.distil.keep_logits import CAPTURED, check_keeps, keeps
from limbeck.jobs.distil.request import DistilRequest
from limbeck.jobs.distil.vocabulary import check_vocabulary
from limbeck.jobs.pair.student import OnDisk
from limbeck.jobs.pair.trimmed import facts_in, load_teacher, load_whole_within, stored_teacher
from limbeck.models.experts import is_mixture
from limbeck.models.language_model import LanguageModel
from limbeck.objectives.spec import ObjectiveSpec
from limbeck.planning.cost.size import Size
from limbeck.run.log import console
from limbeck.teachers.codec import Codec, Sampled, TopK
from limbeck.teachers.ref import CapturedRef, LocalRef, ServedRef
from limbeck.types import Batch, Teacher

_PASSED_ON = TeacherSettings.model_fields.keys() - {"length", "out", "json_", "lr", "schedule", "batch_tokens"}


@dataclass(frozen=True)
class RunTeacher:
    """``about``: the model, without weights if its logits are captured; ``logits``: its distributions for training rows.

    ``vocabulary`` is the folder of its trimmed vocabulary, None where it has all its tokens. ``local`` names a model in memory.
    """

    about: LanguageModel
    logits: Teacher
    captured: Captured | None = None
    vocabulary: Path | None = None
    local: LocalRef | None = None

    @classmethod
    def of(
        cls,
        request: DistilRequest,
        environment: Environment,
        *,
        length: int | None = None,
        objectives: Sequence[ObjectiveSpec] = (),
    ) -> RunTeacher:
        """The teacher of a run; a server is queried with rows of ``length`` tokens.

        ``objectives`` are those of all students; without them, no logits of a local model are stored. Raises a LimbeckError for
        a teacher that cannot be loaded or captured.
        """
        match request.teacher:
            case ServedRef():
                captured = _captured(request, environment, length=length)
            case CapturedRef(folder=folder, trimmed=trimmed):
                captured = Captured(folder, trimmed=trimmed)
            case LocalRef() as local:
                if not (objectives and length and keeps(request, environment, length=length, objectives=objectives)):
                    model = load_teacher(local, environment)
                    return cls(model, model, vocabulary=local.vocabulary, local=local)
                captured = _captured(request, environment, length=length)
        return cls(captured.about, captured.logits, captured, captured.vocabulary)

    def weights(self, environment: Environment) -> LanguageModel:
        """The model with its weights; on a sharded mesh a model in memory has those of this rank alone."""
        if self.captured is None:
            return self.about
        return self.captured.weights(device=environment.world.device, dtype=environment.dtype)

    def to_cut(self, environment: Environment, *, length: int, spill: Path) -> LanguageModel | OnDisk:
        """What a student is pruned from or converted: the model that computes anyway, or the files of a captured one.

        On a sharded mesh the first rank prunes, from the files. ``length`` is that of a row of text, ``spill`` a folder for
        hidden states of a model that does not fit in memory.
        """
        captured, local, world = self.captured, self.local, environment.world
        if is_mixture(self.about.config):
            # not from its files, which hold experts in another form; of a captured one by the rank that cuts
            return self.weights(environment) if captured is None or world.first else self.about
        if captured is not None:
            run = partial(captured.weights_within, device=world.device, dtype=environment.dtype)
            run = partial(run, length=length, spill=spill, say=console.print)
            return OnDisk(captured.stored(dtype=environment.dtype), run)
        if local is None or not (world.sharded and world.first):
            return self.about
        stored = stored_teacher(local, environment)
        begin_with(stored.about, self.about.tokenizer.bos_token)
        return OnDisk(stored, lambda: load_whole_within(local, environment, length=length, spill=spill))

    def stores(
        self, settings: TeacherSettings, environment: Environment, *, most: Sequence[int]
    ) -> tuple[TokenStore, TokenStore]:
        """(training, held-out) text of the run; ``most`` of each source that is streamed (`wanted_tokens`)."""
        if self.captured is not None:
            return self.captured.stores()
        return stores_of(settings, self.about, environment, most=most)

    @property
    def rows(self) -> int | None:
        """Rows of the text that have logits, None for all."""
        return None if self.captured is None else self.captured.logits.rows

    def counted(self, batch: Batch) -> Batch:
        """A batch of training rows, with weight 0 where the teacher has no logits."""
        return batch if self.captured is None else self.captured.logits.masked(batch)

    @property
    def size(self) -> Size | None:
        """The size of the teacher in memory beside the student; None if its logits are on disk."""
        return Size.of(self.about.config) if self.captured is None else None

    @property
    def facts(self) -> dict[str, Any]:
        """Facts of captured logits for the report."""
        if self.captured is None:
            return {}
        codec, missing = self.captured.logits.codec, self.captured.logits.missing
        without = f"; {missing:,} positions without logits do not count" if missing else ""
        return {"answers": f"{codec} outcomes in {codec.bytes} bytes a token{without}"}

    @property
    def vocabulary_facts(self) -> dict[str, Any]:
        """What run.json keeps of a trimmed vocabulary, by its name there; nothing where it is not trimmed."""
        return {} if self.vocabulary is None else {"vocabulary": facts_in(self.vocabulary)}

    def passes(self, tokens: int, length: int) -> float:
        """Forward passes of the teacher for each of the ``tokens`` that one student trains on, 1 for a live teacher.

        Captured logits took one pass over their text; this run is charged for the part that it reads. Each seed is charged as if
        it were the only one, since seeds repeat one measurement. Of a mixture all captured rows are charged.
        """
        return 1.0 if self.rows is None else min(1.0, self.rows * length / tokens)


def _captured(request: DistilRequest, environment: Environment, *, length: int | None) -> Captured:
    """The teacher's logits of this run's text in the run's folder, captured now unless they are complete."""
    settings, folder = request.settings, request.settings.out / CAPTURED
    if not (folder / CERTIFICATE).exists():  # it is written last
        if environment.world.size > 1:
            raise BadSetting(
                f"--teacher {settings.teacher}: one process captures: start this command without torchrun, or run limbeck "
                "capture first and give its folder: --teacher LOGITS"
            )
        keys = settings.model_dump(include=_PASSED_ON) | {"text_tokens": settings.text_tokens, "length": length}
        keys |= {"vocab": settings.vocab, "frame": settings.frame}
        if Mixture.of(settings.data) is not None:
            keys["tokens"] = None  # any of its rows may be read, or of a server the first of each source
        tokenised, vocabulary = settings.out / DATA, request.teacher.vocabulary
        capture(
            CaptureSettings(**keys, out=folder),
            tokenised=tokenised,
            vocabulary=vocabulary,
            environment=environment,
            most=wanted_tokens(settings, length=length),
        )
    return Captured(folder)


def _check(request: DistilRequest, codec: Codec, *, holds: str) -> None:
    for spec in request.objectives:
        if spec.needs_teacher and (reason := why_not(codec, spec.objective)):
            raise BadSetting(f"--teacher {request.teacher.name}: {holds}. {reason}")


def adopted(request: DistilRequest) -> tuple[DistilRequest, dict[str, Any]]:
    """The request with the text and rows of captured logits, and the entries of a run's signature about them.

    Raises BadSetting if the settings contradict them. With a local or served model the request is returned unchanged.
    """
    check_keeps(request)
    check_vocabulary(request)
    match request.teacher:
        case ServedRef() as teacher:
            _ = teacher.config_source  # raises if there is none
            if request.settings.student is None:
                raise BadSetting(
                    f"--teacher {teacher.name}: a server does not give its weights, and a student cannot be pruned "
                    "without them: give a model with --student"
                )
            if request.settings.tokenizer_align is None:
                _check(request, TopK(vocab=LITTLE, k=1), holds="it returns its top tokens")
            return request, {}
        case LocalRef():
            return request, {}
        case CapturedRef(folder=folder):
            captured = Captured(folder)
            _check_captured(request, captured)
            return _with_text_of(request, captured), _identity(request, captured)


def _check_captured(request: DistilRequest, captured: Captured) -> None:
    """Raises BadSetting if captured logits cannot serve an objective, or the student needs the teacher's weights."""
    settings, codec = request.settings, captured.logits.codec
    if settings.tokenizer_align is None:
        _check(request, codec, holds=f"it holds {codec} outcomes a token")
    elif isinstance(codec, Sampled) and AlignedTexts.by(request.objectives, settings.tokenizer_align).largest:
        raise BadSetting(
            f"--teacher {settings.teacher}: it holds {codec} outcomes a token, which do not give the teacher's largest "
            "probabilities in order, and --objective compares those: capture with --codec top-k, or use the live teacher or ALM"
        )
    if captured.served and settings.student is None:
        raise BadSetting(
            f"--teacher {settings.teacher}: its logits are from a server, which does not give its weights, and a student "
            "cannot be pruned without them: give a model with --student"
        )


def _with_text_of(request: DistilRequest, captured: Captured) -> DistilRequest:
    """The request with the settings of the capture. Raises BadSetting if the user gave others."""
    settings, signature = request.settings, captured.facts["signature"]
    there = {"data": signature["data"], "eval_data": signature["eval_data"]}
    columns = signature.get("columns")
    there["columns"] = tuple((ours, theirs) for ours, theirs in columns) if columns else None
    there |= {"skip_bad": signature.get("skip_bad"), "frame": signature.get("frame")}
    there |= {"dedup": bool(signature.get("dedup"))}
    if settings.tokenizer_align is None:  # a student with another tokenizer has its own rows and budget
        there |= {"text_tokens": captured.text_tokens}
        long = next((name for name, packing in PACKINGS.items() if packing == captured.packing), None)
        there |= {"length": captured.logits.length, "long_conversations": long}
    if _same_sources(settings.data, there["data"]):  # all rows of a mixture have logits, whatever their weights
        there["data"] = settings.data
    for key in settings.model_fields_set & there.keys():
        if getattr(settings, key) != there[key]:
            raise BadSetting(
                f"{flag_of(type(settings), key)} {getattr(settings, key)}: the logits in {settings.teacher} were captured "
                f"with {there[key]}; leave it out, or capture again"
            )
    return request.but(**there)


def _same_sources(data: str, captured: str) -> bool:
    """Whether two values of --data are mixtures of the same sources in one order."""
    ours, theirs = Mixture.of(data), Mixture.of(captured)
    return ours is not None and theirs is not None and ours.sources == theirs.sources


def _identity(request: DistilRequest, captured: Captured) -> dict[str, Any]:
    """The entries of a run's signature about captured logits."""
    packing = {"packing": captured.packing} if request.settings.tokenizer_align is None else {}
    return {"answers": captured.identity} | packing
