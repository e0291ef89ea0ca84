"""What distillation gains over training on text alone once tokens are no limit, by a law and with its error.

The better of the two there is the one whose loss without a limit of tokens is lower; the published law hardly tells them apart
where the teacher is many times its student.
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
    """Nats at so many tokens per parameter, by the published law and its stated error, for sizes that the paper had.

    Teachers saw 20 tokens per parameter and are up to 16 times their student.
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
    """The same by a law of one's own and its bootstrap, for the students and the teachers of the points."""
    pairs = sorted({(p.student_params, p.teacher_loss) for p in points if p.teacher_loss is not None})
    return [Estimate.of(_gain(fit.law, n, loss, tokens), _gain(fit.draws, n, loss, tokens)) for n, loss in pairs]


def _gain(law: DistillationLaw, student: float, teacher_loss: float, tokens: float) -> Any:
    seen = tokens * student
    return law.supervised.predict(student, seen) - law.predict(student, seen, teacher_loss)
