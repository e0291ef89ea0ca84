"""Expected calibration error: the gap between confidence and accuracy of a model's most probable token.

Noise in a bin counts as miscalibration, so the error of a perfectly calibrated model is above 0 and decreases with more text:
compare models on the same documents only. Resampling adds the same noise again; the interval is shifted back by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from limbeck.probes.interval import Interval, bootstrap
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


@dataclass(frozen=True)
class ReliabilityBin:
    """One bin of a reliability diagram: its mean confidence, its accuracy with a 95 % interval, its share of the predictions."""

    confidence: float
    accuracy: Interval
    share: float


def reliability(runs: Sequence[Measurements], *, least: float = 20.0) -> list[ReliabilityBin]:
    """Accuracy by confidence of the most likely token, in the bins of `calibration`, from low confidence to high.

    ``runs`` are measurements of one model on the same documents, one a seed. Bins with fewer than ``least`` predictions of a run
    are left out: their accuracy would depend on a few tokens. Intervals are over documents and seeds.
    """
    columns = np.stack([run.bins for run in runs])  # (seeds, documents, bins, 3)
    total = columns.sum((0, 1))
    used = np.flatnonzero(columns.sum(1)[..., 0].min(0) >= least)
    if not len(used):
        return []
    known = total[used, 2] / total[used, 0]

    def accuracy(sums: np.ndarray) -> np.ndarray:
        weight, _, correct = np.moveaxis(sums.reshape(*sums.shape[:-1], len(used), 3), -1, 0)
        # resamples without predictions in the bin do not count
        return np.where(weight > 0, correct / np.maximum(weight, 1e-12), known)

    found = bootstrap(accuracy, columns[:, :, used].reshape(*columns.shape[:2], len(used) * 3))
    return [
        ReliabilityBin(float(total[k, 1] / total[k, 0]), one.within(0.0, 1.0), float(total[k, 0] / total[:, 0].sum()))
        for k, one in zip(used, found, strict=True)
    ]
