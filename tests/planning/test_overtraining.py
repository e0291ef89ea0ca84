"""Over-training: the formulas at their limits and beside trained read-outs, and the numbers that `plan --samples` derives."""

import numpy as np
import pytest

from limbeck.planning.overtraining import Readout, Spectrum, estimated_snr


def test_the_isotropic_spectrum_has_the_moments_of_its_law():
    for ratio in (0.3, 1.0, 2.5):
        found = Spectrum.isotropic(ratio)
        moments = [found.shares @ found.eigenvalues**power for power in (0, 1, 2)]
        np.testing.assert_allclose(moments, [1, ratio, ratio + ratio**2], rtol=1e-9)


@pytest.mark.parametrize(
    ("ratio", "end"),
    [(0.5, 0.5 * 5 + 1 / 0.5), (2.0, 2.0), (0.01, 0.99 * 5 + 1 / 0.99), (100.0, 100 / 99), (1.0, np.inf)],
)
def test_training_for_ever_ends_at_the_published_limits(ratio, end):
    found = Readout(Spectrum.isotropic(ratio), 5.0)
    assert found.without_end == pytest.approx(end)
    assert np.isinf(end) or found.held_out(np.array([1e7]))[0] == pytest.approx(end, rel=1e-6)
    start = found.held_out(np.array([0.0]))[0], found.training(np.array([0.0]))[0]
    np.testing.assert_allclose(start, 6.0)
    assert found.training(np.array([1e7]))[0] == pytest.approx(max(0.0, 1 - 1 / ratio), abs=1e-3)


def test_with_few_or_many_samples_a_stop_gains_nothing():
    for ratio in (1e-3, 1e3):
        found = Readout(Spectrum.isotropic(ratio), 5.0)
        assert found.without_end / found.held_out(np.array([found.best_time]))[0] < 1.002
    assert Readout(Spectrum.isotropic(1e3), 5.0).without_end == pytest.approx(1, abs=2e-3)
    assert Readout(Spectrum.isotropic(1e-3), 5.0).without_end == pytest.approx(6, abs=6e-3)


@pytest.mark.parametrize(("ratio", "stop", "ridge"), [(0.5, 0.826, 0.822), (1.0, 0.568, 0.558), (2.0, 0.354, 0.348)])
def test_the_best_stop_and_ridge_are_those_of_an_independent_computation(ratio, stop, ridge):
    found = Readout(Spectrum.isotropic(ratio), 5.0)
    at = found.held_out(found.best_time * np.array([0.9, 1.0, 1.1]))
    assert at[1] < min(at[0], at[2])
    errors = [at[1], found.ridge(found.best_ridge)]
    np.testing.assert_allclose(np.array(errors) / 5, [stop, ridge], atol=6e-4)
    assert all(found.ridge(found.best_ridge * factor) > found.ridge(found.best_ridge) for factor in (0.8, 1.25))


@pytest.mark.parametrize(("samples", "start"), [(20, 0.0), (80, 1.0)])
def test_errors_are_those_of_trained_readouts(samples, start):
    """With inputs that are given all is exact in the mean over signals, noise and starts, which are drawn here."""
    rng = np.random.default_rng(3)
    numbers, draws, snr, rate, steps = 40, 400, 4.0, 0.05, 60
    x = rng.normal(size=(samples, numbers)) / np.sqrt(numbers)
    w = rng.normal(size=(numbers, draws)) * np.sqrt(snr)
    y = x @ w + rng.normal(size=(samples, draws))
    student = rng.normal(size=w.shape) * np.sqrt(start * snr)
    for _ in range(steps):
        student -= rate * x.T @ (x @ student - y)
    found = Readout(Spectrum.of_samples(x), snr, start)
    time = np.array([steps * rate])
    assert found.held_out(time)[0] == pytest.approx(1 + ((student - w) ** 2).mean(), rel=0.02)
    assert found.training(time)[0] == pytest.approx(((x @ student - y) ** 2).mean(), rel=0.02)


def test_small_eigenvalues_lose_no_digits():
    """(1 - exp(-lambda t))^2 / lambda is lambda t^2 to first order; as 1 - exp it would lose three digits here."""
    tiny = Spectrum(np.array([1e-14, 1.0]), np.array([0.5, 0.5]), np.array([1.0, 0.0]), 1.0, 1e14)
    found = Readout(tiny, 1.0).held_out(np.array([10.0]))[0]
    assert found - 2 == pytest.approx(8e-13, rel=0.01, abs=0)


def test_the_ratio_of_signal_and_noise_is_found_in_the_labels():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 90)) / np.sqrt(90)
    values, vectors = np.linalg.eigh(x @ x.T)
    found = []
    for _ in range(20):
        y = x @ rng.normal(size=90) * np.sqrt(5) + rng.normal(size=120)
        found.append(estimated_snr(values.clip(0), vectors.T @ y))
    assert np.exp(np.mean(np.log(found))) == pytest.approx(5, rel=0.2)
