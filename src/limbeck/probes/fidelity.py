"""How close a student's distribution is to its teacher's, on the same held-out positions.

`acceptance` is 1 - total variation: the share of the student's drafts the teacher would accept in speculative decoding
(Leviathan et al. 2023, arXiv 2211.17192, corollary 3.6), averaged over held-out text rather than over drafts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from limbeck.probes.interval import bootstrap
from limbeck.probes.measurements import Measurements
from limbeck.types import Reading

_NAMES = (
    ("kl_teacher_student", "nats/token"),
    ("kl_student_teacher", "nats/token"),
    ("top1_agreement", "share"),
    ("acceptance", "share"),
)


def fidelity(model: str, runs: Sequence[Measurements], *, seed: int | None = None) -> list[Reading]:
    """KL both ways, the share of equal most likely tokens, and 1 - total variation. Empty without a teacher."""
    columns = []
    for run in runs:
        if run.kl is None or run.reverse_kl is None or run.agreement is None or run.total_variation is None:
            return []
        acceptance = run.tokens - run.total_variation
        columns.append(np.stack([run.kl, run.reverse_kl, run.agreement, acceptance, run.tokens], -1))
    found = bootstrap(lambda total: total[..., :-1] / total[..., -1:], np.stack(columns))
    return [
        Reading(model, "fidelity", name, x.value, unit, x.n, x.low, x.high, seed)
        for (name, unit), x in zip(_NAMES, found, strict=True)
    ]
