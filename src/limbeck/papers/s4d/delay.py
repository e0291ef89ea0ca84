"""Trains a linear layer of state spaces to output its input after a delay, which depends on its spectrum of eigenvalues.

The layer maps u to D channels, applies a diagonal state space to each, and maps them to one channel, without a nonlinearity. So
it learns one filter, which should have a single peak at the delay (the delay task of Gu et al., arXiv 2206.12037, sec. 4.2). The
input is noise without its higher frequencies, since a peak one step wide is not a smooth filter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from limbeck.corpora.tasks.synthetic import stream
from limbeck.models.mixers.documents import Documents
from limbeck.models.mixers.ssm import DiagonalSSM
from limbeck.papers.lab.loop import adamw_of, cosine, train_steps

_TOGETHER = 64  # rows measured at once


@dataclass(frozen=True)
class DelayCell:
    """A training. ``band`` is the share of all frequencies in the input. ``rows`` is the number of rows of a step."""

    name: str
    spectrum: str
    method: str
    delay: int
    length: int
    channels: int
    state: int
    band: float
    steps: int
    rate: float
    seed: int
    rows: int
    tested: int


class Delayed(nn.Module):
    """The layer: (B, T) → (B, T), linear."""

    def __init__(self, cell: DelayCell) -> None:
        super().__init__()
        self.enter = nn.Linear(1, cell.channels, bias=False)
        self.ssm = DiagonalSSM(cell.channels, cell.state, spectrum=cell.spectrum, method=cell.method)
        self.leave = nn.Linear(cell.channels, 1, bias=False)

    def forward(self, u: Float[Tensor, "B T"]) -> Float[Tensor, "B T"]:
        documents = Documents.alone(*u.shape, device=u.device)
        return self.leave(self.ssm(self.enter(u[..., None]), documents, None)[0])[..., 0]


def train_delay(cell: DelayCell, device: str) -> dict[str, Any]:
    """Trains a layer on new noise in every step; gives the squared error and the squared target of rows of other noise.

    ``failed`` is true if a loss was not finite, which ends the training.
    """
    return _trained(cell, device, use="test")


def tune_delay(cell: DelayCell, device: str) -> dict[str, Any]:
    """As `train_delay`, measured on separate rows that judge no claim."""
    return _trained(cell, device, use="stop")


def _trained(cell: DelayCell, device: str, *, use: str) -> dict[str, Any]:
    model = new_layer(cell).to(device)
    optimizer = adamw_of(model, rate=cell.rate, weight_decay=0.0)
    generator = stream(cell.seed)

    def loss(_: int) -> Tensor:
        u = torch.from_numpy(noise(generator, cell.rows, cell)).to(device)
        return (model(u) - late(u, cell.delay)).square().mean()

    trained = train_steps(model, optimizer, loss, cosine(cell.steps), steps=cell.steps)
    error, wanted = _measured(model, cell, device, use=use)
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "trained_steps": trained.updates,
        "failed": trained.failed,
        "error": error,
        "wanted": wanted,
    }


def new_layer(cell: DelayCell) -> Delayed:
    """A layer with weights that depend on the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cell.seed)
        return Delayed(cell)


def noise(generator: np.random.Generator, rows: int, cell: DelayCell) -> Float[np.ndarray, "rows T"]:
    """White noise of variance 1 below a cut-off frequency, (rows, T). It is cut from twice the length and so not periodic."""
    places = cell.length + 1
    kept = max(2, round(cell.band * places))
    drawn = np.zeros((rows, places), dtype=np.complex128)
    drawn[:, 1:kept] = generator.standard_normal((rows, kept - 1)) + 1j * generator.standard_normal((rows, kept - 1))
    waves = np.fft.irfft(drawn, n=2 * cell.length) * cell.length / math.sqrt(kept - 1)
    return np.ascontiguousarray(waves[:, : cell.length], dtype=np.float32)


def late(u: Float[Tensor, "B T"], delay: int) -> Float[Tensor, "B T"]:
    """u(t - delay), and 0 before the first input."""
    return torch.nn.functional.pad(u, (delay, 0))[:, : u.shape[1]]


@torch.no_grad()
def _measured(model: Delayed, cell: DelayCell, device: str, *, use: str) -> tuple[list[float], list[float]]:
    """Sums over the steps with a delayed input, for each row of this use."""
    generator = stream(0, use=use)  # the same rows for all arms
    u = torch.from_numpy(noise(generator, cell.tested, cell)).to(device)
    error, wanted = [], []
    for part in u.split(_TOGETHER):
        target = late(part, cell.delay)
        error += (model(part) - target)[:, cell.delay :].square().sum(1).tolist()
        wanted += target[:, cell.delay :].square().sum(1).tolist()
    return error, wanted
