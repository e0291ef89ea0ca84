"""The largest student that a device can run: weights, keys and values in its memory, each token in time.

At batch 1 a token costs one reading of all weights, and of the keys and values before it, so latency is bytes over bandwidth.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers.configuration_utils import PreTrainedConfig

from limbeck.errors import BadShape
from limbeck.plan.cost import Size
from limbeck.plan.gpus import BANDWIDTH_SHARE, GPU
from limbeck.students.shape import Shape, choose, config_of, parameters

DTYPE = torch.bfloat16
_ROUNDS = 8


@dataclass(frozen=True)
class Limits:
    """What a student must keep to: bytes of memory and, unless None, seconds per token; at this length of context."""

    gpu: GPU
    memory: float
    latency: float | None
    length: int

    def fill(self, size: Size) -> float:
        """The larger of what a model takes of the memory and of the time: 1 is full."""
        taken = self.bytes(size) / self.memory
        return taken if self.latency is None else max(taken, self.seconds(size) / self.latency)

    def bytes(self, size: Size) -> int:
        """Bytes of weights, and of keys and values at the end of the context."""
        return size.inference_bytes(self.length, DTYPE)

    def seconds(self, size: Size) -> float:
        """Seconds per token, batch 1, at the end of the context."""
        return self.gpu.token_seconds(size.bytes_read(self.length, DTYPE))

    def __str__(self) -> str:
        said = f"{self.memory / 2**30:.1f} GiB at {self.length:,} tokens"
        if self.latency is None:
            return said
        return (
            said + f", {self.latency * 1e3:g} ms a token at {BANDWIDTH_SHARE:.0%} of {self.gpu.name}'s "
            f"{self.gpu.bandwidth / 1e9:,.0f} GB/s"
        )


def largest_student(config: PreTrainedConfig, limits: Limits) -> Shape:
    """The largest balanced shape that keeps to the limits; the teacher's own where that does.

    Raises BadShape where the smallest student of this teacher does not.
    """
    whole = Shape.of(config)
    size = Size.of(config)
    fill, most = limits.fill(size), parameters(config, whole)
    if fill <= 1:
        return whole
    budget, best = most / fill, None
    low, high = 0.0, float(most)
    for _ in range(_ROUNDS):
        try:
            shape = choose(config, parameters=int(budget))
        except BadShape as error:
            if best is not None:
                break
            raise BadShape(f"no student of this teacher keeps to {limits}: {error}") from error
        size = Size.of(config_of(shape, config))
        fill = limits.fill(size)
        if fill <= 1:
            low, best = budget, shape
        else:
            high = budget
        # the next by proportion, kept inside what is known; below the limit by what a step of the shapes is
        wanted = size.parameters / fill
        budget = wanted if low < wanted < high * 0.999 else (low + high) / 2
        if best is not None and (fill > 0.97 or high - low < 0.02 * low) and fill <= 1:
            break
    if best is None:
        raise BadShape(f"no student of this teacher keeps to {limits}; give more, or a shorter --length")
    return best
