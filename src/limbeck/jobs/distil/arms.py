"""The arms of a comparison: the student, and what the same money would otherwise have bought.

An arm is a folder of its own: it continues where it was stopped, and one that has its model is done.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from limbeck.config import ATTENTION
from limbeck.corpora import Rows, TokenStore
from limbeck.corpora.pack import Start
from limbeck.disk import link_or_copy, whole_folder
from limbeck.jobs.common.environment import Environment
from limbeck.jobs.distil.plan import DistilPlan
from limbeck.models.build import new_model
from limbeck.models.configuration import load_config
from limbeck.models.language_model import LanguageModel
from limbeck.models.load import load, verified_folder
from limbeck.models.save import round_to, save
from limbeck.objectives import CrossEntropy
from limbeck.objectives.spec import ObjectiveSpec
from limbeck.run.lockstep import train_lockstep
from limbeck.run.mesh import Mesh
from limbeck.run.run import Plan, Run
from limbeck.run.save import checkpoints
from limbeck.run.watch import Watch
from limbeck.types import Batch, ChunkTeacher, Teacher

CE = ObjectiveSpec("CrossEntropy", CrossEntropy())


@dataclass(frozen=True)
class Arm:
    """One training run of the comparison. ``fresh`` arms start from random weights, the others from the cut student.

    ``start`` is another model to start from. ``member`` is which student of a family it belongs to. ``taken`` are the steps that
    what it starts from has taken of the same text: it goes on reading behind them.
    """

    name: str
    seed: int
    folder: Path
    objective: ObjectiveSpec
    steps: int
    fresh: bool = False
    member: str = ""
    start: Path | None = None
    taken: int = 0

    @property
    def student(self) -> Path:
        """Where its model is, once it is done."""
        return self.folder / "student"

    @property
    def done(self) -> bool:
        """Whether it has run to its end."""
        return (self.student / "config.json").exists()

    @property
    def label(self) -> str:
        """The label of the progress bar."""
        return f"{self.member} {self.name} #{self.seed}".strip()


def arms_of(plan: DistilPlan, *, flops_steps: int, member: str = "") -> list[Arm]:
    """All arms of a plan, the student of the first seed first: whoever stops early has what they came for.

    ``flops_steps`` is how many steps of cross-entropy cost as many FLOPs as those of the student. Steps that a conversion took
    are taken already by what starts from the converted student; other starts take all. ``member``: the student's name in a sweep.
    """
    settings, objective = plan.request.settings, plan.request.objective
    out, steps, matched = settings.out, plan.budget.steps, plan.matched
    seeds = range(settings.seed, settings.seed + settings.seeds)
    arms = []
    for seed in seeds:
        folder = out if seed == seeds[0] else out / "seeds" / f"seed{seed}"
        arms.append(Arm("student", seed, folder, objective, steps - matched, taken=matched))
    for seed in seeds:
        for name in settings.compared:
            if name == "cut" or (name.startswith("cut+ce") and not objective.needs_teacher):
                continue  # needs no training; is what the student itself does
            arm = Arm(name, seed, out / "baselines" / f"{name}-seed{seed}", CE, steps - matched, taken=matched)
            if name == "fresh+kd":
                arm = replace(arm, objective=objective, fresh=True, steps=steps, taken=0)
            if name == ATTENTION:
                arm = replace(arm, objective=objective, start=out / ATTENTION, steps=steps, taken=0)
            if name == "cut+ce@flops":
                arm = replace(arm, steps=flops_steps)
            arms.append(arm)
    return [replace(arm, member=member) for arm in arms]


@dataclass(frozen=True)
class Shared:
    """What all arms of a comparison have in common: the student they start from, its teacher, text, plan and machine.

    ``most_rows`` of the text are read, where the teacher has logits of no more, by arms that take more steps all of it if they
    are to ``reads_on``; ``counted`` takes weight from where it has none, for the arms without a teacher too, so
    that all learn the same tokens. ``common``: a seed, and how many rows of its order those of all seeds begin with.
    ``stored``: the number format of the files of what is trained, in float32. ``fresh_rate``: the peak rate of what starts from
    random weights, where it is another than the plan's. ``watch``: what is measured while they are trained.
    """

    cut: Path
    teacher: Teacher | ChunkTeacher
    store: TokenStore
    length: int
    plan: Plan
    environment: Environment
    most_rows: int | None = None
    counted: Callable[[Batch], Batch] = lambda batch: batch
    reads_on: bool = False
    common: tuple[int, int] = (0, 0)
    stored: torch.dtype = torch.float32
    fresh_rate: float | None = None
    watch: Watch | None = None

    def run(self, arm: Arm) -> Run:
        """The run of an arm, its student as it begins."""
        world = self.environment.world
        start = load(verified_folder(arm.start or self.cut), device="cpu", train=True)
        if arm.fresh:
            packs = start.packs  # as its architecture does
            start = new_model(load_config(self.cut), start.tokenizer, arm.seed, name=arm.name)
            start.packs = packs
        start.model.to(world.device)
        corpus = Rows(
            self.store,
            length=self.length,
            seed=arm.seed,
            ranks=world,
            most=None if self.reads_on and arm.steps > self.plan.steps else self.most_rows,
            counted=self.counted,
            start=Start(arm.taken * self.plan.rows, self.common),
        )
        objective = arm.objective.make()
        teacher = self.teacher if objective.needs_teacher else None
        lr = self.fresh_rate if arm.fresh and self.fresh_rate else self.plan.lr
        plan = replace(self.plan, steps=arm.steps, lr=lr)
        watch = self.watch.until(arm.steps) if self.watch else None
        return Run(arm.folder, arm.label, start, teacher, corpus, objective, plan, world, watch=watch)


def train(arm: Arm, shared: Shared, *, after: float = 0.0) -> LanguageModel:
    """The trained model of an arm, from disk if it is done. Other arms are expected to take ``after`` seconds more."""
    world = shared.environment.world
    if arm.done:
        _drop_checkpoints(arm, world)
        return load(verified_folder(arm.student), device=world.device)
    run = shared.run(arm)
    run.after = after
    run.train()
    return _finish(arm, run, shared.stored)


def train_members(members: Sequence[tuple[Arm, Shared]], *, label: str, after: float = 0.0) -> None:
    """Trains arms that learn from one teacher on the same rows, in lockstep: its forward pass serves all.

    Other arms are expected to take ``after`` seconds more.
    """
    runs = [(arm, shared.run(arm), shared.stored) for arm, shared in members if not arm.done]
    if runs:
        runs[0][1].after = after  # whose progress is shown
        train_lockstep([run for _, run, _ in runs], label=label)
    for arm, run, stored in runs:
        _finish(arm, run, stored)


def take_over(arm: Arm, twin: Arm) -> None:
    """Gives an arm what another of the same start, rows, steps and objective came to, if that is done and it is not."""
    if arm.done or not twin.done:
        return
    for name in ("metrics.jsonl", "held_out.jsonl"):
        if (twin.folder / name).exists():
            link_or_copy(twin.folder / name, arm.folder / name)
    with whole_folder(arm.student) as beside:
        link_or_copy(twin.student, beside)


def _finish(arm: Arm, run: Run, stored: torch.dtype) -> LanguageModel:
    """Saves what was trained, rounded to a number format on every rank, and drops what a run needs to continue."""
    world, trained = run.world, run.student
    trained.model.requires_grad_(False)
    trained.model.zero_grad(set_to_none=True)
    kept = round_to(trained, stored)
    if world.first:
        save(trained, arm.student, dtype=kept)
    _drop_checkpoints(arm, world)
    world.barrier()
    return trained


def _drop_checkpoints(arm: Arm, world: Mesh) -> None:
    """Removes the checkpoints of an arm that is done: three times the model's size, and of no further use."""
    if world.first:
        for checkpoint in checkpoints(arm.folder):
            shutil.rmtree(checkpoint, ignore_errors=True)
