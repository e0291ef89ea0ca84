"""Estimates the time and memory of a comparison from real steps of its trainings, and compares them with the measured ones.

The measured steps train copies, so they leave no trace in the trainings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from limbeck.config import OFF_POLICY, ONE_TEACHER
from limbeck.disk import read_lines
from limbeck.jobs.common.environment import Environment
from limbeck.jobs.distil.arms import Arm, Shared
from limbeck.planning.cost.training import Cost
from limbeck.report.words import duration, label, trainings
from limbeck.run.log import peak_gib

# Seconds of measurement for each kind of arm: _SHARE of its training, but at least _LEAST or one step, and at most _MOST.
_LEAST, _MOST, _SHARE = 0.2, 20.0, 0.03


@dataclass(frozen=True)
class TimeEstimate:
    """Seconds of all trainings, seconds of a step for each kind of arm, and peak memory in bytes."""

    seconds: float
    step_seconds: dict[str, float]
    peak_bytes: int


def estimate_time(arms: Sequence[Arm], cost: Cost, shared: Shared) -> TimeEstimate:
    """The estimate from some real steps of each kind of arm, at the current load of this machine."""
    try:
        return _measured(arms, cost, shared)
    finally:
        shared.close()


def _measured(arms: Sequence[Arm], cost: Cost, shared: Shared) -> TimeEstimate:
    world, step_seconds = shared.environment.world, {}
    if shared.rollouts:
        shared = replace(shared, rollouts=shared.rollouts.steady)
    for name in dict.fromkeys(map(_kind, arms)):
        longest = max((arm for arm in arms if _kind(arm) == name), key=lambda arm: arm.steps)
        run = shared.run(longest)
        step = run.measure(_LEAST)
        mean = world.sum(step) / world.size  # the same on all ranks, or they would take different numbers of steps
        wanted = min(_MOST, _SHARE * mean * longest.steps)
        if wanted > max(_LEAST, mean):  # else the first measurement took as long
            step = run.measure(wanted)
        step_seconds[name] = step
    seen = round(peak_gib(world.device) * 2**30)  # the process may already have used more, for the tokenizer
    return TimeEstimate(
        sum(step_seconds[_kind(arm)] * arm.steps for arm in arms), step_seconds, max(seen, cost.peak_bytes)
    )


def _kind(arm: Arm) -> str:
    """The kind of an arm, which decides the time of a step: its objective, the model it starts from if that is another,
    whether it generates no rows where the student does, whether its teacher is one of several, and whether it trains adapters.
    """
    own = arm.start is not None or arm.name in (*OFF_POLICY, *ONE_TEACHER)
    what = label(arm.name.removesuffix("@flops")) if own else "adapters" if arm.adapters else ""
    return f"{arm.objective.text} ({what})" if what else arm.objective.text


def shown_before(estimate: TimeEstimate, arms: Sequence[Arm]) -> str:
    """The sentence with the estimate, printed before the trainings."""
    steps = ", ".join(f"{seconds:.3g} s of {name}" for name, seconds in estimate.step_seconds.items())
    return (
        f"estimate: {duration(estimate.seconds)} for {trainings(len(arms))} (a step, measured now: {steps}), and "
        f"{estimate.peak_bytes / 2**30:.2f} GiB of memory"
    )


def expected_seconds(estimate: Mapping[str, Any], arms: Sequence[Arm]) -> float:
    """Seconds that the unfinished arms will take by a stored estimate; 0 if there is none."""
    steps = estimate.get("step_seconds", {})
    return sum(steps.get(_kind(arm), 0.0) * arm.steps for arm in arms if not arm.done)


def shown_before_rounds(estimate: TimeEstimate, flops: Sequence[float]) -> str:
    """The sentence printed before pruning in rounds, from the estimate of the first round.

    ``flops``: those of each round's whole training, the last round's too. Other trainings are estimated once the student is made.
    """
    seconds = estimate.seconds * sum(flops) / flops[0]
    (step,) = estimate.step_seconds.values()
    return (
        f"estimate: {duration(seconds)} for {len(flops)} rounds, the student's own training among them (a step of the first, "
        f"measured now: {step:.3g} s; the others by their FLOPs), and {estimate.peak_bytes / 2**30:.2f} GiB of memory; baselines "
        "are estimated after the rounds"
    )


def shown_after(
    estimate: dict[str, Any],
    arms: Sequence[Arm],
    environment: Environment,
    *,
    continued: bool = False,
    rounds: Sequence[Arm] = (),
) -> str:
    """The sentence with measured and estimated time and memory; ``continued`` if the run had several starts.

    ``rounds``: trainings before the student was made, which the estimate leaves out.
    """
    starts = " over all starts" if continued else ""
    before = f"Rounds before the last took {duration(training_seconds(rounds))}{starts}. " if rounds else ""
    return before + (
        f"Training took {duration(training_seconds(arms))}{starts} ({duration(estimate['seconds'])} estimated) and up to "
        f"{peak_gib(environment.world.device):.2f} GiB of memory ({estimate['peak_bytes'] / 2**30:.2f} GiB estimated)"
    )


def training_seconds(arms: Sequence[Arm]) -> float:
    """Seconds of all steps of these arms, over all starts."""
    total = 0.0
    for arm in arms:
        before = 0
        for row in read_lines(arm.folder / "metrics.jsonl"):
            total, before = total + (row["tokens"] - before) / row["tokens_per_s"], row["tokens"]
    return total
