"""The law of a task: fits recover known laws and detect bends, and predictions are compared with later measurements."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from limbeck.config import PredictSettings
from limbeck.errors import BadPoints
from limbeck.jobs.predict.job import KEPT, predict
from limbeck.jobs.probe.pass_until import FORMAT
from limbeck.planning.laws.task import Point, distinct_sizes, fit, same_size

SIZES = (20_000, 40_000, 80_000, 160_000)
CAP = 4000


def rates(
    parameters: int, *, alpha: float = 0.5, spread: float = 0.0, bend: float = 0.0, instances: int = 120
) -> np.ndarray:
    """exp(-c N^-alpha) of instances with different c; ``bend`` is quadratic in log N."""
    x = math.log(parameters / 80_000)
    offset = np.random.default_rng(5).normal(0, spread, instances)
    return np.exp(-np.exp(1.0 + offset - alpha * x + bend * x * x))


def point(parameters: int, *, seed: int = 0, noise: float = 0.02, **law) -> Point:
    """Counts as from the sampler, of models close to the law."""
    generator = np.random.default_rng([parameters, seed])
    p = rates(parameters, **law)
    p = np.exp(-np.exp(np.log(-np.log(p)) + generator.normal(0, noise)))
    waited = 4 + generator.negative_binomial(4, np.maximum(p, 1e-9))
    capped = waited > CAP
    passed = np.where(capped, np.minimum(3, generator.binomial(CAP, p)), 4).astype(float)
    samples = np.where(capped, CAP, waited).astype(float)
    return Point(parameters, passed, samples, np.where(capped, passed / samples, 3 / (samples - 1)))


def test_a_planted_law_is_recovered():
    law = fit([point(size) for size in SIZES])
    assert law.alpha == pytest.approx(0.5, abs=0.06)
    assert law.c == pytest.approx(math.e * 80_000**0.5, rel=0.6)
    assert law.instance_alpha == pytest.approx(0.5, abs=0.06)
    assert law.curvature.kind == "linear"
    for prediction in law.predict(320_000):
        assert prediction.low < rates(320_000).mean() < prediction.high
        assert prediction.value == pytest.approx(rates(320_000).mean(), rel=0.1)
        assert not prediction.below


def test_different_instances_are_predicted_better_one_by_one():
    spread = {"spread": 1.0, "alpha": 0.6}
    law = fit([point(size, noise=0.0, **spread) for size in SIZES])
    truth = rates(1_280_000, **spread).mean()
    dataset, instance = (abs(p.value / truth - 1) for p in law.predict(1_280_000))
    assert instance < dataset
    assert instance < 0.1


@pytest.mark.long
def test_intervals_of_predictions_hold_new_models():
    held = []
    for seed in range(12):
        points = [point(size, seed=2 * seed + s, noise=0.1) for size in SIZES for s in (0, 1)]
        new = point(320_000, seed=99 + seed, noise=0.1).rates.mean()
        held += [p.low <= new <= p.high for p in fit(points).predict(320_000)]
    assert np.mean(held) > 0.85


@pytest.mark.parametrize(("bend", "kind"), [(0.3, "convex"), (-0.3, "concave")])
def test_a_bend_is_distinguished_from_a_line(bend, kind):
    points = [point(size, seed=s, noise=0.01, bend=bend, alpha=0.8) for size in (*SIZES, 320_000) for s in (0, 1)]
    assert fit(points).curvature.kind == kind


def test_models_without_a_pass_are_censored_not_zero():
    nothing = Point(5_000, np.zeros(120), np.full(120, float(CAP)), np.zeros(120))
    law = fit([nothing, *(point(size) for size in SIZES)])
    assert law.left_out == (5_000,)
    dataset, instance = law.predict(320_000)
    assert dataset.value == pytest.approx(rates(320_000).mean(), rel=0.1)
    assert instance.value == pytest.approx(rates(320_000).mean(), rel=0.2)


def test_smaller_than_all_is_flagged():
    law = fit([point(size) for size in SIZES])
    assert all(p.below for p in law.predict(10_000))
    assert not any(p.below for p in law.predict(19_900))


def test_sizes_within_two_percent_are_one():
    assert distinct_sizes([20_000, 20_300, 30_000]) == [20_000, 30_000]
    assert same_size(1000, 1019)
    assert not same_size(1000, 1030)


def test_a_line_needs_three_sizes_and_some_passes():
    with pytest.raises(BadPoints, match=r"at least 3 sizes, got 2 \(20000, 40000\)"):
        fit([point(20_000), point(20_000, seed=1), point(40_000)])
    nothing = [Point(size, np.zeros(3), np.full(3, 9.0), np.zeros(3)) for size in SIZES]
    with pytest.raises(BadPoints, match="--max-samples"):
        fit(nothing)


def write(folder: Path, parameters: int, *, task: str = "sums") -> None:
    at = point(parameters)
    about = {
        "format": FORMAT,
        "task": task,
        "task_sha256": task,
        "model": f"m{parameters}",
        "parameters": parameters,
        "measured": "t",
    }
    counts = [
        {"name": str(i), "successes": int(x), "samples": int(n), "capped": bool(x < 4)}
        for i, (x, n) in enumerate(zip(at.successes, at.samples, strict=True))
    ]
    folder.mkdir(exist_ok=True)
    (folder / f"{task}-{parameters}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [about, *counts]))


def predicted(folder: Path, params: str, *, task: str = "sums") -> dict:
    return predict(PredictSettings(points=folder, task=task, params=params))


def test_a_prediction_is_compared_with_a_later_measurement(tmp_path):
    for size in SIZES:
        write(tmp_path / "points", size)
    first = predicted(tmp_path / "points", "320k")
    assert first["checks"] == []
    assert len((tmp_path / "points" / KEPT).read_text().splitlines()) == 2
    write(tmp_path / "points", 322_000)
    second = predicted(tmp_path / "points", "320k")
    assert second["predictions"] == first["predictions"], "the model itself took no part"
    assert len((tmp_path / "points" / KEPT).read_text().splitlines()) == 2, "the same prediction is kept once"
    assert [c["held"] for c in second["checks"]] == [True, True]
    assert second["checks"][0]["measured"] == pytest.approx(point(322_000).rates.mean())
    assert "fewer" in predicted(tmp_path / "points", "5k")["warnings"][0]


def test_bad_folders_are_one_message(tmp_path):
    with pytest.raises(BadPoints, match="got none"):
        predicted(tmp_path / "nowhere", "1M")
    with pytest.raises(BadPoints, match="holds no result"):
        predicted(tmp_path, "1M")
    write(tmp_path, 20_000)
    with pytest.raises(BadPoints, match="did you mean 'sums'"):
        predicted(tmp_path, "1M", task="sum")
    file = tmp_path / "sums-20000.jsonl"
    file.write_text(file.read_text()[:-20])
    with pytest.raises(BadPoints, match="damaged"):
        predicted(tmp_path, "1M")
