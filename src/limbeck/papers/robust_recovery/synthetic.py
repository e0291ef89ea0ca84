"""Recovery of a low-rank matrix from measurements with gross outliers, by gradient steps on factors from a small or large start.

Measurements are y_i = ⟨A_i, X⟩ + s_i with symmetric Gaussian A_i (d, d), a positive semidefinite X of rank r, and s_i that is 0
but for a share of outliers. U (d, r') is fitted by steps on (1/m) Σ |⟨A_i, UUᵀ⟩ - y_i| (arXiv 2202.08788, eq. 2), or on the mean
of squares.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

OUTLIER = 100.0  # their standard deviation; that of a clean measurement is about the norm of X, which is 1
RATE, DECAY = 0.2, 0.985  # of steps on absolute errors: RATE DECAY^t; the paper asks for a geometric decay
SQUARES = 0.04  # of steps on squares, whose gradient shrinks by itself


@dataclass(frozen=True)
class Problem:
    """The size of a recovery: a matrix (d, d) of rank ``rank``, its measurements, and the share of those with outliers."""

    d: int
    rank: int
    measurements: int
    outliers: float


@dataclass(frozen=True)
class Fit:
    """How U is fitted: its columns, the size of its random start, the loss, and the number of steps."""

    columns: int
    start: float
    loss: Literal["absolute", "square"]
    steps: int


def relative_error(problem: Problem, fit: Fit, seed: int) -> float:
    """‖UUᵀ - X‖ / ‖X‖ after the last step (Frobenius). All fits of a seed have the same matrix and measurements."""
    rng = np.random.default_rng(seed)
    d, m = problem.d, problem.measurements
    basis = np.linalg.qr(rng.normal(size=(d, problem.rank)))[0]
    matrix = basis @ basis.T / np.sqrt(problem.rank)
    maps = rng.normal(size=(m, d, d))
    maps = (maps + maps.transpose(0, 2, 1)) / 2
    noise = np.where(rng.random(m) < problem.outliers, OUTLIER * rng.normal(size=m), 0.0)
    measured = maps.reshape(m, -1) @ matrix.ravel() + noise
    u = fit.start * rng.normal(size=(d, fit.columns)) / np.sqrt(d)
    for step in range(fit.steps):
        u = u - _step(u, maps, measured, fit, step)
        if not np.isfinite(u).all() or np.abs(u).max() > 1 / np.finfo(np.float32).eps:
            return float("inf")
    return float(np.linalg.norm(u @ u.T - matrix) / np.linalg.norm(matrix))


def _step(
    u: Float[np.ndarray, "d k"],
    maps: Float[np.ndarray, "m d d"],
    measured: Float[np.ndarray, " m"],
    fit: Fit,
    step: int,
) -> Float[np.ndarray, "d k"]:
    m = len(measured)
    rest = maps.reshape(m, -1) @ (u @ u.T).ravel() - measured
    absolute = fit.loss == "absolute"
    pull = np.sign(rest) if absolute else rest
    gradient = (pull @ maps.reshape(m, -1) / m).reshape(maps.shape[1:]) @ u  # maps are symmetric: A + Aᵀ is twice A
    return (RATE * DECAY**step if absolute else SQUARES) * 2 * gradient
