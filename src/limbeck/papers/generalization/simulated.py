"""Linear read-outs of made-up inputs, trained by gradient flow, beside the formula of their errors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from limbeck.papers.generalization.flow import Flow

SNR = 5.0
TIMES = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
_SIGNALS = 10  # signals and noises for each draw of inputs


@dataclass(frozen=True)
class SimulationCell:
    """``draws`` of inputs: ``samples`` of ``numbers`` inputs of variance 1/numbers."""

    name: str
    numbers: int
    samples: int
    draws: int
    seed: int


def simulate(cell: SimulationCell, device: str) -> dict[str, list[float]]:
    """Held-out and training errors after each of the times, means over draws, in units of the noise's variance."""
    rng = np.random.default_rng(cell.seed)
    held_out, training = np.zeros(len(TIMES)), np.zeros(len(TIMES))
    for _ in range(cell.draws):
        inputs = rng.normal(size=(cell.samples, cell.numbers)) / np.sqrt(cell.numbers)
        signal = rng.normal(size=(cell.numbers, _SIGNALS)) * np.sqrt(SNR)
        labels = inputs @ signal + rng.normal(size=(cell.samples, _SIGNALS))
        flow = Flow.of(inputs, labels)
        for place, time in enumerate(TIMES):
            student = flow.after(time)
            held_out[place] += 1 + ((student - signal) ** 2).mean()
            training[place] += ((inputs @ student - labels) ** 2).mean()
    return {"held_out": (held_out / cell.draws).tolist(), "training": (training / cell.draws).tolist()}
