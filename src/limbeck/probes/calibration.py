"""Expected calibration error: the gap between confidence and accuracy of a model's most probable token.

Noise in a bin counts as miscalibration, so the error of a perfectly calibrated model is above 0 and decreases with more text:
compare models on the same documents only. Resampling adds the same noise again; the interval is shifted back by it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from limbeck.probes.interval import bootstrap
from limbeck.probes.measurements import BINS, Measurements
from limbeck.types import Reading


def calibration(model: str, runs: Sequence[Measurements], *, seed: int | None = None) -> list[Reading]:
    """Expected calibration error over 15 equal bins (Guo et al. 2017, arXiv 1706.04599, eq. 3), and accuracy."""
    columns = np.stack([run.bins.reshape(len(run.bins), BINS * 3) for run in runs])

    def statistic(total: np.ndarray) -> np.ndarray:
        weight, confidence, correct = np.moveaxis(total.reshape(*total.shape[:-1], BINS, 3), -1, 0)
        tokens = weight.sum(-1)
        return np.stack([np.abs(confidence - correct).sum(-1) / tokens, correct.sum(-1) / tokens], -1)

    ece = bootstrap(statistic, columns, debias=True)[0].within(0.0, 1.0)
    accuracy = bootstrap(statistic, columns)[1].within(0.0, 1.0)
    return [
        Reading(model, "calibration", name, x.value, "share", x.n, x.low, x.high, seed)
        for name, x in (("ece", ece), ("top1_accuracy", accuracy))
    ]
