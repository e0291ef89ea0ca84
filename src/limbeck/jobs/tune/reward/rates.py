"""The learning rates of a tuning by a reward: as given, as suggested, or the best of several that are tried out first."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict

from limbeck.config import ANSWERS, TuneSettings
from limbeck.disk import AGAIN, read_json, write_json, writing
from limbeck.errors import NonFiniteLoss
from limbeck.jobs.tune.arms import Arm
from limbeck.jobs.tune.rates import FOLDER, SHARE
from limbeck.jobs.tune.reward.arms import Shared
from limbeck.models.language_model import LanguageModel
from limbeck.report.rewarded import RATE_OF
from limbeck.run.log import console
from limbeck.run.optim import tuning_rate
from limbeck.run.save import checkpoints

OF_A_REWARD = 0.1  # of the rate of cross-entropy; TRL's default for RLOO is a twentieth of that for it, 1e-6 and 2e-5
_TRIAL = "trial.json"


class Trial(TypedDict):
    """A rate that was tried: of which training, and the reward of sampled answers, None where the training diverged."""

    what: str
    rate: float
    reward: float | None


@dataclass(frozen=True)
class Rates:
    """Peak learning rates by the name of a training, and the trials that chose them."""

    by_name: Mapping[str, float]
    trials: Sequence[Trial] = ()

    def row(self) -> dict[str, Any]:
        """As run.json stores them."""
        return {"rates": dict(self.by_name), "trials": list(self.trials)}


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
        rates = dict.fromkeys(tried[name])
        found = {rate: _reward(shared, name, rate, rewarded) for rate in rates}
        trials += [Trial(what=name, rate=rate, reward=value) for rate, value in found.items()]
        best[name] = max(found, key=lambda rate: -math.inf if (value := found[rate]) is None else value)
        if found[best[name]] is None:
            raise NonFiniteLoss(
                f"--lr {','.join(f'{rate:g}' for rate in rates)}: the training diverges with each of them: give lower ones"
            )
        each = ", ".join(f"{rate:.2g} {'diverged' if r is None else f'{r:.4f}'}" for rate, r in found.items())
        end = "; it is at an end of those tried, so a better one may lie beyond"
        console.print(
            f"learning rate of {RATE_OF[name]}: {best[name]:.2g} (reward of sampled answers: {each})"
            f"{end if best[name] in (min(found), max(found)) else ''}"
        )
    if shared.environment.world.first:
        shutil.rmtree(shared.plan.settings.out / FOLDER, ignore_errors=True)
    return Rates(best, trials)


def _reward(shared: Shared, name: str, rate: float, rewarded: Callable[[LanguageModel], float]) -> float | None:
    """The reward after a part of a training with a rate, from its file if it was tried before."""
    plan, world = shared.plan, shared.environment.world
    folder = plan.settings.out / FOLDER / f"{name}-{rate:g}"
    arm = Arm(
        name, plan.settings.seed, folder, max(1, round(SHARE * plan.steps)), plan.adapters is not None, replay=False
    )
    if not bool(world.any(world.first and (folder / _TRIAL).is_file())[0]):
        run = replace(shared, rates={name: rate}, tracked=None).run(arm)
        run.label = f"{RATE_OF[name]} at {rate:.2g}"
        if world.first:
            console.print(f"learning rate of {RATE_OF[name]}, {arm.steps:,} steps with {rate:.2g}:")
        try:
            run.train()
        except NonFiniteLoss:
            reached = None
        else:
            reached = rewarded(run.student) if world.first else None
        if world.first:
            _write(folder, reached)
        world.barrier()
    known = {"reward": read_json(folder / _TRIAL, _Kept, remedy=AGAIN)["reward"]} if world.first else {}
    found: float | None = json.loads(world.share(json.dumps(known)))["reward"]
    return found


class _Kept(TypedDict):
    reward: float | None


def _write(folder: Path, reached: float | None) -> None:
    """Keeps what a trial reached, and removes its checkpoints."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / _TRIAL, {"reward": reached})
    for checkpoint in checkpoints(folder):
        shutil.rmtree(checkpoint, ignore_errors=True)
