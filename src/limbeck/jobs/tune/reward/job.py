"""`limbeck tune --reward`: tunes a model by a reward of its own sampled answers, and measures it before and after."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch

from limbeck.config import ANSWERS, TuneSettings
from limbeck.disk import read_lines
from limbeck.ending import show_ending
from limbeck.jobs.common.environment import Environment
from limbeck.jobs.common.folder import claim_together, now, same_model, update
from limbeck.jobs.common.memory import computed, memory_use, planned_run
from limbeck.jobs.common.training import optimiser_facts, plan_of, tracked_of
from limbeck.jobs.tune.arms import Arm
from limbeck.jobs.tune.reward.arms import Shared, arms_of
from limbeck.jobs.tune.reward.evaluation import RewardEvaluation
from limbeck.jobs.tune.reward.plan import RewardPlan
from limbeck.models.language_model import LanguageModel
from limbeck.models.sidecar import licence_of, stored_dtype
from limbeck.models.source import resolve, resolve_description
from limbeck.planning.checks.steps import too_few_steps
from limbeck.report.words import count, counted, took, trainings
from limbeck.run.log import console
from limbeck.run.optim import tuning_rate
from limbeck.run.run import Plan
from limbeck.run.world import leave

OF_A_REWARD = 0.1  # of the rate of cross-entropy; TRL's default for RLOO is a twentieth of that for it, 1e-6 and 2e-5


def tune_by_reward(settings: TuneSettings, environment: Environment) -> dict[str, Any]:
    """Tunes a model by a reward, and the baselines, and measures all of them; all results are in ``settings.out``.

    Returns ``{"out", "student", "verdict", "readings"}``, an empty dict on ranks other than 0. Raises a LimbeckError for
    settings, a model or prompts that do not fit, before anything long begins.
    """
    started = time.monotonic()
    plan, world = RewardPlan.of(settings, environment), environment.world
    run = claim_together(settings.out, plan.signature(environment), world, tf32=environment.tf32)
    continued = "plan" in run
    if world.first:
        same_model(settings.out, run, settings.student)
    job = _Job(plan, environment, run, world.load(settings.student))
    arms, result = arms_of(plan), dict[str, Any]()
    shared = job.shared(arms)
    evaluation = RewardEvaluation(plan, environment, job.start) if world.first else None
    for arm in arms:
        shared.train(arm)
        if evaluation:
            evaluation.after(arm)
            job.spent(arms)
            if arm is not arms[-1] and "ended" not in run:
                evaluation.write(run)
        world.barrier()
    if evaluation:
        seconds = time.monotonic() - started
        if "ended" not in run:
            update(settings.out, run, ended=now(), **({} if continued else {"seconds": round(seconds, 1)}))
        result, ending = evaluation.conclude(run)
        console.print(f"It {took(seconds, continued=continued)}.")
        show_ending(ending, console)
    world.barrier()
    leave()
    return result


@dataclass(frozen=True)
class _Job:
    """A run that has begun: its plan, what run.json holds (on rank 0), and the model before tuning, frozen."""

    plan: RewardPlan
    environment: Environment
    run: dict[str, Any]
    start: LanguageModel

    def shared(self, arms: list[Arm]) -> Shared:
        """What the trainings share; it is kept in run.json, and printed."""
        plan, environment, settings = self.plan, self.environment, self.plan.settings
        rates = _rates(settings, self.start.parameters_count, adapters=plan.adapters is not None)
        training, kept = self._training(rates["student"])
        if environment.world.first:
            self._announce(arms, training, rates, kept)
        return Shared(
            plan,
            resolve(settings.student),
            self.start,
            training,
            rates,
            environment,
            getattr(torch, stored_dtype(resolve_description(settings.student))),
            tracked_of(settings, self.run),
        )

    def _training(self, lr: float) -> tuple[Plan, dict[str, Any]]:
        """The plan of the trainings, and what run.json keeps of memory."""
        plan, environment, settings = self.plan, self.environment, self.plan.settings
        how: dict[str, Any] = {"schedule": settings.schedule, "bf16": environment.bf16, "tf32": environment.tf32}
        training = plan_of(settings, steps=plan.steps, rows=plan.rows, lr=lr, **how)
        part = plan.numbers / self.start.parameters_count if plan.adapters else 1.0
        planned = planned_run(settings, environment, length=plan.longest, rows=plan.rows, trained=part)
        use, kept = memory_use(planned, self.start.config, plan.size, environment, self.run)
        return computed(training, use), kept

    def spent(self, arms: list[Arm]) -> None:
        """Keeps in run.json what the trainings that are done took: tokens of their rows, and FLOPs with those of sampling."""
        plan, facts = self.plan, dict(self.run["plan"])
        for arm in arms:
            rows = read_lines(arm.folder / "metrics.jsonl") if arm.done and arm.seed == plan.settings.seed else []
            if rows:
                sampled = arm.name != ANSWERS
                tokens = sum(row["row_tokens"] + row.get("rollout_tokens", 0) for row in rows)
                facts["flops"] = facts["flops"] | {arm.name: plan.flops(tokens, sampled=sampled)}
                facts |= {"tokens": sum(row["rollout_tokens"] for row in rows)} if arm.name == "student" else {}
        update(plan.settings.out, self.run, plan=facts)

    def _announce(self, arms: list[Arm], training: Plan, rates: dict[str, float], kept: dict[str, Any]) -> None:
        plan, settings, parameters = self.plan, self.plan.settings, self.start.parameters_count
        stated = licence_of(resolve_description(settings.student))
        student = {"name": self.start.name, "parameters": parameters, "trained": plan.numbers or parameters}
        facts: dict[str, Any] = {
            "student": student | ({"stated": stated} if stated else {}),
            "objective": f"the reward {plan.reward}",
            "read": plan.questions.notes(),
            "lineage": self.start.lineage,
        }
        if "plan" not in self.run:
            facts["plan"] = {"tokens": plan.steps * plan.rows * settings.rollout_tokens, "flops": {}}
        facts["plan"] = self.run.get("plan", facts.get("plan", {})) | {
            "steps": plan.steps,
            "rows": plan.rows,
            "length": plan.length,
            "learning_rate": training.lr,
            "schedule": training.schedule,
            **optimiser_facts(training),
            "rates": rates,
            "arms": [{"name": arm.name, "seed": arm.seed, "steps": arm.steps} for arm in arms],
        }
        update(settings.out, self.run, **facts, **kept)
        for note in plan.questions.notes():
            console.print(f"text: {note}")
        what = "all weights" if plan.adapters is None else f"adapters of rank {plan.adapters.rank}"
        passes = plan.steps * plan.rows / settings.samples / len(plan.questions.train)
        console.print(
            f"tune {self.start.name}: {count(parameters)} parameters, {what}, by the reward {plan.reward}; {plan.steps:,} steps "
            f"of {counted(plan.rows // settings.samples, 'prompt')} x {settings.samples} answers of at most "
            f"{settings.rollout_tokens} tokens ({passes:.1f} epochs of the prompts), peak learning rate {rates['student']:.2g}, "
            f"{training.schedule}{', in bfloat16' if training.bf16 else ''}; {trainings(len(arms))}: "
            f"{', '.join(arm.label for arm in arms)}"
        )
        if few := too_few_steps(plan.steps):
            console.print(f"note: {few}")


def _rates(settings: TuneSettings, parameters: int, *, adapters: bool) -> dict[str, float]:
    """Peak learning rates by arm: of the reward as given or suggested, and of cross-entropy in proportion to it."""
    usual = tuning_rate(parameters, adapters=adapters)
    assert not isinstance(settings.lr, tuple), "checked"
    own = settings.lr or OF_A_REWARD * usual
    return {"student": own, ANSWERS: usual if settings.lr is None else min(1.0, own / OF_A_REWARD)}
