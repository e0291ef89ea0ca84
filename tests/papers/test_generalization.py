"""The recipe generalization: read-outs by gradient flow beside steps of gradient descent, its criteria, and a run."""

import numpy as np
import pytest

import limbeck
from limbeck.papers.generalization import judging
from limbeck.papers.generalization.flow import Flow


@pytest.mark.parametrize("samples", [12, 40])
def test_flow_is_gradient_descent_in_small_steps_and_ends_at_least_squares(samples):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(samples, 20)) / 5, rng.normal(size=(samples, 2))
    student, rate = np.zeros((20, 2)), 2e-3
    for _ in range(1000):
        student -= rate * x.T @ (x @ student - y)
    flow = Flow.of(x, y)
    np.testing.assert_allclose(flow.after(1000 * rate), student, atol=2e-3)
    np.testing.assert_allclose(flow.after(np.inf), np.linalg.lstsq(x, y, rcond=None)[0], atol=1e-9)
    np.testing.assert_allclose(flow.ridge(0.3), np.linalg.solve(x.T @ x + 0.3 * np.eye(20), x.T @ y), atol=1e-9)


@pytest.mark.parametrize(("found", "verdict"), [(0.03, "confirmed"), (0.031, "inconclusive"), (0.11, "refuted")])
def test_the_formula_has_to_be_near_at_each_ratio(found, verdict):
    assert judging.judge_formula({0.5: 0.01, 1.0: found}, 30).verdict == verdict


def errors(few, peak, many, **others):
    """Three seeds with 100 samples and 10, 100 and 1,000 features."""
    ends = {10: few, 100: peak, 1000: many}
    rows = {
        width: [
            {"end": end * spread, "best": 1.0, "formula": 1.0, "left_out": 1.0} | others for spread in (1, 1.1, 0.9)
        ]
        for width, end in ends.items()
    }
    return {100: rows}


@pytest.mark.parametrize(
    ("ends", "verdict"),
    [((1, 9, 2), "confirmed"), ((1, 0.5, 2), "refuted"), ((1, 1, 0.5), "inconclusive")],
)
def test_the_peak_has_to_be_above_both_ends(ends, verdict):
    found = errors(*ends)
    for row, spread in zip(found[100][100], (1.0, 0.8, 1.2), strict=True):
        row["end"] *= spread
    assert judging.judge_peak(found).verdict == verdict


def test_a_stop_has_to_be_within_the_margin_in_most_read_outs():
    assert judging.judge_stop(errors(1, 9, 2, formula=1.05)).verdict == "confirmed"
    assert judging.judge_stop(errors(1, 9, 2, formula=1.06)).verdict == "refuted"
    mixed = errors(1, 9, 2)
    for row in mixed[100][10]:
        row["formula"] = 1.06
    assert judging.judge_stop(mixed).verdict == "inconclusive"
    assert "67% within 5% by the formula" in judging.judge_stop(mixed).seen


@pytest.mark.recipe
def test_the_recipe_runs_and_continues(tmp_path):
    keys = {"scale": "smoke", "out": tmp_path / "out", "seeds": 2, "workers": 1}
    first = limbeck.reproduce("generalization", **keys)
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("result.json")}
    assert len(first.judged) == 3
    assert {one["verdict"] for one in first.judged} == {"inconclusive"}
    again = limbeck.reproduce("generalization", **keys)
    assert {path: path.stat().st_mtime_ns for path in files} == files
    assert again.judged == first.judged
