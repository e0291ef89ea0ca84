"""Averages of a model's weights over a training: an exponential one, or the mean over the last steps.

The average is what is measured and what becomes of the training; the gradient is always that of the trained weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

PREFIX = "average."


@dataclass(frozen=True)
class Averaging:
    """How weights are averaged: "ema" with a decay, or "last" with the share of the steps, counted from the end."""

    kind: str
    value: float

    @classmethod
    def of(cls, text: str) -> Averaging:
        """The averaging of a text such as ema:0.999 or last:0.2."""
        kind, _, value = text.partition(":")
        return cls(kind, float(value))

    def rate(self, step: int, steps: int) -> float:
        """The share of the weights after ``step``, counted from 1, in the average of a training of ``steps``; 0 before it begins.

        The decay of "ema" is at most (1 + step)/(10 + step), so that the first weights are soon forgotten (as in TensorFlow's
        ExponentialMovingAverage). "last" is a plain mean: the n-th weights count 1/n.
        """
        if self.kind == "ema":
            return 1 - min(self.value, (1 + step) / (10 + step))
        taken = step - (steps - max(1, round(self.value * steps)))
        return 1 / taken if taken > 0 else 0.0


class WeightAverage:
    """The average of a model's trained weights, in float32 beside them."""

    def __init__(self, model: nn.Module, averaging: Averaging, steps: int) -> None:
        self._averaging, self._steps = averaging, steps
        self._trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._mean = {name: p.detach().float().clone() for name, p in self._trained.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Takes in the weights after ``step``, counted from 1. Before an average begins it is equal to the weights."""
        rate = self._averaging.rate(step, self._steps) or 1.0
        own = [_held(p).float() for p in self._trained.values()]
        torch._foreach_lerp_([_held(mean) for mean in self._mean.values()], own, rate)

    @contextmanager
    def weights(self) -> Iterator[None]:
        """Puts the average in place of the model's weights, and its own weights back at the end, bit for bit."""
        own = {name: _held(p).clone() for name, p in self._trained.items()}
        try:
            self.apply()
            yield
        finally:
            for name, p in self._trained.items():
                _held(p).copy_(own[name])

    @torch.no_grad()
    def apply(self) -> None:
        """Makes the average the model's weights."""
        for name, p in self._trained.items():
            _held(p).copy_(_held(self._mean[name]))

    def tensors(self) -> dict[str, Tensor]:
        """The average by the names that it has in a checkpoint."""
        return {PREFIX + name: mean for name, mean in self._mean.items()}

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Restores what `tensors` gave. Raises KeyError or RuntimeError if tensors are missing or of another shape."""
        for name, mean in self._mean.items():
            mean.copy_(tensors[PREFIX + name])


def _held(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor, without a graph: all of it, or its part of a sharded one."""
    detached = tensor.detach()
    return detached.to_local() if isinstance(detached, DTensor) else detached
