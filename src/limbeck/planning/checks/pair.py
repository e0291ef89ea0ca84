"""The doctor: checks of teacher, student and planned run before anything long begins.

Errors stop a run; warnings are printed and stored with it. The checks are for faults that users of other tools met late: heads
with different numbers of rows, end tokens that are never learned, rows longer than the context, a student far too small.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers.configuration_utils import PreTrainedConfig

from limbeck.models.checkpointing import could_checkpoint
from limbeck.models.language_model import LanguageModel
from limbeck.planning.checks import resources, vocabulary
from limbeck.planning.checks.finding import Finding, as_json, check, show
from limbeck.planning.checks.price import Price, chances
from limbeck.planning.cost.adapters import AdapterSize
from limbeck.planning.cost.fitting import OTHERS, SHARDED, Asked, Checkpointing, Peak, forward_share
from limbeck.planning.cost.memory import USUAL, Format, MemoryUse, Optimizer, Step, kind_of
from limbeck.planning.cost.size import Size
from limbeck.planning.cost.training import estimate, matching_bytes

__all__ = ["Finding", "Pair", "PlannedRun", "as_json", "check", "examine", "gain", "show"]

# The best teacher of a student is about 2.5 times its size (Zhang et al., arXiv 2311.07052); four times that is far.
_FAR = 10


@dataclass(frozen=True)
class Pair:
    """A teacher and its student. Of a student that is still to be made only the configuration is there, ``planned``.

    ``reference``: the configuration of what a converted student is matched to, layer by layer, before it is distilled.
    """

    teacher: LanguageModel
    student: LanguageModel | None = None
    planned: PreTrainedConfig | None = None
    reference: PreTrainedConfig | None = None

    @property
    def trains_teacher(self) -> bool:
        """Whether there is no student, so that the cost is that of training the teacher itself."""
        return self.student is None and self.planned is None

    @property
    def trained(self) -> Size:
        """The size of the model that is trained."""
        return Size.of(self.configuration)

    @property
    def configuration(self) -> PreTrainedConfig:
        """The configuration of the model that is trained."""
        return (self.student or self.teacher).config if self.planned is None else self.planned


@dataclass(frozen=True)
class PlannedRun:
    """The training that is planned: ``tokens`` in all and ``batch_tokens`` in a step, in rows of ``length`` tokens.

    ``dtype``: the number format of its matrix products, ``tf32`` whether those of float32 are in TF32 where the device has
    it. ``out``: its folder, None if the disk is not to be checked.
    ``quantised``: whether the student is trained with quantised weights; ``averaged``: whether its weights are averaged.
    ``micro`` to ``weights`` are what is asked of memory, ``document`` the tokens of a usual document, None for those of a row.
    ``shards``: over how many processes weights are spread. ``generated``: the share of the tokens that the student generates.
    ``trained``: how many numbers are trained, as a share of its weights: fewer where those are of adapters. ``adapters``: those
    that the student's own training trains, None where it trains all weights. ``teachers``: the size of several teachers together,
    None for that of the pair's.
    """

    length: int
    tokens: int
    batch_tokens: int
    dtype: torch.dtype
    device: torch.device
    out: Path | None = None
    quantised: bool = False
    averaged: bool = False
    micro: int | None = None
    checkpointing: Checkpointing = "auto"
    optimizer: Optimizer = "adamw"
    weights: Format = "float32"
    document: int | None = None
    shards: int = 1
    tf32: bool = False
    generated: float = 0.0
    trained: float = 1.0
    adapters: AdapterSize | None = None
    teachers: Size | None = None

    @property
    def step(self) -> dict[str, Any]:
        """The arguments of estimates of one step."""
        return {
            "length": self.length,
            "batch_tokens": self.batch_tokens,
            "itemsize": self.dtype.itemsize,
            "device": self.device.type,
        }

    @property
    def beside(self) -> dict[str, Any]:
        """What is held beside the trained weights."""
        return {
            "quantised": self.quantised,
            "averaged": self.averaged,
            "trained": self.trained,
            "adapters": self.adapters,
        }

    def asked(self, student: Size, teacher: Size | None, config: PreTrainedConfig) -> Asked:
        """What this run asks of memory, for a student of this size and configuration."""
        step = Step(self.length, self.batch_tokens, self.dtype.itemsize, kind_of(self.device.type), USUAL)
        share = forward_share(student, teacher, self.length) if could_checkpoint(config) else None
        possible = OTHERS if self.shards == 1 else SHARDED
        if self.dtype.itemsize > 2 or self.quantised:
            possible = tuple((kind, weights) for kind, weights in possible if weights == "float32")
        asked = (self.micro, self.checkpointing, self.optimizer, self.weights, self.document, possible)
        return Asked(step.usual_rows, self.length, share, *asked)

    def peak(
        self, student: Size, teacher: Size | None, config: PreTrainedConfig, *, matched: tuple[Size, Size] | None = None
    ) -> Peak:
        """Peak bytes by part, for each way of computing. ``matched``: reference and teacher of a student that is matched."""

        def parts(use: MemoryUse, length: int) -> Mapping[str, int]:
            how = self.step | {"length": length, "use": use, "config": config}
            cost = estimate(student, teacher, tokens=self.tokens, shards=self.shards, **self.beside, **how)
            peaks = [cost.bytes]
            if matched is not None:
                peaks.append(matching_bytes(student, *matched, **how))
            return max(peaks, key=lambda found: sum(found.values()))

        return parts


def examine(
    pair: Pair,
    run: PlannedRun,
    *,
    texts: Sequence[str] = (),
    chat: bool = False,
    aligned: bool = False,
    uses: float | None = None,
) -> list[Finding]:
    """Checks a pair of models and the run planned for it; gives the findings in order. Changes nothing.

    Without a student only the teacher is checked. ``texts`` are some documents, for the tokenizer's coverage. ``chat``: the data
    are conversations. ``aligned``: the models have different tokenizers. ``uses`` is how often each forward pass of the teacher
    is trained on, None if unknown. A teacher without weights (captured logits) costs nothing. Takes about a second, more for
    large weights.
    """
    return [
        *_vocabularies(pair, texts, chat=chat, aligned=aligned),
        *_models(pair, run.length, aligned=aligned),
        *_resources(pair, run, uses),
    ]


def _vocabularies(pair: Pair, texts: Sequence[str], *, chat: bool, aligned: bool) -> Iterator[Finding]:
    teacher, student = pair.teacher, pair.student
    if student is not None and not aligned:
        yield from vocabulary.tokens_of_pair(teacher, student)
    yield from vocabulary.rows(teacher, student)
    for model, other in [(teacher, None), (student, None)] if aligned and student else [(teacher, student)]:
        yield from vocabulary.special_tokens(model, other)
    if chat:
        yield from vocabulary.chat_template(teacher, student)
    yield from vocabulary.coverage(teacher, texts)


def _models(pair: Pair, length: int, *, aligned: bool) -> Iterator[Finding]:
    teacher, student = pair.teacher, pair.student
    yield from _context([model for model in (None if aligned else teacher, student) if model is not None], length)
    yield from _logits(teacher, student)
    yield from finite_weights([model for model in (teacher, student) if model is not None])
    if not pair.trains_teacher:
        yield from _sizes(teacher.parameters_count, pair.trained.parameters)


def _resources(pair: Pair, run: PlannedRun, uses: float | None) -> Iterator[Finding]:
    """The findings on number formats, FLOPs, memory, disk and time of the run."""
    yield from resources.number_format(run.dtype, run.device)
    size, theirs, absent = pair.trained, run.teachers or Size.of(pair.teacher.config), _absent(pair.teacher)
    other = None if pair.trains_teacher or absent else theirs
    asked = run.asked(size, other, pair.configuration)
    cost = estimate(size, other, tokens=run.tokens, use=asked.use, **run.beside, **run.step)
    matched = None if pair.reference is None else (Size.of(pair.reference), theirs)
    peak = run.peak(size, other, pair.configuration, matched=matched)
    if uses is not None and not pair.trains_teacher:
        price = Price.of(size, theirs, length=run.length, uses=uses, generated=run.generated, adapters=run.adapters)
        yield from chances(price, tokens=run.tokens, kept=absent)
    yield from resources.memory(asked, peak, run.device)
    if run.out is not None:
        yield from resources.disk(cost, run.out)
    yield from resources.duration(cost, dtype=run.dtype, device=run.device, tf32=run.tf32)


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


def finite_weights(models: Sequence[LanguageModel]) -> Iterator[Finding]:
    """An error for each of the models with NaN or infinite weights."""
    for model in models:
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


def _sizes(large: int, small: int) -> Iterator[Finding]:
    """Whether a student of ``small`` parameters fits a teacher of ``large``."""
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
