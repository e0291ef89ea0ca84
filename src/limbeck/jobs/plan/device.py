"""The largest student that a device can run: weights, keys and values in its memory, each token in time.

At batch 1 a token costs one reading of all weights, and of the keys and values before it, so latency is bytes over bandwidth.
"""

from __future__ import annotations

from dataclasses import dataclass

from limbeck.errors import BadShape
from limbeck.models.anatomy import Anatomy
from limbeck.planning.cost.gpus import BANDWIDTH_SHARE, GPU
from limbeck.planning.cost.size import Size
from limbeck.students.shape import Shape, anatomy_of, balanced

BFLOAT16 = 2  # bytes of a weight, a key or a value on a device
_ROUNDS = 8


@dataclass(frozen=True)
class Limits:
    """The limits of a student: bytes of memory and, unless None, seconds per token, at a length of context.

    A student is deployed with weights of ``weight`` bytes each on average, in the format ``kind``, and with keys and values in
    bfloat16.
    """

    gpu: GPU
    memory: float
    latency: float | None
    length: int
    weight: float = BFLOAT16
    kind: str = "bfloat16"

    def fill(self, size: Size) -> float:
        """The larger of the used shares of memory and time; 1 is full."""
        taken = self.bytes(size) / self.memory
        return taken if self.latency is None else max(taken, self.seconds(size) / self.latency)

    def bytes(self, size: Size) -> int:
        """Bytes of weights, and of keys and values at the end of the context."""
        return round(self.weight * size.parameters) + size.state_bytes(self.length, BFLOAT16)

    def seconds(self, size: Size) -> float:
        """Seconds per token, batch 1, at the end of the context."""
        return self.gpu.token_seconds(self.weight * size.multiplied + size.state_bytes(self.length, BFLOAT16))

    def __str__(self) -> str:
        sentence = f"{self.memory / 2**30:.1f} GiB at {self.length:,} tokens"
        if self.latency is None:
            return sentence
        return (
            sentence + f", {self.latency * 1e3:g} ms a token at {BANDWIDTH_SHARE:.0%} of {self.gpu.name}'s "
            f"{self.gpu.bandwidth / 1e9:,.0f} GB/s"
        )


def largest_student(teacher: Anatomy, limits: Limits) -> Shape:
    """The largest balanced shape within the limits; the teacher's own if it is within them.

    Raises BadShape if the smallest student of this teacher is not.
    """
    size = Size.of_anatomy(teacher)
    fill = limits.fill(size)
    if fill <= 1:
        return Shape.of_anatomy(teacher)
    budget, best = size.parameters / fill, None
    low, high = 0.0, float(size.parameters)
    for _ in range(_ROUNDS):
        try:
            shape = balanced(teacher, parameters=int(budget))
        except BadShape as error:
            if best is not None:
                break
            raise BadShape(f"no student of this teacher keeps to {limits}: {error}") from error
        size = Size.of_anatomy(anatomy_of(shape, teacher))
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
        raise BadShape(f"no student of this teacher keeps to {limits}; give more, or a shorter --seq-len")
    return best
