"""The doctor's findings about a teacher, a student, their text and a planned run, before any training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Int
from transformers.configuration_utils import PreTrainedConfig

from limbeck.config import DistilSettings
from limbeck.corpora.mixture import plain
from limbeck.errors import BadModel
from limbeck.jobs.common.adapters import held_in_half
from limbeck.jobs.common.environment import Environment, batch_rows
from limbeck.jobs.common.memory import needs_documents, planned_run
from limbeck.jobs.common.rates import (
    early_stop_findings,
    fresh_rate_finding,
    optimiser_findings,
    rate_finding,
    schedule_of,
)
from limbeck.jobs.common.sample import Sample, of_text
from limbeck.jobs.common.text import columns_of
from limbeck.jobs.distil.adapters import StudentAdapters, memory_of
from limbeck.jobs.distil.align import alignment
from limbeck.jobs.distil.correction import Correction
from limbeck.jobs.distil.request import DistilRequest
from limbeck.jobs.distil.several import sizes_together
from limbeck.jobs.pair.unigram import compare_to_unigram, knowledge, of_source
from limbeck.jobs.pair.unpacked import rows_of_documents, unpacked_cost
from limbeck.models.gguf.quantiser import KIND_OF, Quantiser
from limbeck.models.language_model import LanguageModel
from limbeck.objectives import TAID
from limbeck.planning.checks.pair import Finding, Pair, PlannedRun, examine
from limbeck.planning.checks.resources import memory
from limbeck.planning.checks.steps import step_findings
from limbeck.planning.checks.vocabulary import embeddings
from limbeck.planning.cost.size import Size
from limbeck.report.words import size as size_in_words


def what_is_known(
    request: DistilRequest,
    teacher: LanguageModel,
    *,
    length: int,
    environment: Environment,
    several: Sequence[LanguageModel] = (),
) -> list[Finding]:
    """Whether a teacher in memory predicts the text better than a unigram model; no finding for other teachers.

    An error becomes a warning where no objective needs the teacher. ``several``: all teachers, each of its own domain's text.
    """
    if request.domains is not None and several:
        alone = [request.domains.alone(request.settings, number) for number in range(len(several))]
        each = zip(alone, several, strict=True)
        found = [_known(settings, model, True, length=length, environment=environment) for settings, model in each]
        named = zip(request.domains.names, found, strict=True)
        return [replace(one, message=f"{name}: {one.message}") for name, findings in named for one in findings]
    if not request.teacher.has_weights:
        return []
    return _known(request.settings, teacher, request.needs_teacher, length=length, environment=environment)


def _known(
    settings: DistilSettings, teacher: LanguageModel, needed: bool, *, length: int, environment: Environment
) -> list[Finding]:
    """The finding on a teacher and the text of its settings; a warning for an error where it is not ``needed``."""
    found = compare_to_unigram(
        teacher,
        of_source(plain(settings.data), teacher, columns_of(settings)),
        vocab=teacher.vocab,
        length=min(length, teacher.context),
        device=environment.world.device,
    )
    return list(knowledge(found, teacher.name, anyway=settings.any_teacher or not needed))


def _packing(model: LanguageModel, texts: Sequence[str], length: int) -> list[Finding]:
    """The cost of a decoder that needs each document in a row of its own; empty if it supports packed rows."""
    if model.packs:
        return []
    tokens = _lengths(model, texts).tolist()
    return [Finding("packing", "warning", unpacked_cost(model.name, rows_of_documents(tokens, length)))]


def _lengths(model: LanguageModel, texts: Sequence[str]) -> Int[np.ndarray, " n"]:
    """The tokens of each text."""
    return np.array([len(model.tokenizer(text, verbose=False)["input_ids"]) for text in texts], dtype=np.int64)


def _quantised(config: PreTrainedConfig, qat: str) -> Finding:
    """Whether a GGUF file can hold a student of this configuration in blocks, and what it takes there."""
    try:
        facts = Quantiser.of(config, KIND_OF[qat]).facts
    except BadModel as error:
        return Finding("quantisation", "error", str(error), "give another student, or leave --qat out")
    return Finding("quantisation", "ok", f"weights in {facts['kind']}: {size_in_words(facts['bytes'])} in a GGUF file")


def _memory_of(run: PlannedRun, teacher: PreTrainedConfig, environment: Environment) -> list[Finding]:
    """Whether tuning the teacher fits into memory, before the student is there."""
    size = Size.of(teacher)
    asked, peak = run.asked(size, None, teacher), run.peak(size, None, teacher)
    return [replace(one, check="memory of teacher") for one in memory(asked, peak, environment.world.device)]


def diagnose(
    request: DistilRequest,
    pair: Pair,
    sample: Sample,
    *,
    length: int,
    environment: Environment,
    uses: float | None = None,
    kept: float | None = None,
) -> list[Finding]:
    """The findings about a pair, the first documents of its data, and the planned run.

    ``length``: tokens of a row. ``uses``: how often each forward pass of the teacher is used for training, None if unknown.
    ``kept``: the learning rate of the run where it was begun.
    """
    settings, teacher, student = request.settings, pair.teacher, pair.student
    rows, steps = batch_rows(settings, length, environment.world.size)
    texts, chat = sample.texts, sample.chat
    aligned = settings.tokenizer_align is not None and student is not None
    unpacked = [
        finding for model in (teacher, student) if model is not None for finding in _packing(model, texts, length)
    ]
    found = list(alignment(teacher, student, texts, chat=chat)) if aligned and student is not None else []
    made = student.config if student is not None else pair.planned
    if made is not None:
        size = Size.of(made)
        found.append(rate_finding(settings, size.parameters, kept=kept))
        found += fresh_rate_finding(settings, size.parameters) if "fresh+kd" in settings.compared else []
        found += optimiser_findings(settings, size.parameters)
        found += early_stop_findings(settings, schedule_of(settings, made))
        found += [] if settings.qat is None else [_quantised(made, settings.qat)]
        found += [] if aligned or request.teacher.vocabulary is not None else embeddings(size)
    half = settings.trained != "full" and held_in_half(settings.student or request.teacher.config_source, environment)
    adapters = None if made is None else StudentAdapters.of(settings, made, length=length, half=half)
    parts = (part for spec in request.objectives for part in spec.parts if isinstance(part, TAID))
    found += [Finding("objective", "ok", remark) for part in parts if (remark := part.remark(steps))]
    if not aligned:
        found += of_text(sample, teacher)
    found += step_findings(steps, batch_tokens=rows * length)
    lengths = _lengths(teacher, texts) if needs_documents(environment.dtype, environment.world.device) else None
    run = planned_run(
        *(settings, environment),
        length=length,
        rows=rows,
        documents=lengths,
        out=settings.out,
        quantised=settings.qat is not None,
        **memory_of(adapters),
    )
    if correction := Correction.of(settings, teacher.config, length=length, environment=environment):
        found += _memory_of(
            correction.run(settings, environment, teacher.parameters_count), teacher.config, environment
        )
    run = replace(run, teachers=sizes_together(request))
    return found + unpacked + examine(pair, run, texts=texts, chat=chat and not aligned, aligned=aligned, uses=uses)


def masked(settings: DistilSettings, sample: Sample) -> list[Finding]:
    """Whether there are answers whose tokens can be corrupted; nothing without --mask-input, or where all have a prompt."""
    if settings.mask_input is None or not sample.documents:
        return []
    without = sum(one.messages is None and not one.prompt for one in sample.documents)
    if not without:
        return []
    remedy = "give conversations or prompts with completions, or leave --mask-input out"
    if without < len(sample.documents):
        message = f"{without} of the first {len(sample.documents)} documents have no prompt, and stay as they are"
        return [Finding("masked input", "warning", message, remedy)]
    message = f"none of the first {len(sample.documents)} documents has a prompt: of such text all would be corrupted"
    return [Finding("masked input", "error" if sample.whole else "warning", message, remedy)]
