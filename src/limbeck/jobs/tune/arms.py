"""The trainings of `limbeck tune`: the tuned model, and what else its tokens or its compute would have bought."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from limbeck.config import ALL_TOKENS, UNMASKED
from limbeck.corpora import Rows, TokenStore
from limbeck.corpora.mask_input import MaskedInputs
from limbeck.corpora.opening import begin_with
from limbeck.corpora.pack import ALONE, Ranks
from limbeck.corpora.pair_rows import each_counts_once, rows_count_once
from limbeck.corpora.replay import Replay
from limbeck.jobs.common.adapters import ADAPTER, adapt_to_train, load_to_train
from limbeck.jobs.common.environment import Environment
from limbeck.jobs.common.mixture import blend_of
from limbeck.jobs.common.trained import write_training
from limbeck.jobs.tune.plan import TunePlan
from limbeck.jobs.tune.reference import Reference
from limbeck.jobs.tune.subspace import FILE, ROWS, subspaces_of
from limbeck.models.language_model import LanguageModel
from limbeck.models.save import round_to, save
from limbeck.objectives import CrossEntropy
from limbeck.objectives.base import Objective
from limbeck.run.mesh import Mesh
from limbeck.run.optim import learning_rate
from limbeck.run.replay import ReplayStep
from limbeck.run.run import Plan, Run
from limbeck.run.save import checkpoints, drop_best
from limbeck.run.selection import Rule
from limbeck.run.step import Step, train_step
from limbeck.run.trackers import Tracked
from limbeck.run.watch import Watch
from limbeck.students.adapter_files import write_adapters
from limbeck.students.adapters import AdapterPlan, Subspace, merge
from limbeck.types import Corpus

OF_PAIRS = 0.1  # of the rate of cross-entropy; TRL's default for DPO is a twentieth of that for it, 1e-6 and 2e-5


@dataclass(frozen=True)
class Arm:
    """One training. ``adapters``: whether adapters alone are trained; ``replay``: whether it reads the other text.

    ``pairs``: whether it learns preference pairs. ``masked``: whether it reads corrupted tokens of the data. ``cross_entropy``:
    whether it learns by that in place of the objective.
    """

    name: str
    seed: int
    folder: Path
    steps: int
    adapters: bool
    replay: bool
    pairs: bool = False
    masked: bool = False
    cross_entropy: bool = False

    @property
    def student(self) -> Path:
        """The folder of the tuned model; it exists once the arm is done."""
        return self.folder / "student"

    @property
    def done(self) -> bool:
        """Whether the training is finished and the model saved."""
        return (self.student / "config.json").exists()

    @property
    def label(self) -> str:
        """The label of the progress bar."""
        return f"{self.name} #{self.seed}"


_OTHERWISE: dict[str, dict[str, Any]] = {  # what a baseline does otherwise than the tuned model
    "full": {"adapters": False},
    "full@flops": {"adapters": False},
    "data-alone": {"replay": False},
    "chosen": {"pairs": False},
    UNMASKED: {"masked": False},
    ALL_TOKENS: {"cross_entropy": True},
}


def arms_of(plan: TunePlan) -> list[Arm]:
    """All trainings, the tuned model of the first seed first."""
    settings, out = plan.settings, plan.settings.out
    seeds = range(settings.seed, settings.seed + settings.seeds)
    how = plan.adapters is not None, plan.other is not None, plan.pairs, plan.mask is not None
    arms = []
    for seed in seeds:
        folder = out if seed == seeds[0] else out / "seeds" / f"seed{seed}"
        arms.append(Arm("student", seed, folder, plan.steps, *how))
    uses, reads, *_ = how
    cheaper = plan.flops(adapters=uses, replay=reads) / plan.flops(adapters=False, replay=reads)
    for seed in seeds:
        for name in plan.compared:
            folder = out / "baselines" / f"{name}-seed{seed}"
            arm = replace(Arm(name, seed, folder, plan.steps, *how), **_OTHERWISE[name])
            if name == "full@flops":
                arm = replace(arm, steps=max(1, round(plan.steps * cheaper)))
            arms.append(arm)
    return arms


@dataclass(frozen=True)
class Shared:
    """What all trainings share: the model they start from, its folder, their texts, plan and environment.

    ``begin``: the token that documents begin with. ``held_out`` is that of the data. ``rates``: peak learning rates of adapters
    (True) and of all weights. ``parent``: the model before tuning, where an objective needs it. ``reference``: its
    log-probabilities of preference pairs, of which ``preferred`` are the preferred sides. ``stored``: the number format of the
    saved models. ``vocab``: tokens of the model's vocabulary.
    """

    plan: TunePlan
    start: Path
    begin: str | None
    training: Plan
    rates: Mapping[bool, float]
    store: TokenStore
    held_out: TokenStore
    other: TokenStore | None
    environment: Environment
    parent: LanguageModel | None
    stored: torch.dtype
    vocab: int
    reference: Reference | None = None
    preferred: TokenStore | None = None
    watch: Watch | None = None
    rule: Rule | None = None
    tracked: Tracked | None = None

    def model(self, arm: Arm) -> LanguageModel:
        """The model that an arm trains, before its first step."""
        world, adapters = self.environment.world, self.plan.adapters if arm.adapters else None
        model = load_to_train(self.start, world, adapters)
        begin_with(model, self.begin)
        if adapters is not None:
            inside = self._subspaces(arm, model) if adapters.subspace else None
            adapt_to_train(model, world, adapters, seed=arm.seed, bf16=self.training.bf16, subspaces=inside)
        if arm.pairs:
            without_dropout(model)
        return model

    def _subspaces(self, arm: Arm, model: LanguageModel) -> dict[str, Subspace]:
        """Where the adapters of an arm are frozen, from the first rows that it reads of the data."""
        assert self.plan.adapters is not None
        training, rows = self.training, self.rows(arm)
        objective = self.objective(arm)
        objective.begin(arm.steps)
        first = learning_rate(
            0, steps=arm.steps, peak=self.rate(arm), schedule=training.schedule, warmup=training.warmup
        )
        return subspaces_of(
            model,
            self.plan.adapters,
            lambda: rows.take(min(ROWS, rows.n_rows)),
            objective=objective.to(model.device),
            teacher=self.teacher(arm),
            step=first,
            seed=arm.seed,
            folder=arm.folder,
            world=self.environment.world,
        )

    def corpus(self, arm: Arm) -> Corpus:
        """The rows that an arm reads, of the data and of the other text."""
        world = self.environment.world
        rows: Rows | MaskedInputs = self.rows(arm, world)
        if arm.masked and self.plan.mask is not None:
            rows = MaskedInputs(
                rows, self.plan.mask.over(self.plan.own_rows(arm.steps, replay=arm.replay), vocab=self.vocab)
            )
        if not arm.replay:
            return rows
        assert self.plan.other is not None
        assert self.other is not None
        counted: dict[str, Any] = {"counted": rows_count_once} if arm.pairs else {}
        return Replay(rows, self.other, self.plan.other.share, world, **counted)

    def rows(self, arm: Arm, ranks: Ranks = ALONE) -> Rows:
        """The rows that an arm reads of the data; stages of a mixture begin after fewer of them where others are read between."""
        plan = self.plan
        blend = blend_of(plan.settings.data, steps=arm.steps, rows=plan.rows, schedule=self.training.schedule)
        if blend is not None and arm.replay and plan.other is not None:
            share = plan.other.share
            blend = replace(blend, first=tuple(first - math.floor(first * share) for first in blend.first))
        how: dict[str, Any] = {"length": plan.length, "seed": arm.seed, "ranks": ranks, "blend": blend}
        if arm.pairs:
            return Rows(self.store, counted=each_counts_once, **how)
        return Rows(self.preferred or self.store, **how)

    def objective(self, arm: Arm) -> Objective:
        """A new objective for an arm's rows of the data."""
        other = arm.cross_entropy or (self.plan.pairs and not arm.pairs)
        return CrossEntropy() if other else self.plan.objective.make()

    def teacher(self, arm: Arm) -> LanguageModel | Reference | None:
        """The teacher of that objective."""
        if arm.pairs:
            return self.reference
        return self.parent if self.objective(arm).needs_teacher else None

    def rate(self, arm: Arm) -> float:
        """The peak learning rate of an arm; cross-entropy on the preferred side of pairs has that of cross-entropy."""
        rate = self.rates[arm.adapters]
        return rate if arm.pairs == self.plan.pairs else min(1.0, rate / OF_PAIRS)

    def run(self, arm: Arm) -> Run:
        """The training of an arm."""
        world, corpus = self.environment.world, self.corpus(arm)
        objective, teacher = self.objective(arm), self.teacher(arm)
        training = replace(self.training, steps=arm.steps, lr=self.rate(arm))
        tracked = replace(self.tracked, name=f"{arm.name}-seed{arm.seed}") if self.tracked else None
        watch = self.watch.until(arm.steps) if self.watch else None
        how: dict[str, Any] = {
            "watch": watch,
            "rule": self.rule,
            "tracked": tracked,
            "update": self._update(arm, corpus, objective),
        }
        return Run(arm.folder, arm.label, self.model(arm), teacher, corpus, objective, training, world, **how)

    def _update(self, arm: Arm, corpus: Corpus, own: Objective) -> Callable[..., Step]:
        stay = self.plan.other.stay if self.plan.other else None
        if not isinstance(corpus, Replay) or (stay is None and not arm.pairs):
            return train_step
        objective = stay.make() if stay else CrossEntropy()  # other text has no pairs
        objective.begin(self.plan.steps)
        return ReplayStep(own, objective.to(self.environment.world.device), self.parent, corpus.is_other)


def without_dropout(model: LanguageModel) -> None:
    """Switches dropout off: with it a model has other log-probabilities than the reference before its first step."""
    for module in model.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        elif isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0


@dataclass(frozen=True)
class Saving:
    """How tuned models are saved: the model that was tuned, its name and folder, the adapters, and the number format."""

    base: str
    folder: Path
    adapters: AdapterPlan | None
    stored: torch.dtype


def train(arm: Arm, shared: Shared) -> None:
    """Trains an arm unless it is done, and saves its model, with adapters merged into it; on all ranks."""
    plan = shared.plan
    saving = Saving(plan.settings.student, shared.start, plan.adapters, shared.stored)
    train_once(arm, lambda: shared.run(arm), saving, shared.environment.world)


def train_once(arm: Arm, begun: Callable[[], Run], saving: Saving, world: Mesh) -> None:
    """Trains what ``begun`` gives unless the arm is done, and saves its model; on all ranks."""
    if not arm.done:
        run = begun()
        run.train()
        _save(arm, run, saving)
    if world.first:
        drop_best(arm.folder)
        (arm.folder / FILE).unlink(missing_ok=True)
        for checkpoint in checkpoints(arm.folder):
            shutil.rmtree(checkpoint, ignore_errors=True)
    world.barrier()


def _save(arm: Arm, run: Run, saving: Saving) -> None:
    world, trained = run.world, run.student
    trained.model.requires_grad_(False)
    trained.model.zero_grad(set_to_none=True)
    if world.first and run.rule is not None:
        write_training(run)
    whole = world.gathered(trained)
    if whole is None or not world.first:
        return
    whole.model.to("cpu")
    if arm.adapters:
        assert saving.adapters is not None
        how: dict[str, Any] = {"base": saving.base, "base_folder": saving.folder}
        write_adapters(whole, saving.adapters, arm.folder / ADAPTER, **how)
        merge(whole)
        whole.model.requires_grad_(False)
    save(whole, arm.student, dtype=round_to(whole, saving.stored))
