"""The learning rates of a tuning by a reward: as given, as suggested, or the best of several that are tried out first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypedDict

from limbeck.config import ANSWERS, TuneSettings
from limbeck.jobs.tune.arms import Arm
from limbeck.jobs.tune.reward.arms import Shared
from limbeck.jobs.tune.trials import FOLDER, SHARE, Rates, best_of
from limbeck.jobs.tune.trials import tried as tried_once
from limbeck.models.language_model import LanguageModel
from limbeck.report.rewarded import RATE_OF
from limbeck.run.log import console
from limbeck.run.optim import tuning_rate

OF_A_REWARD = 0.1  # of the rate of cross-entropy; TRL's default for RLOO is a twentieth of that for it, 1e-6 and 2e-5


class Trial(TypedDict):
    """A rate that was tried: of which training, and the reward of sampled answers, None where the training diverged."""

    what: str
    rate: float
    reward: float | None


def candidates(settings: TuneSettings, parameters: int, *, adapters: bool) -> dict[str, tuple[float, ...]]:
    """Rates by the name of a training: of the reward as given or suggested, and of cross-entropy in proportion to it."""
    usual = tuning_rate(parameters, adapters=adapters)
    if settings.lr is None:
        return {"student": (OF_A_REWARD * usual,), ANSWERS: (usual,)}
    given = settings.lr if isinstance(settings.lr, tuple) else (settings.lr,)
    return {"student": given, ANSWERS: tuple(min(1.0, rate / OF_A_REWARD) for rate in given)}


def chosen(
    shared: Shared,
    tried: Mapping[str, tuple[float, ...]],
    names: Sequence[str],
    rewarded: Callable[[LanguageModel], float],
) -> Rates:
    """The best rate of each training that is named, by a part of its steps and the reward that it reaches (``rewarded``).

    All ranks call it; the first measures. Raises NonFiniteLoss where all trainings of a name diverge.
    """
    trials: list[Trial] = []
    best = {name: rates[0] for name, rates in tried.items()}
    for name in names:
        found = {rate: _reward(shared, name, rate, rewarded) for rate in tried[name]}
        trials += [Trial(what=name, rate=rate, reward=value) for rate, value in found.items()]
        best[name] = best_of(found, of=RATE_OF[name], unit="reward of sampled answers", lowest=False)
    return Rates(best, trials)


def _reward(shared: Shared, name: str, rate: float, rewarded: Callable[[LanguageModel], float]) -> float | None:
    """The reward after a part of a training with a rate, from its file if it was tried before."""
    plan, world = shared.plan, shared.environment.world
    folder = plan.settings.out / FOLDER / f"{name}-{rate:g}"
    steps = max(1, round(SHARE * plan.steps))
    arm = Arm(name, plan.settings.seed, folder, steps, plan.adapters is not None, replay=False)

    def attempt() -> float | None:
        run = replace(shared, rates={name: rate}, tracked=None).run(arm)
        run.label = f"{RATE_OF[name]} at {rate:.2g}"
        if world.first:
            console.print(f"learning rate of {RATE_OF[name]}, {steps:,} steps with {rate:.2g}:")
        run.train()
        return rewarded(run.student) if world.first else None

    return tried_once(folder, world, attempt)
