"""`limbeck tune --reward`: tunes a model by a reward of its own sampled answers, and measures it before and after."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from limbeck.config import ANSWERS, TuneSettings
from limbeck.disk import read_lines
from limbeck.ending import show_ending
from limbeck.jobs.common.adapters import adapters_in_words, held_facts, held_in_half, size_of
from limbeck.jobs.common.environment import Environment
from limbeck.jobs.common.folder import claim_together, now, same_model, update
from limbeck.jobs.common.memory import computed, memory_use, planned_run
from limbeck.jobs.common.training import optimiser_facts, plan_of, tracked_of
from limbeck.jobs.tune.arms import Arm
from limbeck.jobs.tune.reward.arms import Shared, arms_of
from limbeck.jobs.tune.reward.evaluation import RewardEvaluation, reward_to_choose_by
from limbeck.jobs.tune.reward.plan import RewardPlan
from limbeck.jobs.tune.reward.rates import candidates, chosen
from limbeck.jobs.tune.trials import FOLDER as TRIALS
from limbeck.jobs.tune.trials import Rates
from limbeck.models.language_model import LanguageModel
from limbeck.models.sidecar import licence_of, stored_dtype
from limbeck.models.source import resolve, resolve_description
from limbeck.planning.checks.steps import too_few_steps
from limbeck.report.words import count, counted, took, trainings
from limbeck.run.log import console
from limbeck.run.run import Plan
from limbeck.run.world import leave


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
    job = _Job(plan, environment, run, world.load(settings.student, dtype=environment.measured_in))
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
        tried = candidates(settings, self.start.parameters_count, adapters=plan.adapters is not None)
        training, kept = self._training(tried["student"][0])
        shared = Shared(
            plan,
            resolve(settings.student),
            self.start,
            training,
            {name: one for name, (one, *_) in tried.items()},
            environment,
            getattr(torch, stored_dtype(resolve_description(settings.student))),
            tracked_of(settings, self.run),
        )
        rates = self._rates(shared, tried, arms)
        shared = replace(shared, rates=rates, training=replace(training, lr=rates["student"]))
        if environment.world.first:
            self._announce(arms, shared.training, rates, kept)
        return shared

    def _rates(self, shared: Shared, tried: dict[str, tuple[float, ...]], arms: list[Arm]) -> Mapping[str, float]:
        """The rates of the run's beginning, else those that are given, suggested or tried out now."""
        settings, world = self.plan.settings, self.environment.world
        kept: dict[str, float] | None = json.loads(world.share(json.dumps(self.run.get("rates"))))
        if kept is not None:
            return kept
        rates = Rates(shared.rates)
        if isinstance(settings.lr, tuple):
            names = list(dict.fromkeys(arm.name for arm in arms))
            rates = chosen(shared, tried, names, partial(reward_to_choose_by, self.plan, self.environment, self.start))
        if world.first:
            update(settings.out, self.run, **rates.row())
            shutil.rmtree(settings.out / TRIALS, ignore_errors=True)
        return rates.by_name

    def _training(self, lr: float) -> tuple[Plan, dict[str, Any]]:
        """The plan of the trainings, and what run.json keeps of memory."""
        plan, environment, settings = self.plan, self.environment, self.plan.settings
        how: dict[str, Any] = {"schedule": settings.schedule, "bf16": environment.bf16, "tf32": environment.tf32}
        training = plan_of(settings, steps=plan.steps, rows=plan.rows, lr=lr, **how)
        sizes: dict[str, Any] = {"length": plan.longest, "rows": plan.rows}
        if plan.adapters is not None:
            half = held_in_half(settings.student, environment)
            sizes["trained"] = plan.numbers / self.start.parameters_count
            sizes["adapters"] = size_of(plan.adapters, plan.matrices, half=half)
        planned = planned_run(settings, environment, **sizes)
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

    def _announce(self, arms: list[Arm], training: Plan, rates: Mapping[str, float], kept: dict[str, Any]) -> None:
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
            **held_facts(plan.adapters),
            "rates": dict(rates),
            "arms": [{"name": arm.name, "seed": arm.seed, "steps": arm.steps} for arm in arms],
        }
        update(settings.out, self.run, **facts, **kept)
        for note in plan.questions.notes():
            console.print(f"text: {note}")
        what = "all weights" if plan.adapters is None else adapters_in_words(plan.adapters)
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
