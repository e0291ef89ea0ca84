"""The learning rates of a tuning: as given, as suggested, or the best of several that are tried out first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypedDict

from limbeck.config import TuneSettings
from limbeck.disk import read_lines
from limbeck.jobs.common.held_out import Apart, watch_of
from limbeck.jobs.tune.arms import OF_PAIRS, Arm, Shared
from limbeck.jobs.tune.trials import FOLDER, SHARE, Rates, best_of
from limbeck.jobs.tune.trials import tried as tried_once
from limbeck.run.optim import tuning_rate

NAMES = {True: "adapters", False: "full"}


class Trial(TypedDict):
    """A rate that was tried: of adapters or of all weights, and held-out nats per token, None where the training diverged."""

    what: str
    rate: float
    nats: float | None


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


def named(rates: Mapping[bool, float]) -> dict[str, float]:
    """Rates of adapters (True) and of all weights by their names in run.json."""
    return {NAMES[kind]: rate for kind, rate in rates.items()}


def chosen(shared: Shared, tried: Mapping[bool, tuple[float, ...]], arms: Sequence[Arm], apart: Apart) -> Rates:
    """The best rate of each kind of arm, by trainings of a part of the steps and what they reach on documents kept ``apart``.

    All ranks call it. Raises NonFiniteLoss where all trainings of a kind diverge.
    """
    trials: list[Trial] = []
    best = {kind: rates[0] for kind, rates in tried.items()}
    for kind in dict.fromkeys(arm.adapters for arm in arms):
        found = {rate: _nats(shared, rate, adapters=kind, apart=apart) for rate in tried[kind]}
        trials += [Trial(what=NAMES[kind], rate=rate, nats=nats) for rate, nats in found.items()]
        best[kind] = best_of(found, of=NAMES[kind], unit="held-out nats per token", lowest=True)
    return Rates(named(best), trials)


def _nats(shared: Shared, rate: float, *, adapters: bool, apart: Apart) -> float | None:
    """Held-out nats per token after a training with a rate, from its file if it was tried before."""
    plan, environment = shared.plan, shared.environment
    folder = plan.settings.out / FOLDER / f"{NAMES[adapters]}-{rate:g}"
    steps = max(1, round(SHARE * plan.steps))
    reads = {"replay": plan.other is not None, "masked": plan.mask is not None}
    arm = Arm(f"rate {rate:.2g}", plan.settings.seed, folder, steps, adapters, **reads)

    def attempt() -> float | None:
        how = replace(shared.training, steps=steps)
        looks: dict[str, Any] = {"every": steps, "apart": apart}
        watch = watch_of(shared.held_out, how, length=plan.length, environment=environment, **looks)
        replace(shared, rates={adapters: rate}, watch=watch, rule=None, tracked=None).run(arm).train()
        if not environment.world.first:
            return None
        nats: float = read_lines(folder / "held_out.jsonl")[-1]["loss_nats"]
        return nats

    return tried_once(folder, environment.world, attempt)
