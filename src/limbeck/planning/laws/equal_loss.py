"""Does a teacher matter through its loss alone, as the distillation law has it (arXiv 2502.08606), or through its size too?

What surprises: the teachers of an ordinary ladder cannot tell, for the larger is always the better. It takes teachers of
unlike size and like loss, such as small ones that were trained longer.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

from limbeck.planning.laws.estimate import LEVEL, Estimate
from limbeck.planning.laws.points import Point, longest


def size_at_equal_loss(points: Sequence[Point], *, collinear: float) -> tuple[Estimate | None, int]:
    """(nats a doubling of the teacher changes in its student at equal teacher loss, number of cells this is from).

    Fitted to the distilled points: for each student size a quadratic in the teacher's loss, and one common term in the
    logarithm of its size. Means over seeds are fitted, since the seeds of a cell share one teacher. None where the variance
    inflation of that term, by what the teachers' losses say already, is above ``collinear``, or fewer than 3 cells are left
    for the noise.
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
    """What of y no combination of the columns gives."""
    found: np.ndarray = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    return found
