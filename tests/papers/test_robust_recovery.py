"""The recipe robust-recovery: matrices are recovered as theory says, fits are what they claim, criteria give each verdict."""

import numpy as np
import pytest
import torch

import limbeck
from limbeck.papers.robust_recovery import judging
from limbeck.papers.robust_recovery.fitting import absolute_factors, inputs_of, moments_of
from limbeck.papers.robust_recovery.judging import LARGE, RANK, SMALL, SQUARE
from limbeck.papers.robust_recovery.synthetic import Fit, Problem, relative_error
from limbeck.papers.robust_recovery.training import DIRTY, dirtied
from limbeck.students.factor import factored, linears, moments
from tests.helpers.zoo import animal, packed


def test_without_outliers_squares_recover_too():
    clean = Problem(10, 2, 300, 0.0)
    assert relative_error(clean, Fit(2, 1e-3, "square", 600), 0) < 1e-4
    assert relative_error(clean, Fit(2, 1e-3, "absolute", 600), 0) < 1e-3


def test_with_outliers_absolute_errors_alone_recover():
    dirty = Problem(10, 2, 300, 0.1)
    assert relative_error(dirty, Fit(10, 1e-3, "absolute", 600), 0) < 1e-2
    assert relative_error(dirty, Fit(10, 1e-3, "square", 600), 0) > 0.5


def errors(**medians):
    names = {"small": SMALL, "large": LARGE, "rank": RANK, "square": SQUARE}
    return {0.1: {names[name]: [value] * 3 for name, value in medians.items()}}


@pytest.mark.parametrize(
    ("judge", "found", "verdict"),
    [
        ("recovery", {"small": 5e-4, "square": 3.0}, "confirmed"),
        ("recovery", {"small": 0.6, "square": 3.0}, "refuted"),
        ("recovery", {"small": 5e-4, "square": 5e-4}, "refuted"),
        ("recovery", {"small": 5e-3, "square": 3.0}, "inconclusive"),
        ("columns", {"small": 9e-5, "rank": 1e-5}, "confirmed"),
        ("columns", {"small": 2e-4, "rank": 1e-5}, "refuted"),
        ("start", {"small": 1e-3, "large": 1e-2}, "confirmed"),
        ("start", {"small": 1e-3, "large": 5e-3}, "inconclusive"),
        ("start", {"small": 1e-3, "large": 9e-4}, "refuted"),
    ],
)
def test_claims_about_matrices(judge, found, verdict):
    whole = {"small": 1.0} | found
    assert getattr(judging, f"judge_{judge}")(errors(**whole)).verdict == verdict


def losses(level, seed=0):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(50, 100, (1, 40)).repeat(3, 0).astype(float)
    own = 0.001 * np.random.default_rng(int(1000 * level)).normal(size=(3, 40))
    return np.stack([tokens * (level + own), tokens], -1)


def test_robust_fits_have_to_be_better_by_what_matters():
    base = {0.6: losses(3.0), 0.4: losses(3.5)}
    better = {0.6: losses(2.9), 0.4: losses(3.4)}
    assert judging.judge_robust(base, {"trimmed": better, "absolute": base}).verdict == "confirmed"
    assert judging.judge_robust(base, {"trimmed": base}).verdict == "refuted"
    assert judging.judge_robust(base, {"trimmed": {0.6: losses(2.9), 0.4: losses(3.5)}}).verdict == "inconclusive"


@pytest.mark.parametrize("judge", [judging.judge_apart, judging.judge_cut])
def test_a_lower_loss_has_to_be_lower_at_each_share(judge):
    base, better, worse = ({0.6: losses(level), 0.4: losses(level + 0.5)} for level in (3.0, 2.9, 3.1))
    assert judge(base, better).verdict == "confirmed"
    assert judge(base, worse).verdict == "refuted"
    assert judge(base, {0.6: better[0.6], 0.4: worse[0.4]}).verdict == "inconclusive"


def test_inputs_have_the_moments_of_the_product():
    model, batch = animal("llama"), packed()
    maps = linears(model)
    found, theirs = inputs_of(model, [batch] * 8, maps), moments(model, [batch] * 8, maps)
    for name, x in found.items():
        torch.testing.assert_close(moments_of(x.detach()).second, theirs[name].second)
    assert found["layers.0.self_attn.q_proj"] is found["layers.0.self_attn.v_proj"]


def test_absolute_errors_are_lower_than_those_of_the_start():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(300, 10, generator=g)
    x[::20] *= 30
    weight = torch.randn(12, 10, generator=g)
    start = factored(weight, moments_of(x), 4)
    found = absolute_factors(weight, x, start, 0)

    def error(factors):
        return float((x @ (weight - factors.matrix).T).abs().mean())

    assert error(found) < 0.99 * error(start)


def test_random_tokens_are_as_many_as_said_and_targets_stay():
    batch = packed()
    many = [dirtied(batch, 50, seed) for seed in range(60)]
    changed = np.mean([float((one.tokens != batch.tokens).float().mean()) for one in many])
    assert changed == pytest.approx(DIRTY * 49 / 50, abs=0.012)
    assert all(torch.equal(one.targets, batch.targets) for one in many)


@pytest.mark.recipe
def test_the_recipe_runs_and_continues(tmp_path):
    keys = {"scale": "smoke", "out": tmp_path / "out", "seeds": 2, "workers": 1}
    first = limbeck.reproduce("robust-recovery", **keys)
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("result.json")}
    assert len(first.judged) == 6
    assert {one["verdict"] for one in first.judged} == {"inconclusive"}
    again = limbeck.reproduce("robust-recovery", **keys)
    assert {path: path.stat().st_mtime_ns for path in files} == files
    assert again.judged == first.judged
