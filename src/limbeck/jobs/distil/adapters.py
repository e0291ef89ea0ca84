"""A student that is trained by adapters (`limbeck distil --trained lora`): what goes with it, and what it costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transformers.configuration_utils import PreTrainedConfig

from limbeck.config import FULL, DistilSettings
from limbeck.errors import BadSetting
from limbeck.jobs.common.adapters import adapter_facts, planned_matrices, size_of
from limbeck.jobs.common.environment import Environment
from limbeck.jobs.distil.together import refuse_together
from limbeck.planning.cost.adapters import AdapterSize, step_flops
from limbeck.planning.cost.size import Size
from limbeck.students.adapters import AdapterPlan

_WHOLE = {*FULL, "fresh+kd"}  # baselines of which all weights are trained


@dataclass(frozen=True)
class StudentAdapters:
    """The adapters that a student is trained by, and what they cost.

    ``share``: how many numbers the run's largest training trains, as a share of the student's weights. ``whole``: FLOPs of a
    step of all weights, in those of the adapters, without the teacher's.
    """

    plan: AdapterPlan
    size: AdapterSize
    share: float
    whole: float

    @classmethod
    def of(
        cls, settings: DistilSettings, student: PreTrainedConfig, *, length: int, half: bool
    ) -> StudentAdapters | None:
        """Those of the settings for a student of this configuration, None where all weights are trained.

        ``half``: whether weights under adapters are held in two bytes, where they are not held in 4 bits.

        Raises BadSetting for a rank that is too high, BadModel for a model without linear layers.
        """
        if settings.trained == "full":
            return None
        plan = AdapterPlan(settings.rank, 2.0 * settings.rank, four_bit=settings.trained == "qlora")
        size = Size.of(student)
        name = settings.student or settings.teacher
        adapters = size_of(plan, planned_matrices(student, plan, name=name), half=half)
        share = 1.0 if _WHOLE & {*settings.compared} else adapters.numbers / size.parameters
        return cls(plan, adapters, share, step_flops(size, length) / step_flops(size, length, adapters))

    @property
    def facts(self) -> dict[str, Any]:
        """As run.json stores them."""
        return {"adapters": adapter_facts(self.plan) | {"numbers": self.size.numbers, "whole": self.whole}}


def memory_of(adapters: StudentAdapters | None) -> dict[str, Any]:
    """The arguments of an estimate about what is trained; none where all weights are."""
    return {} if adapters is None else {"trained": adapters.share, "adapters": adapters.size}


def check_adapters(settings: DistilSettings, environment: Environment) -> None:
    """Raises BadSetting for what does not go with adapters, and for what needs them where all weights are trained."""
    if settings.trained == "full":
        if "rank" in settings.model_fields_set:
            raise BadSetting(
                f"--rank {settings.rank}: it describes adapters, and all weights are trained: give --trained lora or "
                "qlora too, or leave it out"
            )
        if named := [name for name in FULL if name in settings.baselines]:
            raise BadSetting(
                f"--baselines {named[0]}: all weights are trained anyway, so it would be the same student: give --trained lora, "
                "or leave it out"
            )
        return
    refuse_together(
        f"--trained {settings.trained}",
        (
            ("--mixers", settings.mixers, "new mixers have no trained weights that could stay"),
            ("--low-rank", settings.low_rank, "its factors are narrow matrices already"),
            ("--qat", settings.qat, "the weights that are quantised would not be trained"),
            ("--rounds", settings.rounds > 1, "each round prunes weights that were trained"),
            ("--learngene", settings.learngene, "shared layers are trained as a whole"),
            ("--mesh shard", environment.world.sharded, "adapters need all weights in one process"),
            (
                "--weights-dtype",
                settings.weights_dtype != "float32",
                "it would round the weights that stay as they are",
            ),
        ),
    )
