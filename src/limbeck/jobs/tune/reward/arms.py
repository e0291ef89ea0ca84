"""The trainings of a tuning by a reward: the tuned model, and what cross-entropy on known answers makes of the same start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from limbeck.config import ANSWERS
from limbeck.jobs.common.adapters import adapt_to_train, load_to_train
from limbeck.jobs.common.environment import Environment
from limbeck.jobs.tune.arms import Arm, Saving, train_once, without_dropout
from limbeck.jobs.tune.reward.plan import RewardPlan
from limbeck.jobs.tune.reward.progress import Progress
from limbeck.models.language_model import LanguageModel
from limbeck.objectives import CrossEntropy
from limbeck.objectives.policy import PolicyGradient
from limbeck.run.questions import Answers
from limbeck.run.rewards import reward_of
from limbeck.run.run import Plan, Run
from limbeck.run.samples import Samples
from limbeck.run.trackers import Tracked


def arms_of(plan: RewardPlan) -> list[Arm]:
    """All trainings, the tuned model of the first seed first."""
    settings, out = plan.settings, plan.settings.out
    seeds = range(settings.seed, settings.seed + settings.seeds)
    adapters = plan.adapters is not None
    arms = []
    for seed in seeds:
        folder = out if seed == settings.seed else out / "seeds" / f"seed{seed}"
        arms.append(Arm("student", seed, folder, plan.steps, adapters, replay=False))
    for seed in seeds:
        for name in plan.compared:
            folder = out / "baselines" / f"{name}-seed{seed}"
            arms.append(Arm(name, seed, folder, plan.steps, adapters, replay=False))
    return arms


@dataclass(frozen=True)
class Shared:
    """What all trainings share: the model before tuning and its folder, the plan, the rates of each arm by its name."""

    plan: RewardPlan
    folder: Path
    start: LanguageModel
    training: Plan
    rates: Mapping[str, float]
    environment: Environment
    stored: torch.dtype
    tracked: Tracked | None = None

    def train(self, arm: Arm) -> None:
        """Trains an arm unless it is done, and saves its model; on all ranks."""
        saving = Saving(self.plan.settings.student, self.folder, self.plan.adapters, self.stored)
        train_once(arm, lambda: self.run(arm), saving, self.environment.world)

    def run(self, arm: Arm) -> Run:
        """The training of an arm."""
        world, model = self.environment.world, self._model(arm)
        training = replace(self.training, steps=arm.steps, lr=self.rates[arm.name])
        tracked = replace(self.tracked, name=f"{arm.name}-seed{arm.seed}") if self.tracked else None
        if arm.name == ANSWERS:
            answers = Answers(self.plan.questions.known, arm.seed, world)
            return Run(
                *(arm.folder, arm.label, model, None, answers, CrossEntropy(), training, world),
                tracked=tracked,
                facts=answers.facts,
            )
        reward = reward_of(self.plan.reward, model.tokenizer)
        samples = Samples(
            *(
                model,
                self.start,
                self.plan.questions.train,
                reward,
                self.plan.sampling(self.environment),
                arm.seed,
                world,
            )
        )
        return Run(
            *(arm.folder, arm.label, model, samples, samples, PolicyGradient(), training, world),
            tracked=tracked,
            facts=Progress(samples.facts, arm.steps, reward=self.plan.reward).facts,
        )

    def _model(self, arm: Arm) -> LanguageModel:
        """The model that an arm trains, before its first step, without dropout: with it a sample has other probabilities."""
        world, adapters = self.environment.world, self.plan.adapters if arm.adapters else None
        model = load_to_train(self.folder, world, adapters)
        if adapters is not None:
            adapt_to_train(model, world, adapters, seed=arm.seed, bf16=self.training.bf16)
        without_dropout(model)
        return model
