"""The arms of a comparison: the student, and the baselines that the same compute would have bought.

Each arm has its own folder. A stopped arm continues in it, and an arm whose folder holds its model is done.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from limbeck.config import ATTENTION, FULL, LAYERS, OFF_POLICY, ONE_TEACHER, PTQ, UNCORRECTED, UNMASKED
from limbeck.corpora import Rows, TokenStore
from limbeck.corpora.mask_input import MaskedInputs, MaskInput
from limbeck.corpora.pack import Blend, Start
from limbeck.disk import link_or_copy, whole_folder
from limbeck.generation.rollouts import RolloutPlan, Rollouts
from limbeck.jobs.common.adapters import ADAPTER, LINEAGE, adapt_to_train, adapter_facts, held_in_4_bits, load_to_train
from limbeck.jobs.common.environment import Environment
from limbeck.jobs.common.mixture import blend_of
from limbeck.jobs.common.trained import TRAINING, place_best, write_training
from limbeck.jobs.distil.overlap import OwnTexts
from limbeck.jobs.distil.plan import DistilPlan
from limbeck.models.build import new_model
from limbeck.models.configuration import load_config
from limbeck.models.gguf.quantiser import Quantiser
from limbeck.models.language_model import LanguageModel
from limbeck.models.load import verified_folder
from limbeck.models.save import round_to, save
from limbeck.objectives import CrossEntropy
from limbeck.objectives.spec import ObjectiveSpec
from limbeck.run.lockstep import train_lockstep
from limbeck.run.log import console
from limbeck.run.routed import EqualDomains, RoutedStep
from limbeck.run.run import Plan, Run
from limbeck.run.save import checkpoints, drop_best
from limbeck.run.selection import Limit, Rule
from limbeck.run.served_rollouts import ServedLink, ServedRollouts
from limbeck.run.step import Step, train_step
from limbeck.run.trackers import Tracked
from limbeck.run.watch import Watch
from limbeck.students.adapter_files import write_adapters
from limbeck.students.adapters import AdapterPlan, merge
from limbeck.teachers.cache import LogitCache
from limbeck.teachers.routed import RoutedTeacher
from limbeck.types import Batch, ChunkTeacher, Teacher

CE = ObjectiveSpec("CrossEntropy", CrossEntropy())


@dataclass(frozen=True)
class Arm:
    """One training run of the comparison. ``fresh`` arms start from random weights, the others from the pruned student.

    ``start`` is another model to start from. ``member`` is the name of its student in a sweep. ``taken`` is how many steps were
    already trained on the same text before: reading begins after the rows of those steps. ``on_policy``: whether it generates
    rows itself where the student does. ``adapters``: whether adapters alone are trained. ``plain_teacher``: whether
    its teacher is the one as given, where that is tuned first, and the first for all rows, where there are several.
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
    on_policy: bool = False
    adapters: bool = False
    plain_teacher: bool = False

    @property
    def student(self) -> Path:
        """The folder of the trained model; it exists once the arm is done."""
        return self.folder / "student"

    @property
    def done(self) -> bool:
        """Whether the training is finished and the model saved."""
        return (self.student / "config.json").exists()

    @property
    def label(self) -> str:
        """The label of the progress bar."""
        return f"{self.member} {self.name} #{self.seed}".strip()


def arms_of(
    plan: DistilPlan,
    *,
    flops_steps: int,
    off_policy_steps: int = 0,
    full_steps: int = 0,
    uncorrected_steps: int = 0,
    one_teacher_steps: int = 0,
    member: str = "",
) -> list[Arm]:
    """All arms of a plan, the student of the first seed first, so that a run that is stopped early has its main result.

    ``flops_steps`` is how many steps of cross-entropy cost as many FLOPs as the student's steps, ``off_policy_steps`` how many of
    the same distillation do in which it generates nothing, ``full_steps`` those of all weights where adapters are trained,
    ``uncorrected_steps`` those from the teacher as given where it is tuned first, ``one_teacher_steps`` those from the first of
    several teachers.
    Arms that start from a converted student are trained for fewer steps, by those of the conversion, and so are those from shared
    layers; other arms for all. ``member``: the student's name in a sweep.
    """
    settings, objective = plan.request.settings, plan.request.objective
    out, steps, matched, taken = settings.out, plan.budget.steps, plan.matched, plan.taken
    seeds, by_adapters = range(settings.seed, settings.seed + settings.seeds), plan.adapters is not None
    arms = []
    for seed in seeds:
        folder = out if seed == seeds[0] else out / "seeds" / f"seed{seed}"
        arms.append(Arm("student", seed, folder, objective, steps - matched, taken=taken, on_policy=True))
        arms[-1] = replace(arms[-1], adapters=by_adapters)
    for seed in seeds:
        for name in settings.compared:
            if name == "cut" or (name == "cut+ce" and objective.is_cross_entropy):
                continue  # cut needs no training; cut+ce would repeat the student
            if name == "cut+ce@flops" and not objective.needs_teacher:
                continue  # equal tokens are equal compute
            if name == "one-teacher@flops" and one_teacher_steps == steps and "one-teacher" in settings.compared:
                continue  # teachers of one size: equal tokens are equal compute
            arm = Arm(name, seed, out / "baselines" / f"{name}-seed{seed}", CE, steps - matched, taken=taken)
            arm = replace(arm, adapters=by_adapters and name not in (*FULL, "fresh+kd"))
            if name == "fresh+kd":
                arm = replace(arm, objective=objective, fresh=True, steps=steps, taken=0, on_policy=True)
            if name in (ATTENTION, LAYERS):
                arm = replace(arm, objective=objective, start=out / name, steps=steps, taken=0, on_policy=True)
            if name in (PTQ, UNMASKED, *OFF_POLICY):
                arm = replace(arm, objective=objective)
            if name in FULL:
                arm = replace(arm, objective=objective, on_policy=True)
            if name == "full@flops":
                arm = replace(arm, steps=full_steps)
            if name in (*UNCORRECTED, *ONE_TEACHER):
                arm = replace(arm, objective=objective, on_policy=True, plain_teacher=True)
            if name == "uncorrected@flops":
                arm = replace(arm, steps=uncorrected_steps)
            if name == "one-teacher@flops":
                arm = replace(arm, steps=one_teacher_steps)
            if name == "off-policy@flops":
                arm = replace(arm, steps=off_policy_steps)
            if name == "cut+ce@flops":
                arm = replace(arm, steps=flops_steps)
            arms.append(arm)
    return [replace(arm, member=member) for arm in arms]


@dataclass(frozen=True)
class Shared:
    """The values that all arms of a comparison share: the student they start from, its teacher, text, plan and environment.

    ``most_rows`` limits the rows that are read to those with teacher logits; with ``reads_on``, arms with more steps than the
    plan read all rows. ``counted`` sets the weight of tokens without logits to 0, for arms without a teacher too, so that
    all learn from the same tokens. ``common``: a seed, and how many rows of its order come first for all seeds. ``stored``: the
    number format of the saved models; training is in float32. ``fresh_rate``: the peak learning rate from random weights, None
    for the plan's. ``watch``: what is measured during the trainings, ``rule``: what follows from that, ``tracked``: how a
    tracker shows them. ``quantiser``: with what weights arms compute, but ptq, whose weights are replaced after its training;
    None for their own. ``data`` is the value of --data, which may be a mixture. ``rollouts``: how arms generate
    rows themselves; ``link``: the server that judges these, None for the teacher itself. ``mask``: how tokens are corrupted
    where a student with ``vocab`` tokens reads them; the arm `UNMASKED` reads all as they are. ``adapters``: those of arms that
    train no weights; ``full_rate``: the peak learning rate of arms that train all weights where the student does not, None for
    the plan's. ``plain_teacher``: that of arms which have another than the student: a corrected teacher as it was given, or the
    first of several. ``own_texts``: measures what on-policy arms generate meanwhile, ``limits``: within what that of the
    student stays, else its training ends. ``equal_domains``: the rows of each of several teachers have the same share of a
    step's loss, in all arms.
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
    rule: Rule | None = None
    tracked: Tracked | None = None
    quantiser: Quantiser | None = None
    data: str = ""
    rollouts: RolloutPlan | None = None
    link: ServedLink | None = None
    mask: MaskInput | None = None
    vocab: int = 0
    adapters: AdapterPlan | None = None
    full_rate: float | None = None
    plain_teacher: Teacher | None = None
    own_texts: OwnTexts | None = None
    limits: tuple[Limit, ...] = ()
    equal_domains: bool = False

    def close(self) -> None:
        """Closes what a run of an arm may have opened; the next run opens it again."""
        if self.link is not None:
            self.link.close()

    def blend(self, steps: int) -> Blend | None:
        """How rows are shared among the sources of a mixture over ``steps`` steps, those before this training among them."""
        return blend_of(self.data, steps=steps, rows=self.plan.rows, schedule=self.plan.schedule) if self.data else None

    def _rate(self, arm: Arm) -> float:
        """The peak learning rate of an arm."""
        if arm.fresh and self.fresh_rate:
            return self.fresh_rate
        return self.full_rate if self.full_rate and not arm.adapters else self.plan.lr

    def run(self, arm: Arm) -> Run:
        """The training run of an arm, with its student before the first step."""
        world = self.environment.world
        adapters = self.adapters if arm.adapters else None
        start = load_to_train(verified_folder(arm.start or self.cut), world, adapters)
        if arm.fresh:
            packs = start.packs  # a property of the architecture
            start = new_model(load_config(self.cut), start.tokenizer, arm.seed, name=arm.name)
            start.packs = packs
            world.place(start, train=True)
        if adapters is not None:
            adapt_to_train(start, world, adapters, seed=arm.seed, bf16=self.plan.bf16)
        rows = self._rows(arm)
        objective = arm.objective.make()
        queried = self.plain_teacher if arm.plain_teacher else self.teacher
        teacher = queried if objective.needs_teacher else None
        plan = replace(self.plan, steps=arm.steps, lr=self._rate(arm))
        watch = self.watch.until(arm.steps) if self.watch else None
        update: Callable[..., Step] = train_step
        if self.quantiser and arm.name != PTQ:
            weights = partial(self.quantiser.values, start.model)
            watch, update = replace(watch, weights=weights) if watch else None, partial(train_step, weights=weights)
        if isinstance(teacher, RoutedTeacher):
            update = RoutedStep(teacher, update)
        if self.equal_domains:
            assert isinstance(self.teacher, RoutedTeacher), "checked by check_domains"
            update = EqualDomains(self.teacher.route, len(self.teacher.teachers), update)
        tracked = replace(self.tracked, name=f"{arm.name}-seed{arm.seed}") if self.tracked else None
        how: dict[str, Any] = {"update": update, "watch": watch, "rule": self.rule, "tracked": tracked}
        if self.rollouts is None or not arm.on_policy:
            return Run(arm.folder, arm.label, start, teacher, rows, objective, plan, world, **how)
        how["watch"] = replace(watch, own=self.own_texts) if watch else None
        if self.rule is not None and arm.name == "student":  # a baseline has another start, or another teacher
            how["rule"] = replace(self.rule, limits=self.limits)
        own = self.rollouts.over(arm.taken * plan.rows, arm.steps * plan.rows)
        assert isinstance(rows, Rows), "masked input does not go with rollouts"
        generated = Rollouts(rows, start, own, bf16=plan.bf16)
        corpus: Rollouts | ServedRollouts = generated
        if self.link is not None:
            assert isinstance(teacher, LogitCache), "of a model on a server the text's logits are captured before"
            teacher = corpus = ServedRollouts(generated, teacher, self.link)
        return Run(arm.folder, arm.label, start, teacher, corpus, objective, plan, world, facts=corpus.facts, **how)

    def _rows(self, arm: Arm) -> Rows | MaskedInputs:
        """The rows of the text that an arm reads."""
        over = max(arm.taken + arm.steps, self.plan.steps)  # a round of pruning ends before the plan
        rows = Rows(
            self.store,
            length=self.length,
            seed=arm.seed,
            ranks=self.environment.world,
            most=None if self.reads_on and arm.steps > self.plan.steps else self.most_rows,
            counted=self.counted,
            start=Start(arm.taken * self.plan.rows, self.common),
            blend=self.blend(over),
        )
        if self.mask is None or arm.name == UNMASKED:
            return rows
        return MaskedInputs(rows, self.mask.over(over * self.plan.rows, vocab=self.vocab))


def train(arm: Arm, shared: Shared, *, after: float = 0.0) -> LanguageModel:
    """The trained model of an arm, from disk if it is done. ``after``: expected seconds of the arms that follow."""
    world = shared.environment.world
    if arm.done:
        _clean(arm, shared)
        return world.load(verified_folder(arm.student), dtype=shared.environment.measured_in)
    run = shared.run(arm)
    run.after = after
    try:
        run.train()
    finally:
        shared.close()
    return _finish(arm, run, shared)


def train_members(members: Sequence[tuple[Arm, Shared]], *, label: str, after: float = 0.0) -> None:
    """Trains arms with one teacher and the same rows in lockstep: one forward pass of the teacher serves all.

    ``after``: expected seconds of the arms that follow.
    """
    runs = [(arm, shared.run(arm), shared) for arm, shared in members if not arm.done]
    if runs:
        runs[0][1].after = after  # the run whose progress is shown
        train_lockstep([run for _, run, _ in runs], label=label)
    for arm, run, shared in runs:
        _finish(arm, run, shared)


def take_over(arm: Arm, twin: Arm) -> None:
    """Links the result of ``twin``, an arm of the same start, rows, steps and objective, if it is done and ``arm`` is not."""
    if arm.done or not twin.done:
        return
    for name in ("metrics.jsonl", "held_out.jsonl", TRAINING, ADAPTER):
        if (twin.folder / name).exists():
            link_or_copy(twin.folder / name, arm.folder / name)
    with whole_folder(arm.student) as beside:
        link_or_copy(twin.student, beside)


def _finish(arm: Arm, run: Run, shared: Shared) -> LanguageModel:
    """Saves the trained model, quantised or rounded to its number format on every rank, and removes its checkpoints."""
    world, trained = run.world, run.student
    trained.model.requires_grad_(False)
    trained.model.zero_grad(set_to_none=True)
    if world.first and run.rule is not None:
        write_training(run)
        if run.selection is not None and (why := run.selection.stopped_by):
            console.print(f"note: {arm.label} ended at step {run.done:,}: {why} (--stop-when)")
    whole, four_bit = world.gathered(trained), arm.adapters and held_in_4_bits(shared.adapters)
    if whole is not None:
        if four_bit:  # whose merged weights the device may not hold beside a teacher
            whole.model.to("cpu")
        if arm.adapters:
            _merge(arm, whole, shared)
        if shared.quantiser:
            shared.quantiser.quantise(whole)
        kept = round_to(whole, shared.stored)
        if world.first:
            save(whole, arm.student, dtype=kept)
    _clean(arm, shared)
    world.barrier()
    if world.sharded or four_bit:
        return world.load(verified_folder(arm.student), dtype=shared.environment.measured_in)
    return trained


def _merge(arm: Arm, whole: LanguageModel, shared: Shared) -> None:
    """Writes the adapters of a trained model as files of PEFT, and adds them to its weights, whose lineage says so."""
    adapters = shared.adapters
    assert adapters is not None
    if shared.environment.world.first:
        base = verified_folder(shared.cut)
        write_adapters(whole, adapters, arm.folder / ADAPTER, base=str(shared.cut), base_folder=base)
    merge(whole)
    whole.model.requires_grad_(False)
    whole.lineage = {**(whole.lineage or {}), LINEAGE: adapter_facts(adapters)}


def _clean(arm: Arm, shared: Shared) -> None:
    """Removes the checkpoints of an arm that is done: three times the model's size, and of no further use.

    Weights of the lowest held-out loss that did not become the student are kept as a model of their own, ``best``.
    """
    if not shared.environment.world.first:
        return
    if shared.rule is not None and not shared.rule.best:
        adapters = shared.adapters if arm.adapters else None
        start = shared.cut if adapters else arm.student
        place_best(arm.folder, start, quantiser=shared.quantiser, dtype=shared.stored, adapters=adapters)
    drop_best(arm.folder)
    for checkpoint in checkpoints(arm.folder):
        shutil.rmtree(checkpoint, ignore_errors=True)
