"""The doctor: do this teacher, this student and this run belong together? Looked at before anything long begins.

Errors stop a run, warnings are printed and stored with it. The faults looked for are those that other tools' users met
late: heads of unequal height, ends that are never learned, rows longer than the context, a student far too small.
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
    """What there is to say about a pair and the run planned for it, in the order it was looked at; nothing is changed.

    Without a student the teacher alone is looked at, and the cost is that of a student of the ``planned`` configuration, or
    of training the teacher itself; a planned one may be matched to a ``reference`` first, layer by layer. A teacher without
    weights has answered before and costs nothing. ``chat``: the data are conversations. ``texts``: some documents, to see whether
    the tokenizer can read them. ``aligned``: each of the two reads them in tokens and rows of its own. ``uses``: how often
    a forward pass of the teacher is trained with, None where that is not known. About a second, more for large weights.
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
    """Whether the teacher has anything to teach: held-out nats per token of both, on the same text."""
    said = f"on held-out text the teacher is at {teacher_nats:.3f} nats per token, the student at {student_nats:.3f}"
    if teacher_nats < student_nats:
        return Finding("gain", "ok", said)
    return Finding(
        "gain",
        "warning",
        f"{said}: the teacher is not better, so imitating it can make the student worse",
        "take a better teacher for this text, or train without one (--objective CrossEntropy)",
    )


def _absent(model: LanguageModel) -> bool:
    """Whether this is a teacher whose answers are there, and whose weights need not be."""
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
        said = "; ".join(
            f"{name}: scale {scale:g}, {'no soft cap' if cap is None else f'soft cap {cap:g}'}"
            for name, (scale, cap) in kinds.items()
        )
        yield Finding("logits", "ok", f"{said}; applied to each before they are compared, so they may differ")


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
                "the weights are damaged: copy them again, or read them in another --dtype",
            )


def _sizes(teacher: LanguageModel, student: LanguageModel) -> Iterator[Finding]:
    large, small = teacher.parameters_count, student.parameters_count
    ratio = large / small
    said = f"teacher {large:,} parameters, student {small:,}: {ratio:.2f} times"
    if ratio < 1:
        yield Finding(
            "size",
            "warning",
            f"{said}, so the student is the larger one and nothing becomes small",
            "check that they are not swapped",
        )
    elif ratio > _FAR:
        yield Finding(
            "size",
            "warning",
            f"{said}; a teacher much beyond 2.5 times its student tends to teach it worse (arXiv 2311.07052)",
            f"a teacher of about {2.5 * small:,.0f} parameters or a larger student may end better",
        )
    else:
        yield Finding("size", "ok", said)
