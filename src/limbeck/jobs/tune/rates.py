"""The learning rates of a tuning: as given, as suggested, or the best of several that are tried out first."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict

from limbeck.config import TuneSettings
from limbeck.disk import AGAIN, read_json, read_lines, write_json, writing
from limbeck.errors import NonFiniteLoss
from limbeck.jobs.common.held_out import Apart, watch_of
from limbeck.jobs.tune.arms import OF_PAIRS, Arm, Shared
from limbeck.run.log import console
from limbeck.run.optim import tuning_rate
from limbeck.run.save import checkpoints

FOLDER = "rates"  # of the trainings that choose one, in the run's folder
SHARE = 0.25  # of a tuning's steps, which a training that chooses a rate takes
_TRIAL = "trial.json"
_NAMES = {True: "adapters", False: "full"}


class Trial(TypedDict):
    """A rate that was tried: of adapters or of all weights, and held-out nats per token, None where the training diverged."""

    what: str
    rate: float
    nats: float | None


@dataclass(frozen=True)
class Rates:
    """Peak learning rates of adapters (True) and of all weights (False), and the trials that chose them."""

    by_kind: Mapping[bool, float]
    trials: Sequence[Trial] = ()

    def row(self) -> dict[str, Any]:
        """As run.json stores them."""
        return {"rates": {_NAMES[kind]: rate for kind, rate in self.by_kind.items()}, "trials": list(self.trials)}

    @classmethod
    def of(cls, run: Mapping[str, Any]) -> Rates | None:
        """Those of a run that was begun, None for one that has none yet."""
        if (kept := run.get("rates")) is None:
            return None
        return cls({kind: kept[name] for kind, name in _NAMES.items()}, run.get("trials", ()))


def candidates(
    settings: TuneSettings, parameters: int, *, adapters: bool, pairs: bool
) -> dict[bool, tuple[float, ...]]:
    """The rates of adapters (True) and of all weights: those of the settings, else the suggested ones.

    --lr is of what is trained; those of the other kind stay in proportion to it. ``pairs``: the objective compares pairs.
    """
    usual = {kind: tuning_rate(parameters, adapters=kind) * (OF_PAIRS if pairs else 1) for kind in (True, False)}
    if settings.lr is None:
        return {kind: (rate,) for kind, rate in usual.items()}
    given = settings.lr if isinstance(settings.lr, tuple) else (settings.lr,)
    factors = [rate / usual[adapters] for rate in given]
    return {
        kind: given if kind == adapters else tuple(min(1.0, factor * rate) for factor in factors)
        for kind, rate in usual.items()
    }


def chosen(shared: Shared, tried: Mapping[bool, tuple[float, ...]], arms: Sequence[Arm], apart: Apart) -> Rates:
    """The best rate of each kind of arm, by trainings of a part of the steps and what they reach on documents kept ``apart``.

    All ranks call it. Raises NonFiniteLoss where all trainings of a kind diverge.
    """
    trials: list[Trial] = []
    best = {kind: rates[0] for kind, rates in tried.items()}
    for kind in dict.fromkeys(arm.adapters for arm in arms):
        found = {rate: _nats(shared, rate, adapters=kind, apart=apart) for rate in tried[kind]}
        trials += [Trial(what=_NAMES[kind], rate=rate, nats=nats) for rate, nats in found.items()]
        best[kind] = min(found, key=lambda rate: math.inf if found[rate] is None else found[rate] or 0.0)
        if found[best[kind]] is None:
            raise NonFiniteLoss(
                f"--lr {','.join(f'{rate:g}' for rate in tried[kind])}: the training diverges with each of them: give lower ones"
            )
        console.print(shown(found, best[kind], what=_NAMES[kind]))
    if shared.environment.world.first:
        shutil.rmtree(shared.plan.settings.out / FOLDER, ignore_errors=True)
    return Rates(best, trials)


def shown(found: Mapping[float, float | None], best: float, *, what: str) -> str:
    """The rates that were tried and what they reached, in a sentence; with a warning where the best is at an end."""
    each = ", ".join(f"{rate:.2g} {'diverged' if nats is None else f'{nats:.4f}'}" for rate, nats in found.items())
    end = "; it is at an end of those tried, so a better one may lie beyond" if best in (min(found), max(found)) else ""
    return f"learning rate of {what}: {best:.2g} (held-out nats per token: {each}){end}"


def _nats(shared: Shared, rate: float, *, adapters: bool, apart: Apart) -> float | None:
    """Held-out nats per token after a training with a rate, from its file if it was tried before."""
    plan, world = shared.plan, shared.environment.world
    folder = plan.settings.out / FOLDER / f"{_NAMES[adapters]}-{rate:g}"
    steps = max(1, round(SHARE * plan.steps))
    reads = {"replay": plan.other is not None, "masked": plan.mask is not None}
    arm = Arm(f"rate {rate:.2g}", plan.settings.seed, folder, steps, adapters, **reads)
    done = bool(world.any(world.first and (folder / _TRIAL).is_file())[0])
    if not done:
        how = replace(shared.training, steps=steps)
        watch = watch_of(
            *(shared.held_out, how),
            length=plan.length,
            environment=shared.environment,
            every=steps,
            apart=apart,
        )
        trial = replace(shared, rates={adapters: rate}, watch=watch, rule=None, tracked=None)
        failed = False
        try:
            trial.run(arm).train()
        except NonFiniteLoss:
            failed = True
        if world.first:
            _write(folder, failed=failed)
    known = {"nats": read_json(folder / _TRIAL, _Kept, remedy=AGAIN)["nats"]} if world.first else {}
    nats: float | None = json.loads(world.share(json.dumps(known)))["nats"]
    return nats


class _Kept(TypedDict):
    nats: float | None


def _write(folder: Path, *, failed: bool) -> None:
    """Keeps what a trial reached, and removes its checkpoints."""
    rows = [] if failed else read_lines(folder / "held_out.jsonl")
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / _TRIAL, {"nats": rows[-1]["loss_nats"] if rows else None})
    for checkpoint in checkpoints(folder):
        shutil.rmtree(checkpoint, ignore_errors=True)
