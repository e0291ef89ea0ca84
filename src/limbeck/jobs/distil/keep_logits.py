"""Decides whether a run stores the logits of a local teacher: computed once, they serve every epoch, seed and arm.

They are stored as by `limbeck capture`, in the run's folder, so another run can use that folder as its teacher. This saves
compute if the trainings read their text several times. It is possible if every objective can be computed from stored outcomes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import psutil

from limbeck.config import LAYERS, CaptureSettings, DistilSettings
from limbeck.corpora import Rows, TokenStore
from limbeck.errors import BadSetting
from limbeck.jobs.capture.certificate import why_not
from limbeck.jobs.capture.codecs import codecs_within
from limbeck.jobs.common.environment import Environment
from limbeck.jobs.common.mixture import wanted_tokens
from limbeck.jobs.common.text import stores_of
from limbeck.jobs.distil.request import DistilRequest
from limbeck.models.source import resolve
from limbeck.models.weightless import load_without_weights
from limbeck.objectives.spec import ObjectiveSpec, any_needs_teacher
from limbeck.report.words import size
from limbeck.run.log import console

CAPTURED = "captured"  # in a run's folder: the captured logits of its teacher
_BESIDE = 2**17  # further tokens of a capture: held-out text, and the sample that chooses and certifies the codec
_OFTEN = 2  # times as many live passes as a capture takes
_SHARE = 0.25  # of the free disk

_BYTES: int = CaptureSettings.model_fields["bytes_per_token"].default


def keeps(
    request: DistilRequest, environment: Environment, *, length: int, objectives: Sequence[ObjectiveSpec]
) -> bool:
    """Whether this run stores its teacher's logits: by --cache-logits, or by how often it would compute them.

    ``objectives`` are those of all students. A capture that was begun is continued. Tokenises the run's text into ``out/data``.
    """
    settings, needed = request.settings, any_needs_teacher(objectives)
    if settings.cache_logits is not None:
        return settings.cache_logits and needed
    if (settings.out / CAPTURED).exists():
        return True
    if (settings.out / "cut").exists() or environment.world.size > 1 or not needed:
        return False
    if settings.mixers is not None or settings.rollouts is not None or settings.adapt_teacher is not None:
        return False
    about = load_without_weights(resolve(request.teacher.config_source), name=request.teacher.name)
    if any(why_not(codec, spec.objective) for spec in objectives for codec in codecs_within(about.vocab, _BYTES)):
        return False
    most = wanted_tokens(settings, length=length)
    text = _tokens(stores_of(settings, about, environment, most=most, shown=False)[0], length=length)
    if not worth_keeping(settings, text):
        return False
    live = settings.tokens * _readings(settings)
    console.print(
        f"the teacher's logits of {text:,} tokens would be computed {live / text:.0f} times, so they are computed once and kept "
        f"in {settings.out / CAPTURED}: {size(_BYTES * text)} (--no-cache-logits computes them each time)",
    )
    return True


def worth_keeping(settings: DistilSettings, text: int) -> bool:
    """Whether a run stores the logits of ``text`` tokens: by its settings, or if that saves forward passes and fits on disk.

    Not if the run reads only a part of its text, since with stored logits it would read other rows.
    """
    if settings.cache_logits is not None:
        return settings.cache_logits
    often = settings.tokens * _readings(settings) >= _OFTEN * (text + _BESIDE)
    return text <= settings.tokens and often and _BYTES * text <= _SHARE * _free(settings.out)


def check_keeps(request: DistilRequest) -> None:
    """Raises BadSetting for --cache-logits or --no-cache-logits with a teacher or alignment that does not permit it."""
    settings = request.settings
    if settings.cache_logits is False and not request.teacher.has_weights:
        raise BadSetting(
            f"--no-cache-logits: the logits of {settings.teacher} are kept already, or come from a server and are always kept; "
            "leave it out, or give the model itself"
        )
    if settings.cache_logits and settings.tokenizer_align is not None:
        raise BadSetting(
            "--cache-logits: with --tokenizer-align the teacher's log-probabilities are always kept; leave it out"
        )


def _readings(settings: DistilSettings) -> int:
    """The number of trainings of one student that need the teacher."""
    return settings.seeds * (1 + len({"fresh+kd", LAYERS} & set(settings.compared)))


def _tokens(store: TokenStore, *, length: int) -> int:
    return Rows(store, length=length).n_rows * length


def _free(folder: Path) -> int:
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return int(psutil.disk_usage(str(folder)).free)
