"""The cost of a distillation from the sizes of both models: FLOPs, peak bytes by part, and an estimate of the time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from limbeck.planning.cost.adapters import AdapterSize, step_flops
from limbeck.planning.cost.memory import (
    HELD,
    USUAL,
    WIDE,
    MemoryUse,
    Step,
    activation_bytes,
    compared_parts,
    kind_of,
    student_parts,
    training_parts,
    with_libraries,
)
from limbeck.planning.cost.size import Size

if TYPE_CHECKING:
    from transformers.configuration_utils import PreTrainedConfig

# Element-wise work for each byte that the forward pass keeps, as bytes written by a plain product of large vectors. Measured
# here: on one thread a step took, beyond its matrix products, 3.9 to 5.5 ns for each such byte (0.1M to 10M parameters, 5
# shapes), and such a product wrote 5.1 GB/s.
_PASSES = 24


@dataclass(frozen=True)
class Rates:
    """Measured rates of a device: FLOP/s of matrix products, bytes/s written by element-wise work."""

    flops: float
    bytes: float


@dataclass(frozen=True)
class Cost:
    """The estimated cost of a training. ``bytes`` is the peak memory by part, ``signal_bytes`` are a step's teacher outputs."""

    student: Size
    teacher: Size | None
    tokens: int
    flops_per_token: float
    kept_per_token: int
    bytes: Mapping[str, int]
    signal_bytes: int = 0

    @property
    def flops(self) -> float:
        """FLOPs of the whole training."""
        return self.flops_per_token * self.tokens

    @property
    def peak_bytes(self) -> int:
        """Peak memory: the sum over all parts."""
        return sum(self.bytes.values())

    @property
    def held_bytes(self) -> int:
        """Bytes that a student keeps between its steps: weights, gradients and AdamW's moments."""
        return sum(self.bytes.get(name, 0) for name in HELD)

    def seconds(self, rates: Rates) -> float:
        """Estimated seconds of the training, within a factor of about 2.5: matrix products and element-wise work.

        A run prints its measured time at its end.
        """
        return self.flops / rates.flops + _PASSES * self.kept_per_token * self.tokens / rates.bytes


def estimate(
    student: Size,
    teacher: Size | None,
    *,
    length: int,
    tokens: int,
    batch_tokens: int,
    itemsize: int,
    device: str,
    quantised: bool = False,
    averaged: bool = False,
    trained: float = 1.0,
    adapters: AdapterSize | None = None,
    use: MemoryUse = USUAL,
    config: PreTrainedConfig | None = None,
    shards: int = 1,
) -> Cost:
    """Estimates the cost of training a student on ``tokens`` tokens, from a teacher or (None) without one.

    ``length`` is tokens per row, ``batch_tokens`` of a step. ``itemsize`` is bytes of the teacher's numbers and of the student's
    arithmetic. ``device`` is "cuda" or "cpu". A student that is trained with ``quantised`` weights, or whose weights are
    ``averaged``, holds those beside its own. ``trained``: how many numbers are trained, as a share of its weights; memory alone
    depends on it. ``adapters``: those that are trained on frozen weights, None for all weights; FLOPs depend on them, and memory
    by the weights that they leave in fewer bytes, unless all weights are trained too. Memory is then the peak of the training and
    of measuring the student beside its start, or beside hidden states of that.
    ``use``: how memory is used. ``config``: that of the student, by which its activations are counted; without one they are
    roughly those of a Llama. ``shards``: over how many processes weights are sharded. FLOPs per token are 3 forward passes of the
    student, 4 where its layers are computed twice, and 1 of the teacher: 6 N_S + 2 N_T and attention (Kaplan et al., arXiv
    2001.08361).
    """
    step = replace(_step(config, length, batch_tokens, itemsize, device, use), shards=shards)
    flops = step_flops(student, length, adapters) + (0.0 if teacher is None else teacher.forward_flops(length))
    if use.checkpointed:
        flops += student.forward_flops(length) - 2.0 * student.rows * student.hidden  # the head, which is computed once
    kept = round(activation_bytes(student, replace(step, use=replace(use, checkpointed=False))))
    message = 0 if teacher is None else itemsize * teacher.hidden * batch_tokens
    narrow = adapters.narrow if adapters and trained < 1 else WIDE  # while it is trained
    parts = training_parts(
        student, teacher, step, quantised=quantised, averaged=averaged, trained=trained, narrow=narrow
    )
    if adapters and trained < 1:
        compared = compared_parts(
            student, teacher, step, itemsize=itemsize if narrow.scarce else 4, alone=adapters.alone
        )
        parts = max(parts, compared, key=lambda found: sum(found.values()))
    return Cost(student, teacher, tokens, flops, kept, parts, message)


def _step(
    config: PreTrainedConfig | None, length: int, batch_tokens: int, itemsize: int, device: str, use: MemoryUse
) -> Step:
    kind, kept, inside = kind_of(device), None, True
    if config is not None:
        from limbeck.models.inside import fits
        from limbeck.planning.cost.activations import kept_of  # loads torch

        kept = kept_of(config, length=length, document=use.document, itemsize=itemsize, device=kind)
        inside = fits(config)
    return Step(length, batch_tokens, itemsize, kind, use, kept, inside=inside)


def matching_bytes(
    student: Size,
    reference: Size,
    teacher: Size,
    *,
    length: int,
    batch_tokens: int,
    itemsize: int,
    device: str,
    use: MemoryUse = USUAL,
    config: PreTrainedConfig | None = None,
) -> dict[str, int]:
    """Peak bytes by part while a student's layers are matched to those of a reference; arguments as of `estimate`.

    All parameters are counted as trained. The graph of one layer is held at a time, and there are no logits. The teacher's
    weights are still in memory.
    """
    step = _step(config, length, batch_tokens, itemsize, device, replace(use, checkpointed=False))
    parts = student_parts(student, step)
    parts["activations"] //= student.layers
    parts["model with attention"] = 4 * reference.parameters
    parts["teacher's weights"] = itemsize * teacher.parameters
    return with_libraries(parts, step)


def peak_lockstep(costs: Sequence[Cost]) -> int:
    """Peak bytes of students of one teacher that are trained in lockstep.

    All students are held, with the teacher's outputs of one step; one student computes at a time.
    """
    computing = max(cost.peak_bytes - cost.held_bytes + (cost.signal_bytes if len(costs) > 1 else 0) for cost in costs)
    return computing + sum(cost.held_bytes for cost in costs)
