"""Over-training of a linear read-out: held-out and training error by training time, the best time to stop, and the best ridge.

From Advani, Saxe & Sompolinsky, "High-dimensional dynamics of generalization error in neural networks" (arXiv 1710.03667). Labels
are y = w·x + noise, of P samples and N numbers that are trained; the signal w has variance S in each direction, the noise
variance 1, and the student starts at zero or, independent of w, with ``start`` times S. Inputs have variance 1/N, so S is the
signal-to-noise ratio of the labels. Training is gradient descent with small steps on half the *summed* squared error, and time t
is the learning rate times the number of steps. All errors are in units of the noise's variance.

An eigenvalue λ of the inputs' Gram matrix is a direction that is learned at the rate λ: signal is gained as exp(−2λt), noise
is fitted as (1 − exp(−λt))²/λ. Directions without samples (λ = 0) are frozen. Averages are exact for inputs whose true covariance
is isotropic; for others a spectrum with weights is an approximation.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float

Values = Float[np.ndarray, " values"]
Times = Float[np.ndarray, " times"]

_NODES = 2048  # of the isotropic spectrum, whose smallest eigenvalues resolve times of 1e5
_TRIED = 100  # times in each of the two grids that find the best
_FLAT = 1e-12  # eigenvalues below this share of the largest count as 0


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues of the Gram matrix of P samples, and the share of the N directions that has each; shares sum to 1.

    ``weights`` is how much each counts in the held-out error, which also sum to 1. ``ratio`` is P / N, samples per number that is
    trained. ``inverse`` is the weighted sum of 1/λ over λ > 0, infinite where the eigenvalues go down to 0 without a gap.
    """

    eigenvalues: Values
    shares: Values
    weights: Values
    ratio: float
    inverse: float

    @classmethod
    def isotropic(cls, ratio: float) -> Spectrum:
        """That of many independent inputs of variance 1/N (Marchenko-Pastur), with P/N = ``ratio`` above 0.

        The midpoint rule in the angle whose cosine runs over the band, which is smooth there.
        """
        angles = (np.arange(_NODES) + 0.5) * np.pi / _NODES
        band = 1 + ratio + 2 * np.sqrt(ratio) * np.cos(angles)
        shares = np.append(2 * ratio * np.sin(angles) ** 2 / band / _NODES, max(0.0, 1.0 - ratio))
        inverse = np.inf if ratio == 1 else min(1.0, ratio) / abs(ratio - 1)
        return cls(np.append(band, 0.0), shares, shares, ratio, inverse)

    @classmethod
    def of_samples(cls, inputs: Float[np.ndarray, "samples inputs"], *, by_size: bool = False) -> Spectrum:
        """That of given inputs, which are used as they are: centre them first.

        All directions count alike in the held-out error, or ``by_size``: as much as the samples vary in them.
        """
        samples, numbers = inputs.shape
        few = np.linalg.eigvalsh(inputs @ inputs.T if samples < numbers else inputs.T @ inputs)
        found = np.zeros(numbers)
        found[: len(few)] = np.where(few > _FLAT * few[-1], few, 0.0)
        shares = np.full(numbers, 1 / numbers)
        weights = found / found.sum() if by_size else shares
        learned = found > 0
        return cls(found, shares, weights, samples / numbers, float((weights[learned] / found[learned]).sum()))


@dataclass(frozen=True)
class Readout:
    """A linear read-out of inputs with a spectrum; ``snr`` above 0, and the variance of the ``start`` over that of the signal."""

    spectrum: Spectrum
    snr: float
    start: float = 0.0

    def held_out(self, times: Times) -> Times:
        """The expected squared error on new samples after training for each time."""
        values, weights = self._trained
        gone = -np.expm1(-np.multiply.outer(times, values))  # the share of each direction that is learned
        signal = self.snr * (1 + self.start)
        return 1 + self._frozen + (signal * (1 - gone) ** 2 + gone**2 / values) @ weights

    def training(self, times: Times) -> Times:
        """The expected squared error on the samples after training for each time, a mean over samples."""
        values, ratio = self.spectrum.eigenvalues, self.spectrum.ratio
        learned = values > 0
        shares = self.spectrum.shares[learned] / ratio
        left = np.exp(-2 * np.multiply.outer(times, values[learned]))
        signal = values[learned] * self.snr * (1 + self.start)
        return max(0.0, 1 - 1 / ratio) + left @ ((signal + 1) * shares)

    @property
    def without_end(self) -> float:
        """The held-out error after training for ever: infinite for isotropic inputs where samples are as many as numbers."""
        return 1 + self._frozen + self.spectrum.inverse

    @cached_property
    def best_time(self) -> float:
        """The time of least held-out error.

        A direction alone is best at ln(1 + λS)/λ, which falls with λ; all together are between the first and the last of these.
        """
        values, _ = self._trained
        signal = self.snr * (1 + self.start)
        low, high = (float(np.log1p(one * signal) / one) for one in (values.max(), values.min()))
        for _ in range(2):
            tried = np.geomspace(low, high, _TRIED)
            best = int(np.argmin(self.held_out(tried)))
            low, high = float(tried[max(0, best - 1)]), float(tried[min(_TRIED - 1, best + 1)])
        return float(tried[best])

    def ridge(self, penalty: float) -> float:
        """The held-out error of the minimum of half the summed squared error + ``penalty``/2 · |w|²."""
        values, weights = self._trained
        shrunk = (self.snr * penalty**2 + values) / (values + penalty) ** 2
        return float(1 + self.snr * (1 - weights.sum()) + shrunk @ weights)

    @property
    def best_ridge(self) -> float:
        """The penalty of least held-out error, whatever the inputs are."""
        return 1 / self.snr

    @property
    def _trained(self) -> tuple[Values, Values]:
        """Eigenvalues that are not 0 and their weights."""
        learned = self.spectrum.eigenvalues > 0
        return self.spectrum.eigenvalues[learned], self.spectrum.weights[learned]

    @property
    def _frozen(self) -> float:
        return self.snr * (1 + self.start) * (1 - float(self._trained[1].sum()))


def estimated_snr(eigenvalues: Values, projections: Values) -> float:
    """The signal-to-noise ratio under which labels are most probable, for a signal and noise that are normal.

    ``eigenvalues`` are those of the samples' P × P Gram matrix, ``projections`` the labels along its eigenvectors. The noise is
    the mean of squared projections, each over 1 + λ·snr; the ratio is sought from 1e-6 to 1e6 over the
    mean eigenvalue.
    """
    tried = np.geomspace(1e-6, 1e6, 2000) * len(eigenvalues) / eigenvalues.sum()
    spread = 1 + np.multiply.outer(tried, eigenvalues)
    noise = (projections**2 / spread).mean(-1)
    return float(tried[np.argmin(len(eigenvalues) * np.log(noise) + np.log(spread).sum(-1))])
