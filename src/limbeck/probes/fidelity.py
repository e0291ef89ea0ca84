"""Fidelity: the distance between a student's and its teacher's distributions at the same held-out positions.

`acceptance` is 1 - total variation: the share of the student's drafts that the teacher would accept in speculative decoding
(Leviathan et al. 2023, arXiv 2211.17192, corollary 3.6), averaged over held-out text rather than over drafts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from limbeck.probes.interval import bootstrap
from limbeck.probes.measurements import Measurements
from limbeck.types import Reading

_UNITS = {
    "kl_teacher_student": "nats/token",
    "kl_student_teacher": "nats/token",
    "top1_agreement": "share",
    "acceptance": "share",
}


def fidelity(model: str, runs: Sequence[Measurements], *, seed: int | None = None) -> list[Reading]:
    """KL(p || q) and KL(q || p) in nats per token, top-1 agreement, and acceptance, 1 - total variation.

    Empty without a teacher. A reading is left out if one of the runs does not have it. ``runs`` are one model trained with
    several seeds.
    """
    known = [_columns(run) for run in runs]
    names = [name for name in _UNITS if all(name in columns for columns in known)]
    if not names:
        return []
    sums = [[*(columns[name] for name in names), run.tokens] for columns, run in zip(known, runs, strict=True)]
    found = bootstrap(lambda total: total[..., :-1] / total[..., -1:], np.moveaxis(np.array(sums), 1, -1))
    readings = []
    for name, interval in zip(names, found, strict=True):
        x = interval.within(0.0, 1.0 if _UNITS[name] == "share" else math.inf)
        readings.append(Reading(model, "fidelity", name, x.value, _UNITS[name], x.n, x.low, x.high, seed))
    return readings


def _columns(run: Measurements) -> dict[str, np.ndarray]:
    """The sums for each document that compare with the teacher, by the name of the reading."""
    variation = run.total_variation
    known = {
        "kl_teacher_student": run.kl,
        "kl_student_teacher": run.reverse_kl,
        "top1_agreement": run.agreement,
        "acceptance": None if variation is None else run.tokens - variation,
    }
    return {name: sums for name, sums in known.items() if sums is not None}
