"""The plan of `limbeck distil`, from settings and configurations, before any weights are read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Int
from transformers.configuration_utils import PreTrainedConfig

from limbeck.config import UNMASKED, DistilSettings
from limbeck.corpora.mask_input import MaskInput
from limbeck.corpora.mixture import Mixture, plain
from limbeck.corpora.source import resolve as resolve_source
from limbeck.errors import BadSetting
from limbeck.jobs.common.adapters import held_in_half
from limbeck.jobs.common.environment import Environment, batch_rows, row_length
from limbeck.jobs.common.folder import signature_of
from limbeck.jobs.common.memory import needs_documents, planned_run
from limbeck.jobs.common.mixture import blend_of, check_frequent
from limbeck.jobs.common.rates import schedule_of
from limbeck.jobs.common.text import columns_of
from limbeck.jobs.common.training import rule_of
from limbeck.jobs.distil.adapters import StudentAdapters, check_adapters, memory_of
from limbeck.jobs.distil.align import check_align
from limbeck.jobs.distil.conversion import Conversion, Planned, check_conversion
from limbeck.jobs.distil.correction import Correction, check_correction
from limbeck.jobs.distil.request import DistilRequest
from limbeck.jobs.distil.rollouts import check_rollouts
from limbeck.jobs.distil.several import check_domains
from limbeck.jobs.pair.learngene import Learngene, check_learngene
from limbeck.jobs.pair.low_rank import budget_of
from limbeck.jobs.pair.rounds import Rounds, check_rounds
from limbeck.jobs.pair.student import target_shape
from limbeck.models.configuration import load_config
from limbeck.models.gguf.quantiser import KIND_OF, Quantiser
from limbeck.planning.checks.pair import PlannedRun
from limbeck.run.optim import Schedule
from limbeck.students.low_rank import planned_config as planned_factors
from limbeck.students.shape import Shape, config_of
from limbeck.teachers.ref import CapturedRef


@dataclass(frozen=True)
class Budget:
    """The training budget: ``steps`` optimiser steps of ``rows`` rows of ``length`` tokens each."""

    length: int
    rows: int
    steps: int

    @property
    def tokens(self) -> int:
        """Positions of all rows, padding included."""
        return self.steps * self.rows * self.length


@dataclass(frozen=True)
class DistilPlan:
    """The plan of one student, made once by `of` and passed to every stage.

    ``target``: the shape to prune to, None without pruning. ``conversion``: None if the mixers stay. The first ``matched`` of the
    budget's steps are those of a conversion, of the ``rounds`` of pruning before the last, or the student's share of the training
    of shared layers (``learngene``). ``quantiser``: None if the weights are trained as they are. ``adapters``: what is trained in
    place of the weights, None for the weights. ``correction``: how the teacher is tuned first, None for not.
    """

    request: DistilRequest
    target: Shape | None
    conversion: Conversion | None
    budget: Budget
    matched: int
    schedule: Schedule
    quantiser: Quantiser | None = None
    rounds: Rounds | None = None
    learngene: Learngene | None = None
    adapters: StudentAdapters | None = None
    correction: Correction | None = None

    @property
    def taken(self) -> int:
        """Steps that are trained on rows before the student's own; of shared layers the shares of all students."""
        return self.learngene.steps if self.learngene else self.matched

    @classmethod
    def of(cls, request: DistilRequest, environment: Environment) -> DistilPlan:
        """The plan of a request. Raises a LimbeckError for settings, text or a configuration that do not fit."""
        settings = request.settings
        check_align(request)
        check_mesh(settings, environment)
        check_mixture(request)
        check_rollouts(request, environment)
        mask_of(settings)  # for its errors
        check_adapters(settings, environment)
        check_correction(request, environment)
        check_domains(request, environment)
        rule_of(settings)
        target = target_shape(settings, request.teacher)
        conversion = check_conversion(request, target)
        if not isinstance(request.teacher, CapturedRef):  # it contains the text
            for text in filter(None, (plain(settings.data), settings.eval_data)):
                resolve_source(text, columns_of(settings))
        config = load_config(settings.student or request.teacher.config_source)
        if request.teacher.vocabulary is not None:
            trimmed = load_config(request.teacher.config_source)
            config.get_text_config().vocab_size = trimmed.get_text_config().vocab_size
        first = settings.student or request.teacher.name
        context = getattr(config, "max_position_embeddings", None)
        extra = 0 if settings.student else request.teacher.extra_tokens
        length = row_length(settings, context, environment.world.device, name=first, extra=extra)
        rows, steps = batch_rows(settings, length, environment.world.size)
        rounds = check_rounds(settings, request.teacher, target, steps=steps)
        learngene = check_learngene(settings, request.teacher, steps=steps)
        matched = sum(conversion.steps(steps).values()) if conversion else sum(rounds.steps) if rounds else 0
        if learngene:
            matched = learngene.each
        planned = planned_config(request, target, conversion, config)
        quantiser = None if settings.qat is None else Quantiser.of(planned, KIND_OF[settings.qat])
        budget, schedule = Budget(length, rows, steps), schedule_of(settings, planned)
        blend_of(settings.data, steps=steps, rows=rows, schedule=schedule)  # for its errors
        half = settings.trained != "full" and held_in_half(
            settings.student or request.teacher.config_source, environment
        )
        adapters = StudentAdapters.of(settings, planned, length=length, half=half)
        plan = cls(request, target, conversion, budget, matched, schedule, quantiser, rounds, learngene, adapters)
        if settings.adapt_teacher is None:
            return plan
        teacher = load_config(request.teacher.config_source)
        return replace(plan, correction=Correction.of(settings, teacher, length=length, environment=environment))

    def run(self, environment: Environment, *, documents: Int[np.ndarray, " n"]) -> PlannedRun:
        """The training, for estimates. ``documents``: the lengths of the documents of its text."""
        return planned_run(
            *(self.request.settings, environment),
            length=self.budget.length,
            rows=self.budget.rows,
            documents=documents if needs_documents(environment.dtype, environment.world.device) else None,
            quantised=self.quantiser is not None,
            **memory_of(self.adapters),
        )

    def signature(self, logits: dict[str, Any], environment: Environment) -> dict[str, Any]:
        """All that decides the result of the run, as run.json stores it. ``logits``: the entries about captured logits."""
        objective, budget = self.request.objective, self.budget
        derived = {"objective": objective.canonical, "length": budget.length, "rows": budget.rows}
        derived |= self.request.domains.signature if self.request.domains else {}
        derived |= {"steps": budget.steps, "bf16": environment.bf16} | logits | {"schedule": self.schedule}
        if code := objective.code:
            derived["objective_code"] = code
        return signature_of(self.request.settings, "distil", **derived)


def mask_of(settings: DistilSettings) -> MaskInput | None:
    """How tokens are corrupted where the student reads them, None for not. Raises BadSetting for a baseline that needs it."""
    if settings.mask_input is not None:
        if settings.rollouts is not None:
            raise BadSetting(
                "--mask-input does not go with --rollouts: a student reads what it generated as it is, so a part of the rows "
                "alone would be masked; leave one of the two out"
            )
        return MaskInput.of(settings.mask_input)
    if UNMASKED in settings.baselines:
        raise BadSetting(
            f"--baselines {UNMASKED}: no token is masked, so it would be the student itself: give --mask-input, or leave it out"
        )
    return None


def check_mixture(request: DistilRequest) -> None:
    """Raises BadSetting for settings that do not go with a mixture, each with its reason."""
    settings = request.settings
    if Mixture.of(settings.data) is None:
        return
    for flag, given, why in (
        ("--text-tokens", settings.text_tokens, "how much of each source is read follows from its weight and --tokens"),
        ("--tokenizer-align", settings.tokenizer_align, "it queries the first rows of a text, not those of several"),
    ):
        if given:
            raise BadSetting(f"{flag} does not go with weights of sources in --data: {why}; leave one of the two out")
    check_frequent(settings)


def check_mesh(settings: DistilSettings, environment: Environment) -> None:
    """Raises BadSetting for what needs all weights in one process where the mesh spreads them."""
    if not environment.world.sharded:
        return
    for flag, given in (
        ("--mixers", settings.mixers),
        ("--low-rank", settings.low_rank),
        ("--qat", settings.qat),
        ("--rounds", settings.rounds > 1),
        ("--learngene", settings.learngene),
        ("--tokenizer-align", settings.tokenizer_align),
        ("--tasks", settings.tasks),
    ):
        if given:
            raise BadSetting(
                f"{flag} needs all weights in one process, and --mesh {settings.mesh} spreads them: leave one of the two out"
            )


def planned_config(
    request: DistilRequest, target: Shape | None, conversion: Conversion | None, config: PreTrainedConfig
) -> PreTrainedConfig:
    """The configuration of the student: of the conversion, pruning or factors that are planned, else ``config``."""
    if conversion:
        return Planned.of(request, conversion, target).student
    if request.settings.low_rank is not None:
        return planned_factors(config, budget_of(request.settings))
    return config if target is None else config_of(target, config)
