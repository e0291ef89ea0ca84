"""Estimates how often each forward pass of the teacher will be used for training, before the text is read."""

from __future__ import annotations

from limbeck.config import DistilSettings
from limbeck.corpora.mixture import plain
from limbeck.corpora.source import resolve
from limbeck.jobs.common.captured import Captured
from limbeck.jobs.common.sample import Sample
from limbeck.jobs.common.text import columns_of
from limbeck.jobs.distil.keep_logits import worth_keeping
from limbeck.jobs.distil.request import DistilRequest
from limbeck.models.language_model import LanguageModel
from limbeck.teachers.ref import CapturedRef


def uses_before(request: DistilRequest, teacher: LanguageModel, sample: Sample, *, length: int) -> float | None:
    """How often each forward pass of the teacher will be used for training; None if none is needed, or with --tokenizer-align.

    1 if the size of the text is not known before it is read, and of several teachers, whose logits are not kept. ``length``:
    tokens of a row.
    """
    settings = request.settings
    if settings.tokenizer_align is not None or not request.needs_teacher:
        return None
    if request.domains is not None:
        return 1.0
    if isinstance(request.teacher, CapturedRef):
        read = Captured(request.teacher.folder).logits.rows * length
        return max(1.0, settings.tokens / read)
    text = text_tokens(settings, teacher, sample)
    return max(1.0, settings.tokens / text) if text and worth_keeping(settings, text) else 1.0


def text_tokens(settings: DistilSettings, teacher: LanguageModel, sample: Sample) -> int | None:
    """Tokens of the training text, estimated from the sizes of its files and its first documents; None if unknown."""
    texts = sample.texts
    sizes = [part.size for part in resolve(plain(settings.data), columns_of(settings))]
    known = [settings.text_tokens] if settings.text_tokens is not None else []
    if texts and None not in sizes:
        tokens = sum(map(len, teacher.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]))
        known.append(round(sum(filter(None, sizes)) * tokens / sum(len(text.encode()) for text in texts)))
    return min(known, default=None)
