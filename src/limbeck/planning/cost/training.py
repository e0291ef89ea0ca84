"""The cost of a distillation from the sizes of both models: FLOPs, peak bytes by part, and an estimate of the time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from limbeck.models.micro_batch import MICRO_TOKENS
from limbeck.planning.cost.size import Size

_HELD = ("student's weights", "gradients", "AdamW's moments")

# The size of a buffer of logits in objectives/fused.py; a test compares them.
LOGITS_BUFFER = {"cpu": (128, 512, 2**23), "cuda": (256, 8192, 2**26)}

# Element-wise work for each byte that the forward pass keeps, as bytes written by a plain product of large vectors. Measured
# here: on one thread a step took, beyond its matrix products, 3.9 to 5.5 ns for each such byte (0.1M to 10M parameters, 5
# shapes), and such a product wrote 5.1 GB/s.
_PASSES = 24

# Python, torch, Transformers and Arrow (480 MiB) and what a first step loads; on a GPU the context and its kernels.
_LIBRARIES = 530 * 2**20

# Freed memory that glibc's allocator does not return, as a share of the transient blocks (returning it would cost a third more
# time). Measured over the first 14 shapes of benchmarks/cost.py; the others there check it. CUDA's allocator splits and merges
# blocks.
_KEPT_BY_ALLOCATOR = {"cpu": 1 / 3, "cuda": 0.0}


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
        return sum(self.bytes.get(name, 0) for name in _HELD)

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
) -> Cost:
    """Estimates the cost of training a student on ``tokens`` tokens, from a teacher or (None) without one.

    ``length`` is tokens per row, ``batch_tokens`` of a step. ``itemsize`` is bytes of the teacher's numbers and of the student's
    arithmetic; the student's weights are float32. ``device`` is "cuda" or "cpu". A student that is trained with
    ``quantised`` weights holds them beside its own. FLOPs per token are 3 forward passes of the student
    and 1 of the teacher: 6 N_S + 2 N_T and attention (Kaplan et al., arXiv 2001.08361).
    """
    kind = "cuda" if device == "cuda" else "cpu"
    micro = max(length, min(batch_tokens, MICRO_TOKENS[kind]) // length * length)
    flops = 3 * student.forward_flops(length) + (0.0 if teacher is None else teacher.forward_flops(length))
    parts = _training_bytes(student, length=length, micro=micro, itemsize=itemsize)
    if quantised:
        parts["student's quantised weights"] = 4 * student.parameters
    if teacher is not None:
        parts |= _teacher_bytes(teacher, length=length, micro=micro, itemsize=itemsize)
    parts["chunks of logits"] = _chunk_bytes(student, teacher, micro=micro, kind=kind)
    transient = ("activations", "teacher's forward pass", "chunks of logits")
    parts["kept by the allocator"] = round(_KEPT_BY_ALLOCATOR[kind] * sum(parts.get(name, 0) for name in transient))
    parts["Python and libraries"] = _LIBRARIES
    kept = activation_bytes(student, length=length, itemsize=itemsize)
    message = 0 if teacher is None else itemsize * teacher.hidden * batch_tokens
    return Cost(student, teacher, tokens, flops, kept, parts, message)


def matching_bytes(
    student: Size, reference: Size, teacher: Size, *, length: int, batch_tokens: int, itemsize: int, device: str
) -> dict[str, int]:
    """Peak bytes by part while a student's layers are matched to those of a reference; arguments as of `estimate`.

    All parameters are counted as trained. The graph of one layer is held at a time, and there are no logits. The teacher's
    weights are still in memory.
    """
    kind = "cuda" if device == "cuda" else "cpu"
    micro = max(length, min(batch_tokens, MICRO_TOKENS[kind]) // length * length)
    parts = _training_bytes(student, length=length, micro=micro, itemsize=itemsize)
    parts["activations"] //= student.layers
    parts["model with attention"] = 4 * reference.parameters
    parts["teacher's weights"] = itemsize * teacher.parameters
    parts["kept by the allocator"] = round(_KEPT_BY_ALLOCATOR[kind] * parts["activations"])
    parts["Python and libraries"] = _LIBRARIES
    return parts


def peak_lockstep(costs: Sequence[Cost]) -> int:
    """Peak bytes of students of one teacher that are trained in lockstep.

    All students are held, with the teacher's outputs of one step; one student computes at a time.
    """
    computing = max(cost.peak_bytes - cost.held_bytes + (cost.signal_bytes if len(costs) > 1 else 0) for cost in costs)
    return computing + sum(cost.held_bytes for cost in costs)


def activation_bytes(size: Size, *, length: int, itemsize: int) -> int:
    """Bytes per token that the student's forward pass keeps for its backward pass, roughly.

    Counted on Transformers' Llama (a test counts again): of each layer 6 D (norms and residuals, in float32 always), 4
    of all query heads (keys and values are repeated to them) and 4 F, and a row of the packed mask. Of a mixture of layers it
    is as rough as that: at 256 tokens one of convolutions kept 0.9 times as much, of Gated DeltaNet 3.2 times. The attention
    weights that a CPU keeps in bfloat16 are not counted: with documents of 1,024 tokens a quarter more, of 128 nothing.
    """
    layer = 4 * 6 * size.hidden + itemsize * (4 * size.attention + 4 * size.ffn + length)
    return size.layers * layer + 4 * 2 * size.hidden


def _training_bytes(size: Size, *, length: int, micro: int, itemsize: int) -> dict[str, int]:
    parts = {
        "student's weights": 4 * size.parameters,
        "gradients": 4 * size.parameters,
        "AdamW's moments": 8 * size.parameters,
        "activations": micro * activation_bytes(size, length=length, itemsize=itemsize),
    }
    if itemsize < 4:
        # autocast keeps what it casts until the end of the step
        parts["student's weights in half precision"] = itemsize * size.multiplied
    return parts


def _teacher_bytes(size: Size, *, length: int, micro: int, itemsize: int) -> dict[str, int]:
    layer = 4 * size.hidden + 4 * size.attention + 3 * size.ffn + length  # one layer at a time: nothing is kept
    return {
        "teacher's weights": itemsize * size.parameters,
        "teacher's forward pass": micro * itemsize * (layer + 2 * size.hidden),
    }


def _chunk_bytes(student: Size, teacher: Size | None, *, micro: int, kind: str) -> int:
    """A buffer of float32 logits a model, and on a GPU the objective's temporaries; on a CPU those stay in cache."""
    fewest, most, elements = LOGITS_BUFFER[kind]
    positions = min(micro, most, max(fewest, elements // student.rows))
    buffers = (1 if teacher is None else 2) + (3 if kind == "cuda" else 0)
    return 4 * buffers * positions * student.rows
