"""The gain of distillation over training on text alone in the limit of many tokens, by a fitted or published law.

The method with the lower loss in this limit is better there. For teachers many times larger than their students, the published
law predicts almost equal losses.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np

from limbeck.planning.laws.distillation import COMPUTE_OPTIMAL, MEASURED, PUBLISHED, RELATIVE_ERROR, DistillationLaw
from limbeck.planning.laws.estimate import Estimate
from limbeck.planning.laws.fit import DistillationFit
from limbeck.planning.laws.points import Point


def published_gains(*, tokens: float) -> list[Estimate]:
    """Gains in nats at ``tokens`` tokens per parameter by the published law (arXiv 2502.08606), for the paper's sizes.

    Intervals are from the law's stated error. Teachers are trained on 20 tokens per parameter and are up to 16 times as large
    as their student.
    """
    found = []
    for student, times in product(np.geomspace(*MEASURED, 7), (1, 2, 4, 8, 16)):
        teacher = student * times
        if teacher <= MEASURED[1]:
            loss = PUBLISHED.supervised.predict(teacher, COMPUTE_OPTIMAL * teacher)
            off = RELATIVE_ERROR * float(PUBLISHED.supervised.predict(student, tokens * student))
            value = float(_gain(PUBLISHED, student, loss, tokens))
            found.append(Estimate(value, value - off, value + off))
    return found


def refitted_gains(fit: DistillationFit, points: Sequence[Point], *, tokens: float) -> list[Estimate]:
    """Gains in nats at ``tokens`` tokens per parameter by a fitted law and its bootstrap, for the points' models."""
    pairs = sorted({(p.student_params, p.teacher_loss) for p in points if p.teacher_loss is not None})
    return [Estimate.of(_gain(fit.law, n, loss, tokens), _gain(fit.draws, n, loss, tokens)) for n, loss in pairs]


def _gain(law: DistillationLaw, student: float, teacher_loss: float, tokens: float) -> Any:
    seen = tokens * student
    return law.supervised.predict(student, seen) - law.predict(student, seen, teacher_loss)
