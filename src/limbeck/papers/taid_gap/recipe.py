"""TAID: whether its gain grows with the teacher where other objectives stop, and whether it is more than a rising weight.

The paper is "TAID: Temporally Adaptive Interpolated Distillation" (Shing et al., arXiv 2501.16937). The recipe has both of its
scenarios. In pretraining, one randomly initialised student learns from a ladder of four teachers. On instructions, a student that
was pretrained by cross-entropy learns from the largest of them, tuned. Each objective has its own learning rate. The baselines
that the released code breaks (adaptive KL, CTKD, GJS) are limbeck's own, which are right. A control that the paper does not have
is forward KL with a weight that rises as TAID's t. If it is as good, interpolation is not the cause.

    limbeck reproduce taid-gap --scale smoke | small | gpu        a minute | 2 hours of 2 cores | an hour of an H200, with --data
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from limbeck.jobs.pilot.grid import Scale
from limbeck.papers.lab.paired import gain, mean, slope
from limbeck.papers.lab.plots import draw_by_teacher
from limbeck.papers.lab.recipe import Outcome, Recipe, RecipeContext, Short
from limbeck.papers.lab.search import BestRates
from limbeck.papers.taid_gap.judging import (
    INSTRUCTIONS,
    PRETRAINING,
    Shifts,
    judge_best,
    judge_gap,
    judge_masses,
    judge_ramp,
)
from limbeck.papers.taid_gap.mass import COLUMNS
from limbeck.papers.taid_gap.scenarios import (
    BASELINES,
    FORWARD,
    LADDER,
    OBJECTIVES,
    RAMP,
    REVERSE,
    RIVALS,
    SUPERVISED,
    TAID,
    Pretrained,
    Size,
    Tuned,
    pretraining,
    tuning,
)
from limbeck.report.words import count

SIZES = {
    "smoke": Size(
        student=12_000,
        teachers=(18_000, 36_000),
        rates=(1.0,),
        tried_on=0,
        modules=20,
        questions=4,
        teaching_tokens=512,
        tuning_tokens=512,
        scale=Scale(12_000, 2.0, 3.0, 259, 32, 512, 2_048, 0.5, 8.0, 8),
    ),
    "small": Size(
        student=44_000,
        teachers=(100_000, 200_000, 400_000, 800_000),
        rates=(0.5, 1.0, 2.0),
        tried_on=1,
        modules=None,
        questions=600,
        teaching_tokens=2_000_000,
        tuning_tokens=500_000,
        scale=Scale(44_000, 2.0, 18.0, 259, 128, 2048, 1_638_400, 20.0, 8.0, 8),
    ),
    "gpu": Size(
        student=2_000_000,
        teachers=(5_000_000, 10_000_000, 20_000_000, 40_000_000),
        rates=(0.5, 1.0, 2.0),
        tried_on=1,
        modules=None,
        questions=600,
        teaching_tokens=2_000_000,
        tuning_tokens=1_000_000,
        scale=Scale(2_000_000, 2.0, 20.0, 4096, 512, 16_384, 16_000_000, 20.0, 8.0, 32),
    ),
}


def run(context: RecipeContext) -> Outcome:
    """Trains teachers and students of both scenarios, and judges the slopes, the best objective, the ramp and the masses."""
    size = SIZES[context.scale]
    pretrained = pretraining(context, size)
    tuned = tuning(context, size, pretrained)
    work, seeds = pretrained.work, context.seeds
    teachers = [work.teacher(rung.name) for rung in work.teachers]
    sizes = [float(teacher["inside"]) for teacher in teachers]
    losses, largest, checks = pretrained.ladder, pretrained.largest, tuned.checks
    gains = {name: slope(found, sizes) for name, found in losses.items()}
    at_flops = {name: slope(found, sizes) for name, found in pretrained.at_flops.items()}
    over = {rival: slope(losses[TAID], sizes, against=losses[rival]) for rival in RIVALS}
    over_all = {name: gain(largest[name], largest[TAID]) for name in OBJECTIVES if name != TAID}
    checked = {name: gain(checks[TAID], checks[name]) for name in OBJECTIVES if name != TAID}
    over_supervised = gain(pretrained.supervised, pretrained.at_flops[TAID][:, -1])
    shifts = {scene: _shifts(found.masses) for scene, found in ((PRETRAINING, pretrained), (INSTRUCTIONS, tuned))}
    rising = all(a["loss"] > b["loss"] for a, b in pairwise(teachers))
    judged = (
        judge_gap(gains[TAID], over, over_all[RAMP], at_flops[TAID], rising=rising, seeds=seeds),
        judge_ramp(over_all[RAMP], PRETRAINING, seeds=seeds),
        judge_ramp(checked[RAMP], INSTRUCTIONS, seeds=seeds),
        judge_best({name: over_all[name] for name in BASELINES}, over_supervised, PRETRAINING, seeds=seeds),
        judge_best({name: checked[name] for name in BASELINES}, None, INSTRUCTIONS, seeds=seeds),
        *(judge_masses(found, scene, seeds=seeds) for scene, found in shifts.items()),
    )
    figure = context.out / "taid-gap.png"
    draw_by_teacher({name: _by_token(found) for name, found in losses.items()}, sizes, figure)
    differences = {
        "gain_nats_per_doubling": {name: vars(found) for name, found in gains.items()},
        "gain_nats_per_doubling_at_equal_flops": {name: vars(found) for name, found in at_flops.items()},
        "taid_over": {name: vars(found) for name, found in over.items()},
        "taid_over_nats": {name: vars(found) for name, found in over_all.items()},
        "taid_over_cross_entropy_at_equal_flops_nats": vars(over_supervised),
        "taid_over_checks": {name: vars(found) for name, found in checked.items()},
        "masses_judged": {
            scene.where: {name: vars(one) for name, one in vars(found).items()} for scene, found in shifts.items()
        },
    }
    shown = "Held-out loss of the student by the size of its teacher; bars are a standard deviation of seeds."
    spent = work.cpu_seconds() + tuned.work.cpu_seconds()
    return Outcome(
        _ours(pretrained, tuned, size, seeds), judged, _numbers(pretrained, tuned) | differences, {figure: shown}, spent
    )


def _shifts(masses: Mapping[str, np.ndarray]) -> Shifts:
    """The differences of mass that are judged, paired by seed and document."""
    head, tail = ({name: found[..., [column, -1]] for name, found in masses.items()} for column in (0, 1))
    return Shifts(
        gain(head[REVERSE], head[FORWARD]),
        gain(tail[FORWARD], tail[REVERSE]),
        gain(head[REVERSE], head[TAID]),
        gain(tail[FORWARD], tail[TAID]),
    )


def _by_token(losses: np.ndarray) -> np.ndarray:
    means: np.ndarray = losses[..., 0].sum(-1) / losses[..., 1].sum(-1)
    return means


def _ours(pretrained: Pretrained, tuned: Tuned, size: Size, seeds: int) -> str:
    """What was done here, in a few sentences."""
    work = pretrained.work
    first, second = pretrained.rates, tuned.rates
    assert isinstance(first, BestRates), "from a search"
    assert isinstance(second, BestRates), "from a search"
    teachers = [work.teacher(rung.name) for rung in work.teachers]
    student = work.cell(next(iter(pretrained.starts.values())).name)
    return (
        f"A fresh student of {count(student['parameters'])} parameters learned {count(student['tokens'])} tokens from each of "
        f"{len(teachers)} teachers of {' / '.join(count(t['parameters']) for t in teachers)} parameters, by {len(LADDER)} "
        f"objectives and {seeds} seeds, and from the largest by {len(OBJECTIVES)}. Pretrained by cross-entropy, it then learned "
        f"{count(tuned.tokens)} tokens of questions about the standard library from that teacher, which was tuned on "
        f"{count(size.teaching_tokens)}, by the same {len(OBJECTIVES)}. Of {first.number} learning rates each objective had "
        f"the one that was best for it on teacher {size.tried_on + 1}, and of {second.number} on instructions, with another seed."
        f"{first.doubt}{' In tuning:' * bool(second.doubt)}{second.doubt}"
    )


def _numbers(pretrained: Pretrained, tuned: Tuned) -> dict[str, Any]:
    """The figures of each objective and teacher in both scenarios, as JSON."""
    work = pretrained.work
    student = work.cell(next(iter(pretrained.starts.values())).name)
    return {
        "student": {key: student[key] for key in ("parameters", "inside", "tokens", "shape")},
        "teachers": [work.teacher(rung.name) for rung in work.teachers],
        "lr_factor": pretrained.rates,
        "loss_nats": {name: _by_token(found).tolist() for name, found in pretrained.ladder.items()},
        "loss_nats_of_largest_teacher": {name: vars(mean(found)) for name, found in pretrained.largest.items()},
        "tokens_at_equal_flops": pretrained.tokens_at_flops,
        "loss_nats_at_equal_flops": {name: _by_token(found).tolist() for name, found in pretrained.at_flops.items()}
        | {SUPERVISED: _by_token(pretrained.supervised).tolist()},
        "masses": {name: _masses_as_json(found) for name, found in pretrained.masses.items()},
        "instructions": {
            "lr_factor": tuned.rates,
            "teacher": tuned.teacher,
            "answers_nats": {name: vars(mean(found)) for name, found in tuned.answers.items()},
            "checks_passed": {name: vars(mean(found)) for name, found in tuned.checks.items()},
            "masses": {name: _masses_as_json(found) for name, found in tuned.masses.items()},
        },
    }


def _masses_as_json(found: np.ndarray) -> dict[str, Any]:
    """The mean of each column, over the predictions of all documents and seeds."""
    total = found.sum((0, 1))
    return {name: float(total[i] / total[-1]) for i, name in enumerate(COLUMNS[:-1])}


_MARGIN = r"[+-][\d.]+ \([^)]+\) [^;(]+ than [^;(]+"
_DIFFERENCE = r"(?<=TAID: )[^(]+\([^)]+\) [^(]+"


def _smallest(seen: str) -> str:
    """Of TAID's margins over all baselines the smallest, with its interval."""
    margins = [
        one.strip() for clause in seen.split(";") for one in re.findall(_MARGIN, clause) if "equal FLOPs" not in one
    ]
    return f"at least {min(margins, key=lambda one: float(one.split()[0]))}" if margins else seen


def _of_taid(seen: str) -> str:
    """The two differences of TAID's mass."""
    return "; ".join(re.findall(r"(?:head|tail), [a-z]+ KL less TAID [^)]+\)", seen))


RECIPE = Recipe(
    name="taid-gap",
    title="TAID and the size of the teacher",
    paper="TAID: Temporally Adaptive Interpolated Distillation, arXiv 2501.16937",
    claim="A target that walks from the student's own prediction to the teacher's bridges the gap of capacity: with TAID a "
    "student gains the more the larger its teacher is, with forward KL, reverse KL and skew KL it does not.",
    differences=(
        "Fresh students and teachers of our own making, thousands of times smaller, on one text; there, Pythia models.",
        "The student's loss on held-out text, in nats per token, in place of LAMBADA and the Open LLM Leaderboard.",
        "Instructions are questions about Python's standard library. Answers are judged by checks that a program decides, where "
        "MT-Bench has a judge. Only answers are learned; there the prompts too.",
        "Adaptive KL, CTKD and GJS as their papers have them. In the released code adaptive KL looks for its head in another "
        "order than the vocabulary's, the temperature of CTKD is never learned, and GJS is NaN where logits lie far apart.",
        "No student generates text in training; there half of the batches of GJS and DistiLLM do. So DistiLLM is its skew KL.",
        "Head and tail by the teacher's ranking at each position, of 259 outcomes; there of 32,000.",
        "Each objective has its own learning rate, chosen with the same budget on one teacher; there one serves all.",
        "alpha of the adaptive schedule is 8 / steps, as the paper's 5e-4 is over the paper's steps: with 5e-4 so few steps "
        "as ours would make it the linear schedule.",
        "t moves once per optimiser step, by the loss of the whole step; in the released code also in evaluation, in every "
        "micro-batch and apart on each rank.",
        "Several seeds, and intervals over documents and seeds.",
    ),
    run=run,
    scales=SIZES,
    short={
        "keeps gaining": Short(
            "TAID gains more from larger teachers than others do", "(?<=student )[^;]+ nats|[^;]+ more than [^;]+"
        ),
        "helps in pretraining": Short("Pretraining: the interpolation helps, not a rising weight", _DIFFERENCE),
        "helps on instructions": Short("Instructions: the interpolation helps, not a rising weight", _DIFFERENCE),
        "all objectives in pretraining": Short("Pretraining: TAID beats every baseline", _smallest),
        "all objectives on instructions": Short("Instructions: TAID beats every baseline", _smallest),
        "collapse in pretraining": Short("Pretraining: TAID averages and collapses less", _of_taid),
        "collapse on instructions": Short("Instructions: TAID averages and collapses less", _of_taid),
    },
)
