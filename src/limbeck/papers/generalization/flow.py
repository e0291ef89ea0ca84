"""Gradient flow of a linear read-out on half the summed squared error, from zero, in closed form."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

_FLAT = 1e-9  # singular values below this share of the largest count as 0


@dataclass(frozen=True)
class Flow:
    """Singular values and right vectors of the inputs, and the labels along the left ones, (directions, labels)."""

    values: Float[np.ndarray, " directions"]
    vectors: Float[np.ndarray, "directions numbers"]
    labels: Float[np.ndarray, "directions labels"]

    @classmethod
    def of(cls, inputs: Float[np.ndarray, "samples numbers"], labels: Float[np.ndarray, "samples labels"]) -> Flow:
        """That of inputs and labels, which are used as they are."""
        left, values, right = np.linalg.svd(inputs, full_matrices=False)
        kept = values > _FLAT * values[0]
        return cls(values[kept], right[kept], left[:, kept].T @ labels)

    def after(self, time: float) -> Float[np.ndarray, "numbers labels"]:
        """The read-out after a time; infinity is the least-squares solution of least norm."""
        learned = -np.expm1(-(self.values**2) * time) / self.values
        return self.vectors.T @ (learned[:, None] * self.labels)

    def ridge(self, penalty: float) -> Float[np.ndarray, "numbers labels"]:
        """The minimum with ``penalty``/2 times the squared norm of the read-out."""
        shrunk = self.values / (self.values**2 + penalty)
        return self.vectors.T @ (shrunk[:, None] * self.labels)

    def times(self, count: int) -> Float[np.ndarray, " times"]:
        """Times at equal ratios from before anything is learned until all is."""
        return np.geomspace(0.01 / self.values[0] ** 2, 10 / self.values[-1] ** 2, count)
