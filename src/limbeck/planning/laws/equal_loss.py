"""Tests whether a teacher's size affects its student at equal teacher loss. The distillation law (arXiv 2502.08606) assumes not.

The teachers of an ordinary ladder cannot answer this, since larger teachers always have lower losses there. The test needs
teachers of different sizes and similar losses, such as small teachers that were trained longer.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

from limbeck.planning.laws.estimate import LEVEL, Estimate
from limbeck.planning.laws.points import Point, longest


def size_at_equal_loss(points: Sequence[Point], *, collinear: float) -> tuple[Estimate | None, int]:
    """The effect of doubling the teacher's size at equal teacher loss, in nats of the student, and the number of cells used.

    The fit to distilled points has a quadratic in the teacher's loss for each student size, and one common term in the
    logarithm of the teacher's size. It uses means over seeds, since the seeds of a cell share one teacher. The effect is None if
    the variance inflation of that term is above ``collinear``, or if fewer than 3 degrees of freedom are left for the noise.
    """
    cells: dict[tuple[float, float, float], list[float]] = {}
    for p in longest(points):
        if p.teacher_params is not None and p.teacher_loss is not None:
            cells.setdefault((p.student_params, p.teacher_params, p.teacher_loss), []).append(p.student_loss)
    student, size, loss = np.array(list(cells)).reshape(-1, 3).T
    own = (student[:, None] == np.unique(student)).astype(float)  # (cells, student sizes)
    free = len(cells) - 3 * own.shape[1] - 1
    if free < 3:
        return None, len(cells)
    loss = loss - loss.mean()
    design = np.hstack([own, own * loss[:, None], own * loss[:, None] ** 2])
    rest = _beyond(design, np.log2(size))
    within = _beyond(own, np.log2(size))
    if rest @ rest * collinear < within @ within:
        return None, len(cells)
    y = np.array([np.mean(found) for found in cells.values()])
    value = float(rest @ y / (rest @ rest))
    off = _beyond(design, y) - value * rest
    half = float(stats.t.ppf((1 + LEVEL) / 2, free) * np.sqrt(off @ off / free / (rest @ rest)))
    return Estimate(value, value - half, value + half), len(cells)


def _beyond(design: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The residual of y after its least-squares fit by the columns of ``design``."""
    found: np.ndarray = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    return found
