"""Teacher correction (`limbeck distil --adapt-teacher`): the teacher is tuned on the text of the distillation before it teaches.

A teacher that was trained on other text is a worse teacher of this one (Sreenivas et al., arXiv 2408.11796). Adapters on its
frozen weights are trained by cross-entropy, once for all seeds of a run. They are switched off where the teacher is queried as it
was given, so one copy of its weights serves both. The student is pruned from the teacher as given: an arm without correction
then starts from the same student, and the difference is what the correction bought.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.configuration_utils import PreTrainedConfig

from limbeck.config import UNCORRECTED, DistilSettings
from limbeck.corpora import Rows, TokenStore
from limbeck.errors import BadModel, BadSetting
from limbeck.jobs.common.adapters import ADAPTER, planned_matrices, size_of
from limbeck.jobs.common.environment import Environment, batch_rows
from limbeck.jobs.common.memory import computed, memory_use, planned_run
from limbeck.jobs.common.mixture import blend_of
from limbeck.jobs.distil.request import DistilRequest
from limbeck.jobs.distil.together import refuse_together
from limbeck.models.language_model import LanguageModel
from limbeck.models.source import resolve
from limbeck.objectives import CrossEntropy
from limbeck.planning.checks.pair import PlannedRun
from limbeck.planning.cost.adapters import AdapterSize, step_flops
from limbeck.planning.cost.size import Size
from limbeck.run.log import console
from limbeck.run.optim import tuning_rate
from limbeck.run.run import Plan, Run
from limbeck.run.save import checkpoints
from limbeck.students.adapter_files import read_adapters, write_adapters
from limbeck.students.adapters import AdapterPlan, adapt, adapted_layers, without_adapters
from limbeck.teachers.ref import CapturedRef, LocalRef
from limbeck.types import Batch, Outputs

FOLDER = "teacher"  # in a run's folder: the training of the correction, and its adapters
RANK = 16


@dataclass(frozen=True)
class Correction:
    """A planned correction: ``steps`` of ``rows`` rows of ``length`` tokens, at a peak rate; ``flops`` of a token."""

    adapters: AdapterPlan
    size: AdapterSize
    steps: int
    rows: int
    length: int
    rate: float
    flops: float

    @classmethod
    def of(
        cls, settings: DistilSettings, teacher: PreTrainedConfig, *, length: int, environment: Environment
    ) -> Correction | None:
        """That of the settings for a teacher of this configuration, None without --adapt-teacher."""
        if settings.adapt_teacher is None:
            return None
        rows, _ = batch_rows(settings, length, environment.world.size)
        steps, size = max(1, round(settings.adapt_teacher / (rows * length))), Size.of(teacher)
        shapes = planned_matrices(teacher, AdapterPlan(1, 1.0), name=settings.teacher)
        rank = min(RANK, *map(min, shapes))
        plan = AdapterPlan(rank, 2.0 * rank)
        adapters = size_of(plan, shapes)
        rate = tuning_rate(size.parameters, adapters=True)
        return cls(plan, adapters, steps, rows, length, rate, step_flops(size, length, adapters))

    @property
    def tokens(self) -> int:
        """Positions that the correction reads."""
        return self.steps * self.rows * self.length

    @property
    def facts(self) -> dict[str, Any]:
        """As run.json stores them."""
        numbers = {"rank": self.adapters.rank, "numbers": self.size.numbers, "rate": self.rate}
        return {"correction": numbers | {"tokens": self.tokens, "flops": self.flops * self.tokens}}

    def run(self, settings: DistilSettings, environment: Environment, parameters: int) -> PlannedRun:
        """The correction as a training, for estimates of a teacher of so many parameters."""
        share: dict[str, Any] = {"trained": self.size.numbers / parameters, "adapters": self.size}
        run = planned_run(settings, environment, length=self.length, rows=self.rows, **share)
        return replace(run, quantised=False, averaged=False, weights="float32", generated=0.0, tokens=self.tokens)


def check_correction(request: DistilRequest, environment: Environment) -> None:
    """Raises BadSetting for what does not go with a teacher that is tuned first, each with its reason."""
    settings = request.settings
    if settings.adapt_teacher is None:
        if named := [name for name in UNCORRECTED if name in settings.baselines]:
            raise BadSetting(
                f"--baselines {named[0]} queries the teacher as it was given, and it is not tuned here: give --adapt-teacher, or "
                "leave it out"
            )
        return
    what = f"--adapt-teacher {settings.adapt_teacher:,}"
    if not isinstance(request.teacher, LocalRef):
        there = "its logits are captured already" if isinstance(request.teacher, CapturedRef) else "it is on a server"
        raise BadSetting(
            f"{what}: {settings.teacher} cannot be tuned, since {there}. Tune the model itself with limbeck tune --student MODEL "
            "--trained lora, and give that, or capture its logits: limbeck capture --teacher runs/tune/student"
        )
    if not request.needs_teacher:
        raise BadSetting(f"{what}: no objective queries the teacher: leave it out, or give one such as ForwardKL")
    refuse_together(
        what,
        (
            ("--cache-logits", settings.cache_logits, "the logits of the teacher as given are needed too"),
            ("--tokenizer-align", settings.tokenizer_align, "the text is in the student's tokens"),
            ("--rounds", settings.rounds > 1, "students between rounds query the teacher before it is tuned"),
            ("--learngene", settings.learngene, "shared layers query the teacher before it is tuned"),
            ("several students", settings.is_family, "each has a folder of its own"),
            ("--mesh shard", environment.world.sharded, "adapters need all weights in one process"),
        ),
    )


class AsGiven:
    """A corrected teacher, queried without its correction."""

    def __init__(self, corrected: LanguageModel) -> None:
        self.name, self.vocab, self._corrected = corrected.name, corrected.vocab, corrected

    def __call__(self, batch: Batch) -> Outputs:
        """The outputs of the weights as they were given."""
        with without_adapters(self._corrected):
            return self._corrected(batch)


def correct(
    correction: Correction,
    teacher: LanguageModel,
    settings: DistilSettings,
    store: TokenStore,
    training: Plan,
    environment: Environment,
) -> None:
    """Gives a teacher in memory its adapters: trained now, or as an earlier start of the run trained them. All ranks call it."""
    folder, world = settings.out / FOLDER, environment.world
    done = bool(world.any(world.first and (folder / ADAPTER).exists())[0])
    adapt(teacher, correction.adapters, seed=settings.seed)
    new = [p for p in teacher.model.parameters() if p.requires_grad]
    formats = [p.dtype for p in new]
    if not done:
        for parameter in new:
            parameter.data = parameter.data.float()  # which a rounded update would leave where it is
        _train(correction, teacher, settings, store, training, environment)
        if world.first:
            source = resolve(settings.teacher)
            write_adapters(teacher, correction.adapters, folder / ADAPTER, base=settings.teacher, base_folder=source)
        world.barrier()
    _fill(teacher, folder / ADAPTER)
    for parameter, dtype in zip(new, formats, strict=True):
        parameter.data = parameter.data.to(dtype)
    if world.first:
        for checkpoint in checkpoints(folder):
            shutil.rmtree(checkpoint, ignore_errors=True)
    teacher.model.requires_grad_(False).eval()


def _train(
    correction: Correction,
    teacher: LanguageModel,
    settings: DistilSettings,
    store: TokenStore,
    training: Plan,
    environment: Environment,
) -> None:
    planned = correction.run(settings, environment, teacher.parameters_count)
    use, _ = memory_use(planned, teacher.config, None, environment, {})
    plan = replace(computed(training, use), steps=correction.steps, lr=correction.rate, average="", weights="float32")
    shares = blend_of(settings.data, steps=correction.steps, rows=correction.rows, schedule=plan.schedule)
    rows = Rows(store, length=correction.length, seed=settings.seed, ranks=environment.world, blend=shares)
    console.print(
        f"teacher correction: {correction.steps:,} steps of {correction.rows} x {correction.length} tokens, adapters of rank "
        f"{correction.adapters.rank}, peak learning rate {correction.rate:.2g}"
    )
    folder = settings.out / FOLDER
    Run(folder, "teacher correction", teacher, None, rows, CrossEntropy(), plan, environment.world).train()


@torch.no_grad()
def _fill(teacher: LanguageModel, folder: Path) -> None:
    """Gives the layers the matrices in a folder of adapters. Raises BadModel where they are those of other layers."""
    found, layers = read_adapters(folder).layers, adapted_layers(teacher)
    if found.keys() != layers.keys():
        raise BadModel(
            f"{folder}: expected adapters of the layers of {teacher.name}: remove the folder {folder.parent}"
        )
    for name, layer in layers.items():
        a, b, _ = found[name]
        for mine, kept in ((layer.lora_A, a), (layer.lora_B, b)):
            assert isinstance(mine, nn.Parameter)
            mine.copy_(kept)
