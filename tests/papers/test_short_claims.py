"""Tables of pages have the claims of every paper in a few words, with effect and n, in short cells."""

from pathlib import Path

import numpy as np
import pytest

from limbeck.jobs.probe.pass_until import Result
from limbeck.papers import recipe
from limbeck.papers.lab.recipe import count_of
from limbeck.papers.minima import recipe as minima
from limbeck.papers.pass_until import recipe as pass_until
from limbeck.papers.pass_until.estimators import judge_estimators
from limbeck.papers.taid_gap.judging import (
    INSTRUCTIONS,
    PRETRAINING,
    Shifts,
    judge_best,
    judge_gap,
    judge_masses,
    judge_ramp,
)
from limbeck.probes.interval import Interval
from limbeck.probes.simulated import Trial, simulate

COUNTS = tuple(simulate(np.full(20, 0.2), 4, 1_000, np.random.default_rng(0)))
RESULTS = [Result(Path(f"{size}.jsonl"), {"parameters": size}, COUNTS) for size in (10, 20)]
SMALL, LARGE = Interval(0.01, -0.02, 0.04, 56), Interval(0.3, 0.2, 0.4, 56)


def shown(name, judged, seeds=3):
    short = recipe(name).short_of(judged.claim)
    return short.claim, short.effect_of(judged.seen), count_of(judged.seen, seeds)


def test_taid_gap():
    gap = judge_gap(SMALL, {"forward KL": LARGE, "skew KL": SMALL}, LARGE, LARGE, rising=True, seeds=3)
    assert shown("taid-gap", gap) == (
        "TAID gains more from larger teachers than others do",
        "+0.0100 (-0.0200 to +0.0400) nats; +0.3000 (+0.2000 to +0.4000) more than forward KL; "
        "+0.0100 (-0.0200 to +0.0400) more than skew KL",
        "56 documents, 3 seeds",
    )
    assert shown("taid-gap", judge_ramp(LARGE, PRETRAINING, seeds=3)) == (
        "Pretraining: the interpolation helps, not a rising weight",
        "+0.3000 (+0.2000 to +0.4000) nats better",
        "56 documents, 3 seeds",
    )
    assert shown("taid-gap", judge_ramp(LARGE, INSTRUCTIONS, seeds=3)) == (
        "Instructions: the interpolation helps, not a rising weight",
        "+0.3000 (+0.2000 to +0.4000) more of the checks",
        "56 modules asked about, 3 seeds",
    )


@pytest.mark.parametrize(
    ("scene", "where"), [(PRETRAINING, "Pretraining"), (INSTRUCTIONS, "Instructions")], ids=["text", "answers"]
)
def test_taid_gap_beside_baselines_and_by_mass(scene, where):
    at_flops = Interval(-0.5, -0.6, -0.4, 56) if scene is PRETRAINING else None
    best = judge_best({"forward KL": LARGE, "DKD": SMALL}, at_flops, scene, seeds=3)
    n = f"56 {scene.noun}, 3 seeds"
    effect = f"at least +0.0100 (-0.0200 to +0.0400) {scene.better} than DKD"
    assert shown("taid-gap", best) == (f"{where}: TAID beats every baseline", effect, n)
    masses = judge_masses(Shifts(LARGE, LARGE, SMALL, LARGE), scene, seeds=3)
    assert shown("taid-gap", masses) == (
        f"{where}: TAID averages and collapses less",
        "head, reverse KL less TAID +1.00e-02 (-2.00e-02 to +4.00e-02); "
        "tail, forward KL less TAID +3.00e-01 (+2.00e-01 to +4.00e-01)",
        n,
    )


def test_minima():
    law = minima.judge_law(LARGE, SMALL, stronger=True, seeds=3)
    assert shown("minima", law) == (
        "The law's teacher makes a better student than the largest",
        "+0.3000 (+0.2000 to +0.4000) nats better at equal tokens",
        "56 documents, 3 seeds",
    )
    frontier = minima.judge_frontier({"smallest teacher": LARGE, "cut and cross-entropy": SMALL}, seeds=3)
    assert shown("minima", frontier) == (
        "Nothing that costs no more answers better",
        "at least +0.0100 (-0.0200 to +0.0400) nats better than cut and cross-entropy",
        "56 modules asked about, 3 seeds",
    )


def test_minima_by_checks():
    chat = minima.judge_chat(LARGE, {"smallest teacher": LARGE, "cut and cross-entropy": SMALL}, seeds=3)
    assert shown("minima", chat) == (
        "Its tuned student passes more checks than those of no more FLOPs",
        "at least +0.0100 (-0.0200 to +0.0400) more than cut and cross-entropy",
        "56 modules asked about, 3 seeds",
    )


def test_minima_with_nothing_that_costs_no_more():
    assert shown("minima", minima.judge_chat(LARGE, {}, seeds=3))[1] == "nothing costs as little"
    assert shown("minima", minima.judge_frontier({}, seeds=3))[1] == "nothing costs as little"


@pytest.mark.parametrize("task", recipe("pass-until").scales["gpu"].tasks)
def test_pass_until_names_the_task(task):
    claim, effect, n = shown("pass-until", pass_until.judge_law(task, "too few sizes", RESULTS))
    assert claim == f"{task}: smaller models predict the pass rate of a larger one"
    assert effect == "no law was fitted: too few sizes"
    assert n == "1 models fitted, 1 held out, 20 instances, 3 seeds"


def test_pass_until_tells_the_estimators_apart():
    trials = [Trial("r/K", 1, 0.2, LARGE, SMALL), Trial("(r-1)/(K-1)", 2, 0.2, SMALL, LARGE)]
    bias, cover = (shown("pass-until", one, seeds=1) for one in judge_estimators([trials]))
    assert bias[:2] == (
        "r/K is too high, (r-1)/(K-1) has no bias",
        "largest bias of r/K +30.0% (+20.0% to +40.0%) at r = 1, of (r-1)/(K-1) +1.0% (-2.0% to +4.0%) at r = 2",
    )
    assert cover[:2] == (
        "Exact 95 % intervals hold the truth in 95 % of cases",
        "least coverage 1.0% (-2.0% to 4.0%)",
    )
    assert bias[2].startswith("56 draws each, 1 models")
