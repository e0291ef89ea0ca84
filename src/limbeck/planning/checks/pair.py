"""The doctor: checks of teacher, student and planned run before anything long begins.

Errors stop a run; warnings are printed and stored with it. The checks are for faults that users of other tools met late: heads
with different numbers of rows, end tokens that are never learned, rows longer than the context, a student far too small.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from transformers.configuration_utils import PreTrainedConfig

from limbeck.models.language_model import LanguageModel
from limbeck.planning.checks import resources, vocabulary
from limbeck.planning.checks.finding import Finding, as_json, check, show
from limbeck.planning.checks.price import Price, chances
from limbeck.planning.cost.size import Size
from limbeck.planning.cost.training import estimate, matching_bytes

__all__ = ["Finding", "as_json", "check", "examine", "gain", "show"]

# The best teacher of a student is about 2.5 times its size (Zhang et al., arXiv 2311.07052); four times that is far.
_FAR = 10


def examine(
    teacher: LanguageModel,
    student: LanguageModel | None,
    *,
    length: int,
    tokens: int,
    batch_tokens: int,
    dtype: torch.dtype,
    device: torch.device,
    planned: PreTrainedConfig | None = None,
    reference: PreTrainedConfig | None = None,
    out: Path | None = None,
    chat: bool = False,
    texts: Sequence[str] = (),
    aligned: bool = False,
    uses: float | None = None,
) -> list[Finding]:
    """Checks a pair of models and the run planned for it; gives the findings in order. Changes nothing.

    Without a student only the teacher is checked, and the cost is that of a student of the ``planned`` configuration, or of
    training the teacher itself; a planned student may first be matched to a ``reference``, layer by layer. A teacher without
    weights (captured logits) costs nothing. ``length`` is tokens per row, ``tokens`` of the whole training, ``batch_tokens`` of a
    step. ``chat``: the data are conversations. ``texts`` are some documents, for the tokenizer's coverage. ``aligned``: the
    models have different tokenizers. ``uses`` is how often each forward pass of the teacher is trained on, None if unknown. Takes
    about a second, more for large weights.
    """
    found: list[Finding] = []
    if student is not None and not aligned:
        found += vocabulary.tokens_of_pair(teacher, student)
    found += vocabulary.rows(teacher, student)
    for model, other in [(teacher, None), (student, None)] if aligned and student else [(teacher, student)]:
        found += vocabulary.special_tokens(model, other)
    if chat:
        found += vocabulary.chat_template(teacher, student)
    found += vocabulary.coverage(teacher, texts)
    found += _context([model for model in (None if aligned else teacher, student) if model is not None], length)
    found += _logits(teacher, student)
    found += _weights(teacher, student)
    if student is not None:
        found += _sizes(teacher, student)
    found += resources.number_format(dtype, device)
    size, theirs = Size.of((student or teacher).config if planned is None else planned), Size.of(teacher.config)
    cost = estimate(
        size,
        None if (student is None and planned is None) or _absent(teacher) else theirs,
        length=length,
        tokens=tokens,
        batch_tokens=batch_tokens,
        itemsize=dtype.itemsize,
        device=device.type,
    )
    if uses is not None and (student is not None or planned is not None):
        found += chances(Price.of(size, theirs, length=length, uses=uses), tokens=tokens, kept=_absent(teacher))
    peaks = [cost.bytes]
    if reference is not None:
        three = (size, Size.of(reference), theirs)
        peaks.append(
            matching_bytes(
                *three, length=length, batch_tokens=batch_tokens, itemsize=dtype.itemsize, device=device.type
            )
        )
    found += resources.memory(max(peaks, key=lambda parts: sum(parts.values())), device)
    if out is not None:
        found += resources.disk(cost, out)
    found += resources.duration(cost, dtype=dtype, device=device)
    return found


def gain(teacher_nats: float, student_nats: float) -> Finding:
    """Whether the teacher is better than the student: held-out nats per token of both, on the same text."""
    message = f"on held-out text the teacher is at {teacher_nats:.3f} nats per token, the student at {student_nats:.3f}"
    if teacher_nats < student_nats:
        return Finding("gain", "ok", message)
    return Finding(
        "gain",
        "warning",
        f"{message}: the teacher is not better, so distillation can make the student worse",
        "use a better teacher for this text, or train without one (--objective CrossEntropy)",
    )


def _absent(model: LanguageModel) -> bool:
    """Whether this is a teacher without weights, whose logits are captured."""
    return model.device.type == "meta"


def _context(models: Sequence[LanguageModel], length: int) -> Iterator[Finding]:
    short = [model for model in models if model.context < length]
    for model in short:
        yield Finding(
            "context",
            "error",
            f"--seq-len {length} is longer than the context of {model.name}, {model.context} tokens",
            f"use --seq-len {model.context} or less",
        )
    if not short:
        contexts = ", ".join(f"{m.name} {m.context if m.context < sys.maxsize else 'unbounded'}" for m in models)
        yield Finding("context", "ok", f"rows of {length} tokens; contexts: {contexts}")


def _logits(teacher: LanguageModel, student: LanguageModel | None) -> Iterator[Finding]:
    heads = {model.name: model.head for model in (teacher, student) if model is not None}
    kinds = {name: (head.scale, head.softcap) for name, head in heads.items()}
    if set(kinds.values()) != {(1.0, None)}:
        message = "; ".join(
            f"{name}: scale {scale:g}, {'no soft cap' if cap is None else f'soft cap {cap:g}'}"
            for name, (scale, cap) in kinds.items()
        )
        yield Finding("logits", "ok", f"{message}; each is applied before logits are compared, so they may differ")


def _weights(teacher: LanguageModel, student: LanguageModel | None) -> Iterator[Finding]:
    for model in filter(None, (teacher, student)):
        if _absent(model):
            continue
        bad = [name for name, p in model.model.named_parameters() if not bool(torch.isfinite(p).all())]
        if bad:
            yield Finding(
                "weights",
                "error",
                f"{model.name} has NaN or infinite values in {len(bad)} tensors, {bad[0]} first",
                "the weights are damaged: copy them again, or load them in another --dtype",
            )


def _sizes(teacher: LanguageModel, student: LanguageModel) -> Iterator[Finding]:
    large, small = teacher.parameters_count, student.parameters_count
    ratio = large / small
    message = f"teacher {large:,} parameters, student {small:,}: {ratio:.2f} times"
    if ratio < 1:
        yield Finding(
            "size",
            "warning",
            f"{message}: the student is larger than the teacher",
            "check that they are not swapped",
        )
    elif ratio > _FAR:
        yield Finding(
            "size",
            "warning",
            f"{message}; students of a teacher far above 2.5 times their size tend to end worse (arXiv 2311.07052)",
            f"try a teacher of about {2.5 * small:,.0f} parameters, or a larger student",
        )
    else:
        yield Finding("size", "ok", message)
