"""The claims about TAID with their criteria, each judged from intervals alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from limbeck.papers.lab.paired import nothing_in, with_interval
from limbeck.papers.lab.recipe import ClaimResult, Verdict, of_seeds
from limbeck.probes.interval import Interval
from limbeck.report.words import interval

# Set before the first run. Our choice: 0.01 nats is one per cent of perplexity, too little to change an objective for.
LEAST_SLOPE = 0.01  # nats per doubling of the teacher, between two objectives
LEAST_GAIN = 0.02  # nats at the largest teacher, between TAID and another objective
LEAST_CHECKS = 0.01  # share of the checks of answers, between TAID and another objective

HEAD = 10  # the teacher's most probable outcomes, as many as in the paper
TAIL = 5  # one of so many outcomes: the least probable fifth, its 80th to 100th percentile


@dataclass(frozen=True)
class Scene:
    """One of the paper's two scenarios: where, by what a student is judged, what is too little, and what is sampled."""

    where: str
    measure: str
    better: str
    least: float
    noun: str
    paper: str

    def over(self, found: Interval) -> str:
        """A difference between TAID and another objective, as text."""
        return f"{with_interval(found)} {self.better}"


PRETRAINING = Scene(
    "in pretraining",
    "loss on held-out text",
    "nats better",
    LEAST_GAIN,
    "documents",
    "Phi-3-medium to TinyLlama, mean of the Open LLM Leaderboard: TAID 40.10, the next, KL, 39.91",
)
INSTRUCTIONS = Scene(
    "on instructions",
    "share of checks that answers to held-out questions pass",
    "more of the checks",
    LEAST_CHECKS,
    "modules asked about",
    "Phi-3-mini to TinyLlama, MT-Bench: TAID 4.05, the next, reverse KL, 3.48",
)


def judge_gap(
    taid: Interval,
    over: Mapping[str, Interval],
    over_ramp: Interval,
    at_flops: Interval,
    *,
    rising: bool,
    seeds: int,
) -> ClaimResult:
    """Judges TAID's gain per doubling of the teacher, ``taid``, and how much more it is than others', ``over``.

    ``rising``: each teacher has a lower loss than the one before it. Otherwise a larger teacher is not a better one. ``at_flops``
    is TAID's gain where every student has the FLOPs of one of the smallest teacher; it is told and does not decide.
    """
    contrasts = [*((found, LEAST_SLOPE) for found in over.values()), (over_ramp, LEAST_GAIN)]
    verdict: Verdict = "inconclusive"
    if rising and (taid.high < 0 or any(nothing_in(found, least) for found, least in contrasts)):
        verdict = "refuted"
    elif rising and taid.low > 0 and all(found.low > 0 for found, _ in contrasts):
        verdict = "confirmed"
    seen = f"a doubling of the teacher gives TAID's student {with_interval(taid)} nats; "
    seen += "".join(f"{with_interval(found)} more than {name}; " for name, found in over.items())
    seen += f"at equal FLOPs a doubling gives {with_interval(at_flops)}; "
    seen += f"at the largest teacher TAID is {with_interval(over_ramp)} nats better than the ramp "
    seen += f"({taid.n} documents, {seeds} seeds)"
    seen += "" if rising else ". The teachers do not get better with their size: a gap was not tested"
    judged = ClaimResult(
        claim="TAID keeps gaining as its teacher grows, where forward and skew KL do not (Pythia 70M, teachers of 410M to "
        "6.9B: LAMBADA 20.8 to 22.0 % by TAID, 18.7 to 18.2 % by skew KL).",
        criterion="At equal tokens. Confirmed: TAID's gain per doubling of the teacher is above 0, above forward KL's and above "
        "skew KL's, and TAID beats the ramped forward KL at the largest teacher, each with its 95 % interval. Refuted: its gain "
        f"is below 0, or one of the three differences has an interval that holds 0 or less and ends below {LEAST_SLOPE} nats per "
        f"doubling, {LEAST_GAIN} nats for the ramp.",
        verdict=verdict,
        seen=seen,
    )
    return of_seeds(judged, seeds)


def judge_ramp(over: Interval, scene: Scene, *, seeds: int) -> ClaimResult:
    """Judges the control of "it is only the ramp": TAID beside forward KL whose weight rises as TAID's t does."""
    less: Verdict = "refuted" if nothing_in(over, scene.least) else "inconclusive"
    judged = ClaimResult(
        claim=f"It is the interpolation that helps {scene.where}, not a weight that rises with it (a control that the paper has "
        "not).",
        criterion=f"By the {scene.measure}, at the largest teacher. Confirmed: TAID is better, with its 95 % interval, than "
        "forward KL whose weight rises as TAID's t does. Refuted: the interval holds 0 or less and ends below "
        f"{scene.least:g} {scene.better}.",
        verdict="confirmed" if over.low > 0 else less,
        seen=f"TAID: {scene.over(over)} ({over.n} {scene.noun}, {seeds} seeds)",
    )
    return of_seeds(judged, seeds)


def judge_best(over: Mapping[str, Interval], at_flops: Interval | None, scene: Scene, *, seeds: int) -> ClaimResult:
    """Judges TAID beside all baselines of the paper. ``at_flops``, beside cross-entropy at equal FLOPs, does not decide."""
    verdict: Verdict = "inconclusive"
    if any(nothing_in(found, scene.least) for found in over.values()):
        verdict = "refuted"
    elif all(found.low > 0 for found in over.values()):
        verdict = "confirmed"
    n = next(iter(over.values())).n
    told = "" if at_flops is None else f"; {scene.over(at_flops)} than cross-entropy at equal FLOPs"
    judged = ClaimResult(
        claim=f"TAID makes the best student of all objectives {scene.where} ({scene.paper}).",
        criterion=f"By the {scene.measure}, at equal tokens, from the largest teacher, each objective with its own rate. "
        "Confirmed: TAID is better than each of the paper's baselines, with its 95 % interval. Refuted: beside one of them the "
        f"interval holds 0 or less and ends below {scene.least:g} {scene.better} (not widened for the number of baselines). "
        "Inconclusive otherwise.",
        verdict=verdict,
        seen="; ".join(f"{scene.over(found)} than {name}" for name, found in over.items())
        + f"{told} ({n} {scene.noun}, {seeds} seeds)",
    )
    return of_seeds(judged, seeds)


@dataclass(frozen=True)
class Shifts:
    """Differences of mass, paired: on the head and the tail, of two objectives each, in the direction that the paper reports."""

    head_reverse_over_forward: Interval
    tail_forward_over_reverse: Interval
    head_reverse_over_taid: Interval
    tail_forward_over_taid: Interval


def judge_masses(shifts: Shifts, scene: Scene, *, seeds: int) -> ClaimResult:
    """Judges whether TAID lies between mode averaging and mode collapse, by mass on head and tail of the vocabulary."""
    found = list(vars(shifts).values())
    verdict: Verdict = "inconclusive"
    if any(one.high < 0 for one in found):
        verdict = "refuted"
    elif all(one.low > 0 for one in found):
        verdict = "confirmed"
    names = ("head, reverse less forward KL", "tail, forward less reverse KL", "head, reverse KL less TAID",
             "tail, forward KL less TAID")  # fmt: skip
    n = found[0].n
    judged = ClaimResult(
        claim=f"TAID avoids mode averaging and mode collapse {scene.where} (mass on head and tail: KL .216 and 40.2e-7, reverse "
        "KL .227 and 8.1e-7, TAID .218 and 39.0e-7).",
        criterion=f"By a student's mass on the {HEAD} outcomes that its teacher finds most probable (head) and on the least "
        f"probable fifth (tail), of the largest teacher. Confirmed: reverse KL has more on the head and less on the tail than "
        "forward KL, and TAID has less on the head than reverse KL and less on the tail than forward KL, each with its 95 % "
        "interval. Refuted: one of the four is the other way round, with its own. Inconclusive otherwise.",
        verdict=verdict,
        seen="; ".join(f"{name} {interval(one, '+.2e')}" for name, one in zip(names, found, strict=True))
        + f" ({n} {scene.noun}, {seeds} seeds)",
    )
    return of_seeds(judged, seeds)
