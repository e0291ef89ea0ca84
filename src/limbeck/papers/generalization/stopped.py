"""Read-outs of random features, stopped when the formula says, beside the best stop in hindsight."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from limbeck.papers.generalization.flow import Flow
from limbeck.planning.overtraining import Readout, Spectrum, estimated_snr

_TRIED = 200  # times that hindsight chooses among
_LEFT_OUT = 5  # one in so many samples chooses a stop, the control

Values = Float[np.ndarray, "samples inputs"]
Labels = Float[np.ndarray, " samples"]


@dataclass(frozen=True)
class Samples:
    """Inputs with labels of 1 and -1."""

    inputs: Values
    labels: Labels


def stopped(train: Samples, test: Samples, width: int, seed: int) -> dict[str, float]:
    """Test errors of a read-out of ``width`` random ReLU features, by when its training stops, and the estimated ratio.

    Inputs are standardised, features and labels centred, by the training samples.
    """
    mean, spread = train.inputs.mean(0), train.inputs.std(0) + 1e-6
    weights = np.random.default_rng(seed).normal(size=(len(mean), width)) / np.sqrt(len(mean))

    def features(inputs: Values) -> Values:
        return np.maximum((inputs - mean) / spread @ weights, 0) / np.sqrt(width)

    seen, unseen = features(train.inputs), features(test.inputs)
    middle, level = seen.mean(0), train.labels.mean()
    x, y, unseen = seen - middle, train.labels - level, unseen - middle
    flow = Flow.of(x, y[:, None])

    def error(student: Values) -> float:
        return float((((unseen @ student)[:, 0] + level - test.labels) ** 2).mean())

    snr = estimated_snr(flow.values**2, flow.labels[:, 0])
    formula = Readout(Spectrum.of_samples(x), snr)
    return {
        "snr": snr,
        "formula": error(flow.after(formula.best_time)),
        "best": min(error(flow.after(time)) for time in flow.times(_TRIED)),
        "left_out": error(flow.after(_by_left_out(x, y))),
        "end": error(flow.after(np.inf)),
        "ridge": error(flow.ridge(formula.best_ridge)),
        "weighted": error(flow.after(Readout(Spectrum.of_samples(x, by_size=True), snr).best_time)),
    }


def _by_left_out(x: Values, y: Labels) -> float:
    """The best time on a fifth of the samples of a training on the others, for all: time counts by the summed error."""
    out = np.arange(len(y)) % _LEFT_OUT == 0
    flow = Flow.of(x[~out], y[~out, None])
    times = flow.times(_TRIED)
    errors = [float(((x[out] @ flow.after(time) - y[out, None]) ** 2).mean()) for time in times]
    return float(times[int(np.argmin(errors))] * (~out).mean())
