"""The plan of `limbeck tune`, from settings and the configuration, before any weights are read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from limbeck.config import ALL_TOKENS, ANSWERS, FULL, UNMASKED, TuneSettings, flag_of
from limbeck.corpora.mask_input import MaskInput
from limbeck.corpora.mixture import Mixture, plain
from limbeck.corpora.source import resolve as resolve_source
from limbeck.errors import BadSetting
from limbeck.jobs.common.adapters import planned_matrices, size_of
from limbeck.jobs.common.environment import Environment, batch_rows, row_length
from limbeck.jobs.common.folder import signature_of
from limbeck.jobs.common.mixture import blend_of
from limbeck.jobs.common.text import columns_of
from limbeck.jobs.common.training import rule_of
from limbeck.models.configuration import load_config
from limbeck.objectives.base import Objective
from limbeck.objectives.spec import ObjectiveSpec
from limbeck.planning.cost.adapters import AdapterSize, step_flops
from limbeck.planning.cost.size import Size
from limbeck.students.adapters import AdapterPlan


@dataclass(frozen=True)
class Other:
    """Other text that is read between the data: its ``source``, its ``share`` of the rows, and their objective, None for the
    data's.
    """

    source: str
    share: float
    stay: ObjectiveSpec | None

    @classmethod
    def of(cls, settings: TuneSettings) -> Other | None:
        """The other text of the settings, None without --replay. Raises BadSetting for --stay that cannot be used."""
        if settings.replay is None:
            if settings.stay is not None:
                raise BadSetting(
                    f"--stay {settings.stay}: it is the objective of other text, of which there is none: give some with "
                    "--replay SOURCE:0.1; on the data itself --objective 'CrossEntropy + 0.1*ForwardKL' does the same"
                )
            return None
        source, _, share = settings.replay.rpartition(":")
        return cls(source, float(share), None if settings.stay is None else _stay(settings.stay))


@dataclass(frozen=True)
class TunePlan:
    """The plan of a tuning: ``steps`` of ``rows`` rows of ``length`` tokens. ``adapters`` None trains all weights.

    ``matrices``: the shapes of the weights that get an adapter. ``mask``: how tokens that are read are corrupted, None for not.
    """

    settings: TuneSettings
    objective: ObjectiveSpec
    adapters: AdapterPlan | None
    other: Other | None
    size: Size
    matrices: tuple[tuple[int, ...], ...]
    length: int
    rows: int
    steps: int
    mask: MaskInput | None = None

    @classmethod
    def of(cls, settings: TuneSettings, environment: Environment) -> TunePlan:
        """The plan of the settings. Raises a LimbeckError for settings, text or a model that do not fit."""
        rule_of(settings)
        _check_reward(settings)
        objective = ObjectiveSpec.of(settings.objective, pairs=True)
        adapters, other = adapters_of(settings), Other.of(settings)
        _check_mesh(settings, environment, adapters, other)
        _check_baselines(settings, objective)
        if objective.compares_pairs:
            _check_pairs(settings, environment)
        check_formats(settings, adapters)
        for text in filter(None, (plain(settings.data), settings.eval_data, other.source if other else None)):
            resolve_source(text, columns_of(settings))
        config = load_config(settings.student)
        context = getattr(config, "max_position_embeddings", None)
        length = row_length(settings, context, environment.world.device, name=settings.student)
        rows, steps = batch_rows(settings, length, environment.world.size)
        if other and steps * rows * other.share < 1:
            raise BadSetting(
                f"--replay {settings.replay}: of the {steps * rows} rows of this training none would be of the other text: give "
                "more --tokens, or a larger share"
            )
        blend_of(settings.data, steps=steps, rows=rows, schedule=settings.schedule)  # for its errors
        size, matrices = Size.of(config), _matrices(settings, adapters)
        mask = None if settings.mask_input is None else MaskInput.of(settings.mask_input)
        return cls(settings, objective, adapters, other, size, matrices, length, rows, steps, mask)

    @property
    def pairs(self) -> bool:
        """Whether the data are preference pairs."""
        return self.objective.compares_pairs

    @property
    def compared(self) -> tuple[str, ...]:
        """The baselines: those that are named, or those that the method, the data and the other text give a reason for."""
        if self.settings.baselines is not None:
            return self.settings.baselines
        # Who holds weights in 4 bits has no memory to train all of them.
        weights = () if self.settings.trained in ("full", "qlora") else FULL
        alone = ("data-alone",) if self.settings.replay else ()
        own = () if self.pairs or self.objective.is_cross_entropy else (ALL_TOKENS,)
        return (*(("chosen",) if self.pairs else weights), *alone, *((UNMASKED,) if self.mask else ()), *own)

    @property
    def needs_parent(self) -> bool:
        """Whether an objective is computed from the model before tuning."""
        stay = self.other.stay if self.other else None
        return self._asks or (stay is not None and stay.needs_teacher)

    @property
    def _asks(self) -> bool:
        """Whether the data's objective computes the model before tuning in each step; that of pairs did so once."""
        return self.objective.needs_teacher and not self.pairs

    def flops(self, *, adapters: bool, replay: bool, cross_entropy: bool = False) -> float:
        """FLOPs a token of a training: passes of the model and, where an objective needs them, of the model before tuning.

        Those of adapters are in `planning.cost.adapters`. ``cross_entropy``: whether that is learned in the objective's place.
        """
        own = float(self._asks and not cross_entropy)
        forward = self.size.forward_flops(self.length)
        share = self.other.share if self.other and replay else 0.0
        stay = self.other.stay if self.other else None
        asked = share * (float(stay.needs_teacher) if stay else own) + (1 - share) * own
        return forward * asked + step_flops(self.size, self.length, self.adapter_size if adapters else None)

    @property
    def adapter_size(self) -> AdapterSize | None:
        """What the adapters cost, None where all weights are trained."""
        return None if self.adapters is None else size_of(self.adapters, self.matrices)

    def own_rows(self, steps: int, *, replay: bool) -> int:
        """How many rows of so many steps are of the data; the others are of the other text, where that is read."""
        rows = steps * self.rows
        return rows - (math.floor(rows * self.other.share) if self.other and replay else 0)

    @property
    def numbers(self) -> int:
        """How many numbers the adapters have; 0 where all weights are trained."""
        return self.adapter_size.numbers if self.adapter_size else 0

    def signature(self, environment: Environment) -> dict[str, Any]:
        """All that decides the result of the run, as run.json stores it."""
        derived: dict[str, Any] = {"objective": self.objective.canonical, "length": self.length, "rows": self.rows}
        derived |= {"steps": self.steps, "bf16": environment.bf16, "baselines": list(self.compared)}
        if self.other and self.other.stay:
            derived["stay"] = self.other.stay.canonical
        codes = {
            "objective_code": self.objective.code,
            "stay_code": self.other and self.other.stay and self.other.stay.code,
        }
        return signature_of(self.settings, "tune", **derived, **{name: code for name, code in codes.items() if code})


def adapters_of(settings: TuneSettings) -> AdapterPlan | None:
    """The adapters of the settings, None where all weights are trained. Raises BadSetting for flags of the other way."""
    described = [name for name in ("rank", "alpha", "subspace") if name in settings.model_fields_set]
    for flag in described if settings.trained == "full" else ():
        if getattr(settings, flag) is not None:
            raise BadSetting(
                f"--{flag} {getattr(settings, flag)}: it describes adapters, and all weights are trained: give --trained lora "
                "or qlora too, or leave it out"
            )
    if settings.trained == "full":
        return None
    if settings.trained != "lora-xs":
        if "subspace" in described:
            raise BadSetting(
                f"--subspace {settings.subspace}: it is where lora-xs freezes the adapters' matrices, and {settings.trained} "
                "trains them: give --trained lora-xs, or leave it out"
            )
        alpha = 2.0 * settings.rank if settings.alpha is None else settings.alpha
        return AdapterPlan(settings.rank, alpha, four_bit=settings.trained == "qlora")
    return AdapterPlan(settings.rank, settings.alpha or settings.rank, settings.subspace)


def check_formats(settings: TuneSettings, adapters: AdapterPlan | None) -> None:
    """Raises BadSetting for weights in a narrow format beside adapters."""
    if adapters is not None and settings.weights_dtype != "float32":
        raise BadSetting(
            f"--weights-dtype {settings.weights_dtype} does not go with --trained {settings.trained}: it would round the "
            "frozen weights that the adapters belong to, and saves little where few numbers are trained: leave it out"
        )


def _matrices(settings: TuneSettings, adapters: AdapterPlan | None) -> tuple[tuple[int, ...], ...]:
    """The shapes of the weights that get an adapter, none without; from the configuration, before weights are read."""
    if adapters is None:
        return ()
    return planned_matrices(load_config(settings.student), adapters, name=settings.student)


def _stay(text: str) -> ObjectiveSpec:
    """The objective of other text. Raises BadSetting for one that changes while it trains."""
    spec = ObjectiveSpec.of(text)
    objective = spec.make()
    if objective.state_dict() or any(isinstance(part, Objective) and part.follows for part in objective.modules()):
        raise BadSetting(
            f"--stay {text}: expected an objective that is the same in all steps, such as ForwardKL or 0.1*ReverseKL; this one "
            "follows the training's progress"
        )
    return spec


def _check_reward(settings: TuneSettings) -> None:
    """Raises BadSetting for settings of a reward where there is none."""
    for name in ("samples", "rollout_tokens"):
        if name in settings.model_fields_set:
            raise BadSetting(
                f"{flag_of(TuneSettings, name)}: it says how answers are sampled for a reward: add --reward checks, or leave it "
                "out"
            )


def _check_mesh(
    settings: TuneSettings, environment: Environment, adapters: AdapterPlan | None, other: Other | None
) -> None:
    """Raises BadSetting for what needs all weights in one process where the mesh spreads them."""
    if not environment.world.sharded:
        return
    stay = other is not None and other.stay is not None
    for flag, given in ((f"--trained {settings.trained}", adapters is not None), ("--stay", stay)):
        if given:
            raise BadSetting(
                f"{flag} needs all weights in one process, and --mesh {settings.mesh} spreads them: leave one of the two out"
            )


def _check_pairs(settings: TuneSettings, environment: Environment) -> None:
    """Raises BadSetting for what does not go with an objective of pairs."""
    what = f"--objective {settings.objective} compares two completions of a prompt, "
    if Mixture.of(settings.data) is not None:
        raise BadSetting(
            f"{what}and --data with weights is not read as pairs: give one source, or several joined by commas"
        )
    if settings.eval_every is not None or isinstance(settings.lr, tuple):
        flag = "--eval-every" if settings.eval_every is not None else "several rates in --lr"
        raise BadSetting(
            f"{what}and {flag} would choose by the loss on the preferred ones, which such a training may raise: leave it out"
        )
    if "long_conversations" in settings.model_fields_set and settings.replay is None:
        raise BadSetting(
            f"{what}and --long-conversations {settings.long_conversations} would change nothing: pairs longer than a row are "
            "left out, never split: leave it out, or give a larger --seq-len"
        )
    if settings.mask_input is not None:
        raise BadSetting(f"{what}and of masked input both would be those of another text: leave --mask-input out")
    if environment.world.sharded:
        raise BadSetting(
            f"{what}which needs all weights in one process, and --mesh {settings.mesh} spreads them: leave it out"
        )


def _check_baselines(settings: TuneSettings, objective: ObjectiveSpec) -> None:
    """Raises BadSetting for a baseline that would be the tuned model itself, or has nothing to learn."""
    for name in settings.baselines or ():
        if name == ANSWERS:
            raise BadSetting(
                f"--baselines {ANSWERS}: it learns the answers of prompts whose checks are the reward: give --reward checks, or "
                "leave it out"
            )
        if name == ALL_TOKENS and (objective.is_cross_entropy or objective.compares_pairs):
            same = "with pairs that is chosen" if objective.compares_pairs else "it would be the same model"
            raise BadSetting(
                f"--baselines {ALL_TOKENS}: it learns by cross-entropy where --objective is another, and {same}: leave it out"
            )
        if name == "chosen" and not objective.compares_pairs:
            raise BadSetting(
                "--baselines chosen: it learns the preferred side of pairs, and this objective has none: give --objective DPO, "
                "or leave it out"
            )
        if name.startswith("full") and settings.trained == "full":
            raise BadSetting(
                f"--baselines {name}: all weights are trained anyway, so it would be the same model: give --trained lora, or "
                "leave it out"
            )
        if name == "data-alone" and settings.replay is None:
            raise BadSetting(
                "--baselines data-alone: no other text is read, so it would be the same model: give some with --replay, or leave "
                "it out"
            )
        if name == UNMASKED and settings.mask_input is None:
            raise BadSetting(
                f"--baselines {UNMASKED}: no token is masked, so it would be the same model: give --mask-input, or leave it out"
            )
