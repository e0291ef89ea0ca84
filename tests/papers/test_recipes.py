"""Recipes run, write their page, and judge: confirmed, refuted and inconclusive are each reached from points that say so."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

import limbeck
from limbeck.errors import BadPoints, BadSetting, NotConverged
from limbeck.jobs.common.task import do
from limbeck.jobs.pilot import job
from limbeck.jobs.pilot.grid import SCALES, grid
from limbeck.jobs.probe.pass_until import Result, read_results
from limbeck.papers.capacity_gap import recipe as capacity_gap
from limbeck.papers.distillation_law import recipe as distillation_law
from limbeck.papers.lab import pilots
from limbeck.papers.lab.pilots import unsuited
from limbeck.papers.pass_until import estimators, task_ladder
from limbeck.papers.pass_until import recipe as pass_until
from limbeck.papers.pass_until.task_ladder import Ladder, Rung
from limbeck.planning.laws.estimate import Estimate
from limbeck.planning.laws.fit import Validation
from limbeck.planning.laws.limit import published_gains, refitted_gains
from limbeck.planning.laws.points import Point, longest, usual, with_teachers
from limbeck.probes.interval import Interval
from limbeck.probes.simulated import Trial, simulate, try_estimators
from tests.helpers.models import write_corpus
from tests.jobs.test_pilot import TINY
from tests.planning.test_laws import runs

GOOD = [{"gain_nats": 0.001, "seed_sd_nats": 0.01, "lr_factor": 2.0}]
BETTER = [{"gain_nats": 0.05, "seed_sd_nats": 0.01, "lr_factor": 2.0}]
SIZES = (1e6, 2e6)
RATIOS = (1.25, 1.7, 2.5, 4.0, 7.0, 12.0)


# The runs themselves, at a scale of seconds


@pytest.fixture(scope="module")
def tiny():
    """Scale "smoke" made smaller still, its pilot in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SCALES, "smoke", TINY)
        patch.setitem(pilots._SIZES, "smoke", {"students": "12k", "teachers": "18k,26k,36k"})
        patch.setattr(job, "run_here", lambda tasks, workers, report: [do(task) for task in tasks if not task.done])
        rungs = tuple(Rung(rung.name, rung.size, 1024) for rung in task_ladder._SMOKE)
        patch.setitem(task_ladder.LADDERS, "smoke", Ladder(rungs, ("addition",), 512, 10))
        patch.setattr(task_ladder, "_HELD_OUT", (50, 1))
        yield


@pytest.fixture(scope="module")
def done(tiny, tmp_path_factory):
    """A folder where all recipes ran, and by name the keys they were given."""
    folder = tmp_path_factory.mktemp("recipes")
    data = str(write_corpus(folder, 400))
    common = {"scale": "smoke", "workers": 1, "device": "cpu"}
    keys = {
        "capacity-gap": common | {"data": data, "out": folder / "gap"},
        "distillation-law": common | {"points": folder / "gap" / "pilot", "out": folder / "law"},
        "pass-until": common | {"seeds": 1, "out": folder / "until"},
    }
    return keys, {name: limbeck.reproduce(name, **given) for name, given in keys.items()}


NAMES = ["capacity-gap", "distillation-law", "pass-until"]


@pytest.mark.recipe
@pytest.mark.parametrize("name", NAMES)
def test_a_page_has_claim_criterion_verdict_cost_and_differences(done, name):
    keys, results = done
    page = (keys[name]["out"] / "README.md").read_text()
    assert "**The claim** (" in page
    assert "| claim | verdict | effect, 95 % interval | n |" in page
    assert "Confirmed: " in page
    assert "**Cost.** " in page
    assert "**Differences from the paper.**\n\n- " in page
    for one in results[name]["judged"]:
        assert one["claim"] in page
        assert "n = " in one["seen"] or "no model had" in one["seen"]
        assert one["verdict"] == "inconclusive"  # whatever came out of a few seconds
        assert one["seen"].startswith("this scale only checks")


@pytest.mark.recipe
@pytest.mark.parametrize("name", NAMES)
def test_the_same_command_again_does_nothing_anew(done, name):
    keys, results = done
    out = keys[name]["out"]
    kept = ("result.json", "model.safetensors", "readings.jsonl")

    def files():
        found = [path for path in out.rglob("*") if path.name in kept or path.parent.name == "points"]
        return {path: path.stat().st_mtime_ns for path in found}

    before = files()
    assert before or name == "distillation-law"
    again = limbeck.reproduce(name, **keys[name])
    assert files() == before
    assert again == results[name]


@pytest.mark.recipe
def test_a_recipe_runs_its_own_pilot_with_what_both_laws_need(done):
    keys, results = done
    pilot = keys["capacity-gap"]["out"] / "pilot"
    names = {path.name for path in (pilot / "cells").iterdir()}
    assert {"s0-alone-seed0-short", "s0-t0-fresh-seed1-short", "s0-t1-long-fresh-seed0"} <= names
    spent = json.loads((pilot / "run.json").read_text())["cpu_seconds"]
    assert results["capacity-gap"]["cpu_seconds"] >= spent > 0
    assert results["distillation-law"]["ours"].startswith(f"The pilot of {pilot}: ")
    assert results["capacity-gap"]["numbers"]["rates"] != []


@pytest.mark.parametrize(
    ("recipe", "keys", "error", "said"),
    [
        ("capacity-gab", {}, BadSetting, r"unknown paper 'capacity-gab'; did you mean 'capacity-gap'\?"),
        ("pass-until", {"points": "p"}, BadSetting, "--points p: pass-until is judged by trainings of its own"),
        ("pass-until", {"data": "x.txt"}, BadSetting, "--data x.txt: pass-until writes its own text"),
        ("capacity-gap", {"points": "nowhere"}, BadPoints, "nowhere: no such table; --points takes a pilot's folder"),
        ("distillation-law", {"points": "."}, BadPoints, r"expected points\.parquet or points\.json in it"),
        ("capacity-gap", {"scale": "gpu", "device": "cpu"}, BadSetting, "--scale gpu needs a CUDA device"),
        ("zoology", {"device": "foo"}, BadSetting, "--device foo: .* Use auto, cpu, cuda or cuda:1"),
        ("zoology", {"device": "mps"}, BadSetting, "--device mps: limbeck runs on a CPU or on CUDA"),
    ],
)
def test_bad_input_is_an_error_and_claims_no_folder(recipe, keys, error, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=said):
        limbeck.reproduce(recipe, **({"scale": "smoke", "out": tmp_path / "out"} | keys))
    assert sorted(p.name for p in tmp_path.rglob("*")) in ([], ["out", "run.json"])


# The capacity gap


def curve(arm, *, best=2.5, depth=0.1, tilt=0.0, noise=0.001, seeds=3, ratios=RATIOS, sizes=SIZES):
    """Students of every ratio: a valley around ``best``, or a slope by ``tilt``."""
    rng = np.random.default_rng(0)
    return [
        Point(
            size,
            2e7,
            float(3.0 + depth * np.log(ratio / best) ** 2 + tilt * np.log(ratio) + rng.normal(0, noise)),
            ratio * size,
            4.0 - 0.3 * math.log(ratio * size / 1e6),
            20 * ratio * size,
            arm,
            seed,
        )
        for size in sizes
        for ratio in ratios
        for seed in range(seeds)
    ]


def flat(arm, **changes):
    return curve(arm, depth=0.0, **changes)


VALLEYS = {
    "both arms": ([*curve("cut"), *curve("fresh")], GOOD, "confirmed"),
    "monotone": ([*flat("cut", tilt=0.05), *flat("fresh", tilt=-0.05)], GOOD, "refuted"),
    "damage, fresh monotone": ([*curve("cut"), *flat("fresh", tilt=-0.05)], GOOD, "refuted"),
    "damage, fresh flat": ([*curve("cut"), *flat("fresh")], GOOD, "refuted"),
    "fresh too noisy to tell": ([*curve("cut"), *flat("fresh", noise=0.3)], GOOD, "inconclusive"),
    "one size": ([*curve("cut", sizes=(1e6,)), *curve("fresh", sizes=(1e6,))], GOOD, "inconclusive"),
    "unlike ratios": (
        [*curve("cut", sizes=(1e6,)), *curve("cut", best=5.0, sizes=(2e6,)), *curve("fresh")],
        GOOD,
        "inconclusive",
    ),
    "a rate that suits one end": ([*curve("cut"), *curve("fresh")], BETTER, "inconclusive"),
    "unchecked rates": ([*curve("cut"), *curve("fresh")], [], "inconclusive"),
    "an arm missing": (curve("cut"), GOOD, "inconclusive"),
}


@pytest.mark.parametrize("name", VALLEYS)
def test_a_capacity_gap_is_judged(name):
    points, rates, verdict = VALLEYS[name]
    judged = capacity_gap.judge(points, rates)[0]
    assert judged.verdict == verdict, judged.seen
    assert f"n = {len(points)} trainings, 3 seeds" in judged.seen
    assert "Refuted: " in judged.criterion


@pytest.mark.parametrize(
    ("points", "rates", "verdict"),
    [
        (curve("cut"), GOOD, "confirmed"),
        (curve("cut", best=5.0), GOOD, "refuted"),
        (flat("cut", tilt=-0.05), GOOD, "refuted"),  # the best is at 12 times or above
        (flat("cut"), GOOD, "inconclusive"),
        ([*curve("cut", sizes=(1e6,)), *flat("cut", tilt=-0.05, sizes=(2e6,))], GOOD, "inconclusive"),
        (curve("cut"), BETTER, "inconclusive"),
    ],
)
def test_the_best_ratio_is_judged(points, rates, verdict):
    judged = capacity_gap.judge(points, rates)[1]
    assert judged.verdict == verdict, judged.seen


def taught(*, by_size, noise=0.0002, overtrained=True):
    """Fresh students whose loss follows their teacher's, and ``by_size`` nats a doubling of it."""
    rng = np.random.default_rng(1)
    teachers = [(r, 1.0) for r in RATIOS] + ([(r, 4.0) for r in RATIOS[:2]] if overtrained else [])
    found = []
    for size in SIZES:
        for ratio, longer in teachers:
            teacher, loss = ratio * size, 4.0 - 0.3 * math.log(ratio * size / 1e6) - 0.35 * math.log(longer)
            value = 3.0 + 0.4 * (loss - 3.5) ** 2 + by_size * math.log2(teacher) + rng.normal(0, noise)
            found.append(Point(size, 2e7, value, teacher, loss, 20 * longer * teacher))
    return found


@pytest.mark.parametrize(
    ("points", "verdict"),
    [
        (taught(by_size=0.0), "confirmed"),
        (taught(by_size=0.05), "refuted"),
        (taught(by_size=0.0, noise=0.2), "inconclusive"),
        (taught(by_size=0.0, overtrained=False), "inconclusive"),
        ([], "inconclusive"),
    ],
)
def test_whether_only_the_teachers_loss_matters_is_judged(points, verdict):
    judged = capacity_gap.judge(points, GOOD)[2]
    assert judged.verdict == verdict, judged.seen


def test_a_learning_rate_that_gains_more_than_seeds_differ_is_reported():
    assert unsuited(GOOD) == ""
    assert "another learning rate is better by more than seeds differ, at most by 0.050 nats" in unsuited(BETTER)
    assert "1 of 1 checks of the learning rate have no result" in unsuited([GOOD[0] | {"seed_sd_nats": None}])


def test_ratio_rules_are_fitted_to_the_usual_points():
    teacher = {"teacher_loss": 2.0, "teacher_params": 2e6}
    kept = [Point(1e6, 2e7, 3.0), Point(1e6, 2e7, 2.9, teacher_tokens=4e7, **teacher)]
    short, long = Point(1e6, 5e6, 3.5), Point(1e6, 2e7, 2.8, teacher_tokens=1.6e8, **teacher)
    assert longest([*kept, short, long]) == [*kept, long]
    assert usual([*kept, short, long]) == kept


def test_a_pilot_for_a_law_has_shorter_students_and_longer_teachers():
    how = {"students": [30_000], "teachers": [45_000, 90_000, 150_000], "vocab": 259, "seeds": range(2)}
    scale = SCALES["small"]
    usually, lawful = (grid(scale, **how, corpus_tokens=10**8, law=law) for law in (False, True))
    assert set(usually.cells) < set(lawful.cells)
    more = [cell for cell in lawful.cells if cell not in usually.cells]
    assert sorted({cell.teacher or "" for cell in more}) == ["", "t0", "t0-long", "t1", "t1-long", "t2"]
    assert {cell.tokens for cell in more} == {scale.student_tokens, scale.student_tokens // 4}
    capped = grid(scale, **how, corpus_tokens=1000, law=True)  # no teacher could be trained longer
    assert [rung.name for rung in capped.teachers] == ["t0", "t1", "t2"]


# The distillation law


def test_the_papers_number_is_judged():
    assert distillation_law.judge_number(distillation_law.published()).verdict == "confirmed"
    assert distillation_law.judge_number(2.44).verdict == "refuted"


@pytest.mark.parametrize(
    ("error", "gain", "verdict"),
    [
        (Estimate(0.01, 0.008, 0.012), Estimate(0.02, 0.01, 0.03), "confirmed"),
        (Estimate(0.05, 0.04, 0.06), Estimate(0.02, 0.01, 0.03), "inconclusive"),
        (Estimate(0.01, 0.008, 0.012), Estimate(0.001, -0.01, 0.02), "inconclusive"),
        (Estimate(0.01, 0.008, 0.012), Estimate(-0.01, -0.02, -0.001), "refuted"),
        (Estimate(0.01, 0.008, 0.012), Estimate(0.0, 0.0, 0.0), "refuted"),
    ],
)
def test_a_refit_is_judged(error, gain, verdict):
    judged = distillation_law.judge_refit(Validation(error, gain, 20), "n = 80 trainings, 3 seeds")
    assert judged.verdict == verdict
    assert "20 cells; n = 80 trainings" in judged.seen


@pytest.mark.recipe
def test_a_refit_of_a_law_with_a_gap_is_confirmed_with_its_numbers():
    fit, validation = distillation_law.refit(runs())
    judged = distillation_law.judge_refit(validation, "n = 85 trainings, 1 seeds")
    assert judged.verdict == "confirmed"
    assert validation.cells == 60
    gains = refitted_gains(fit, runs(), tokens=1e6)
    assert len(gains) == 20
    assert max(gain.high for gain in published_gains(tokens=20)) > 0  # no advantage of text alone so early


def test_points_without_a_law_are_inconclusive_with_the_reason(monkeypatch):
    why = distillation_law.refit(runs()[:4])
    judged = distillation_law.judge_refit(why, "n = 4 trainings, 1 seeds")
    assert judged.verdict == "inconclusive"
    assert "no law was fitted: the supervised law has 6 parameters" in judged.seen

    def fail(points):
        raise NotConverged("the fit found no optimum", best={})

    monkeypatch.setattr(distillation_law, "fit_distillation_law", fail)
    assert distillation_law.refit(runs()) == "the fit found no optimum"


def test_teachers_are_points_of_the_supervised_law():
    found = with_teachers([Point(1e6, 2e7, 3.0, 2e6, 2.5, 4e7, seed=seed) for seed in (0, 1)])
    assert found[2:] == [Point(2e6, 4e7, 2.5)]


@pytest.mark.parametrize(
    ("gains", "verdict"),
    [
        ([Estimate(-0.2, -0.3, -0.1), Estimate(-0.1, -0.2, -0.05)], "confirmed"),
        ([Estimate(-0.2, -0.3, -0.1), Estimate(0.1, 0.05, 0.2)], "refuted"),
        ([Estimate(-0.2, -0.3, -0.1), Estimate(-0.1, -0.2, 0.05)], "inconclusive"),
        ([], "inconclusive"),
    ],
)
def test_whether_text_alone_catches_up_is_judged(gains, verdict):
    assert distillation_law.judge_limit("law", gains, "n = 1").verdict == verdict


# Scores predicted before training


def answers(parameters, rates, seed=0):
    """A result as the probe would find it at these rates."""
    counts = simulate(np.asarray(rates), 4, 100_000, np.random.default_rng(seed))
    return Result(Path(f"addition-{parameters}.jsonl"), {"parameters": parameters}, tuple(counts))


def by_law(sizes, *, bend=0.0):
    """Results of instances that each follow a law of their own."""
    strength = np.random.default_rng(0).normal(0, 0.5, size=100)
    return [
        answers(n, np.exp(-np.exp(9.0 - 0.8 * np.log(n) + strength + bend * np.log(n / sizes[0]) ** 2)), seed=n)
        for n in sizes
    ]


def judged_law(results):
    return pass_until.judge_law("addition", pass_until.law_of(results), results)


def test_a_task_law_is_judged():
    sizes = (10_000, 20_000, 40_000, 80_000, 160_000, 320_000)
    assert (found := judged_law(by_law(sizes))).verdict == "confirmed", found.seen
    assert "n = 5 models fitted, 1 held out, 100 instances" in found.seen
    assert (found := judged_law(by_law(sizes, bend=-0.3))).verdict == "refuted", found.seen
    assert (found := judged_law(by_law(sizes[:3]))).verdict == "inconclusive"
    assert "no law was fitted: expected models of at least 3 sizes" in found.seen


@pytest.mark.long
def test_the_committed_study_has_the_verdicts_of_its_page(monkeypatch):
    folder = Path(__file__).parents[2] / "docs" / "results" / "pass-until"
    results = sorted(read_results(folder / "points"), key=lambda result: result.parameters)
    known = json.loads((folder / "results.json").read_text())
    judged = judged_law(results)
    assert judged.verdict == "refuted"
    assert f"predicted by instances {known['predictions'][1]['value']:.3g}" in judged.seen
    monkeypatch.setattr(estimators, "REPEATS", 50)
    trials = estimators.try_on(results)
    bias, cover = estimators.judge_estimators(trials)
    assert bias.verdict == "confirmed", bias.seen
    assert cover.verdict != "refuted", cover.seen
    rows = next(iter(known["estimators"].values()))["rows"]
    assert trials[0][0].bias.value == pytest.approx(rows[0]["relative_bias"])


def trial(name, low, high, *, covered=(0.945, 0.955)):
    bias, coverage = (Interval(sum(ends) / 2, *ends, 1000) for ends in ((low, high), covered))
    return Trial(name, 2, 0.01, bias, coverage)


@pytest.mark.parametrize(
    ("trials", "bias", "cover"),
    [
        ([trial("r/K", 0.1, 0.3), trial("(r-1)/(K-1)", -0.1, 0.1)], "confirmed", "confirmed"),
        ([trial("r/K", -0.1, 0.3), trial("(r-1)/(K-1)", -0.1, 0.1)], "refuted", "confirmed"),
        ([trial("r/K", 0.1, 0.3), trial("(r-1)/(K-1)", 0.05, 0.1)], "refuted", "confirmed"),
        (
            [trial("r/K", 0.1, 0.3), trial("r/K", -0.1, 0.3), trial("(r-1)/(K-1)", -0.1, 0.1, covered=(0.92, 0.97))],
            "inconclusive",
            "inconclusive",
        ),
        ([trial("r/K", 0.1, 0.3, covered=(0.90, 0.94)), trial("(r-1)/(K-1)", -0.1, 0.1)], "confirmed", "refuted"),
    ],
)
def test_estimators_are_judged(trials, bias, cover):
    assert tuple(judged.verdict for judged in estimators.judge_estimators([trials])) == (bias, cover)


def test_estimators_are_tried_only_where_passes_are_met():
    assert [judged.verdict for judged in estimators.judge_estimators([])] == ["inconclusive"] * 2
    rates = np.array([1e-40, 1e-3])
    counts = simulate(rates, 2, 100, np.random.default_rng(0))
    assert (counts[0].successes, counts[0].samples, counts[0].capped) == (0, 100, True)
    (trials,) = try_estimators([np.full(50, 0.05)], successes=(1, 2), repeats=20, cap=1000)
    assert [(t.estimator, t.successes) for t in trials] == [("r/K", 1), ("r/K", 2), ("(r-1)/(K-1)", 2)]
    assert trials[0].bias.value == pytest.approx(-math.log(0.05) / 0.95 - 1, rel=0.15)  # E[1/K] = -p ln p / (1 - p)
