"""The peak memory of a training, part by part, for each way of computing it.

Everything is counted from configurations; three constants are measured (`_LIBRARIES`, `_COMPILED`, `_KEPT_BY_ALLOCATOR`).
benchmarks/memory.py prints the estimates beside measured peaks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from limbeck.models.micro_batch import MICRO_TOKENS
from limbeck.planning.cost.size import Size

if TYPE_CHECKING:
    from limbeck.planning.cost.activations import Kept

Optimizer = Literal["adamw", "adamw-bf16", "adamw-8bit"]
Format = Literal["float32", "bfloat16"]

# Bytes of an optimiser's moments for each parameter. 8 bit: two bytes, and a scale in float32 for each block of 256.
MOMENTS: Mapping[Optimizer, float] = {"adamw": 8, "adamw-bf16": 4, "adamw-8bit": 2 + 2 * 4 / 256}

AVERAGE = "average of the weights"
HELD = ("student's weights", "gradients", "AdamW's moments")
TRANSIENT = ("activations", "teacher's forward pass", "chunks of logits")

# The size of a buffer of logits in objectives/fused.py; a test compares them.
LOGITS_BUFFER = {"cpu": (128, 512, 2**23), "cuda": (256, 8192, 2**26)}

# Python, torch, Transformers and Arrow and what a first step loads: by 70 MiB more on other machines with the same versions; on a
# GPU the context and its kernels.
_LIBRARIES = {"cpu": 460 * 2**20, "cuda": 530 * 2**20}

# What a CPU compiles for products in half precision: about a hundred shapes where attention is computed inside documents, else
# a quarter of them.
_COMPILED = {True: 90 * 2**20, False: 25 * 2**20}

# Freed memory that glibc's allocator does not return, as a share of the transient blocks (returning it would cost a third more
# time). The constants were fitted to the pairs of benchmarks/cost.py, of three steps each; benchmarks/memory.py checks
# them on others. CUDA's allocator splits and merges blocks.
_KEPT_BY_ALLOCATOR = {"cpu": 0.45, "cuda": 0.0}


@dataclass(frozen=True)
class MemoryUse:
    """How a training uses memory.

    ``rows`` are computed at once, None for as many as are usual; ``checkpointed``: layers are computed twice instead of keeping
    their activations; ``optimizer``: the format of its moments; ``weights``: that of a trained weight and of its gradient;
    ``document``: tokens of a usual document, None for documents as long as rows.
    """

    rows: int | None = None
    checkpointed: bool = False
    optimizer: Optimizer = "adamw"
    weights: Format = "float32"
    document: int | None = None

    @property
    def itemsize(self) -> int:
        """Bytes of a trained weight."""
        return 2 if self.weights == "bfloat16" else 4


USUAL = MemoryUse()
Kind = Literal["cpu", "cuda"]


def kind_of(device: str) -> Kind:
    """The kind of a device by its type, "cpu" for others than "cuda"."""
    return "cuda" if device == "cuda" else "cpu"


@dataclass(frozen=True)
class Narrow:
    """Frozen weights that are held in fewer bytes than those that are trained: ``numbers``, in ``itemsize`` bytes each.

    ``unpacked``: how many of them a product takes out of that format at a time.
    """

    numbers: int = 0
    itemsize: float = 2.0
    unpacked: int = 0

    @property
    def scarce(self) -> bool:
        """Whether they are held in less than half precision."""
        return self.itemsize < _HALF


_HALF, _WIDE = 2, 4  # bytes
WIDE = Narrow()  # none


@dataclass(frozen=True)
class Step:
    """The sizes of one step: ``length`` tokens a row, ``batch_tokens`` of it; ``itemsize`` bytes of a number in arithmetic.

    ``kept``: the student's activations, None where they were not counted. ``shards``: processes that share all weights.
    ``inside``: whether attention is computed document by document.
    """

    length: int
    batch_tokens: int
    itemsize: int
    kind: Kind
    use: MemoryUse
    kept: Kept | None = None
    shards: int = 1
    inside: bool = True

    @property
    def usual_rows(self) -> int:
        """Rows that are computed at once where nothing else is asked for."""
        return max(1, min(self.batch_tokens, MICRO_TOKENS[self.kind]) // self.length)

    @property
    def micro(self) -> int:
        """Tokens that are computed at once."""
        most = max(1, self.batch_tokens // self.length)
        return self.length * (self.usual_rows if self.use.rows is None else min(self.use.rows, most))


def training_parts(
    student: Size,
    teacher: Size | None,
    step: Step,
    *,
    quantised: bool = False,
    averaged: bool = False,
    trained: float = 1.0,
    narrow: Narrow = WIDE,
) -> dict[str, int]:
    """Peak bytes by part of a training from a teacher, or (None) without one, of a share of as many numbers as it has weights.

    ``narrow``: which of the student's weights are frozen and held in fewer bytes.
    """
    parts = student_parts(student, step, narrow=narrow)
    parts |= {name: round(trained * parts[name]) for name in ("gradients", "AdamW's moments")}
    if step.kind == "cpu" and trained == 1.0 and not student.head:
        # Autograd adds it to that of the head, the same tensor. A GPU takes what activations have released by then.
        parts["gradient of the embedding"] = step.use.itemsize * student.rows * student.hidden
    if quantised:
        parts["student's quantised weights"] = 4 * student.parameters
    if averaged:
        parts[AVERAGE] = round(4 * trained * student.parameters)
    if teacher is not None:
        parts |= _teacher_parts(teacher, step)
    parts["chunks of logits"] = _chunk_bytes(student, teacher, step)
    if step.shards > 1:
        parts = _sharded(parts, student, teacher, step)
    return with_libraries(parts, step)


def compared_parts(
    student: Size, teacher: Size | None, step: Step, *, itemsize: int, alone: bool = False
) -> dict[str, int]:
    """Bytes while a student is measured beside its start, in numbers of ``itemsize`` bytes, and its teacher is in memory.

    ``alone``: of its start only the head is held, in float32.
    """
    parts = {"student's weights": itemsize * student.parameters}
    if alone:
        parts["head of its start"] = 4 * student.rows * student.hidden
    else:
        parts["those of its start"] = itemsize * student.parameters
    parts |= {} if teacher is None else {"teacher's weights": step.itemsize * teacher.parameters}
    return with_libraries(parts, step)


def _sharded(parts: dict[str, int], student: Size, teacher: Size | None, step: Step) -> dict[str, int]:
    """The parts of one of several processes that hold a part of all weights each, and what each gathers for a while.

    Gathered are, with their gradients, embedding and head of the student and of three of its layers, and the same of the teacher
    without gradients; the head's gradient is float32. By arithmetic: it was measured on no device.
    """
    held = ("student's weights", "gradients", "AdamW's moments", AVERAGE, "teacher's weights")
    divided = {name: -(-size // step.shards) if name in held else size for name, size in parts.items()}
    divided.pop("student's weights in half precision", None)  # gathered in that format instead
    gathered = 2 * step.itemsize * _gathered(student) + 4 * student.rows * student.hidden
    gathered += 0 if teacher is None else step.itemsize * _gathered(teacher)
    return divided | {"gathered weights": gathered}


def _gathered(size: Size) -> int:
    """Parameters of embedding, head and three layers."""
    return size.embedding + size.head + round(min(3, size.layers) * size.body / size.layers)


def with_libraries(parts: dict[str, int], step: Step) -> dict[str, int]:
    """The parts, with what the allocator keeps and what libraries take."""
    transient = sum(parts.get(name, 0) for name in TRANSIENT)
    kept = round(_KEPT_BY_ALLOCATOR[step.kind] * transient)
    compiled = _COMPILED[step.inside] if step.kind == "cpu" and step.itemsize < _WIDE else 0
    return parts | {"kept by the allocator": kept, "Python and libraries": _LIBRARIES[step.kind] + compiled}


def student_parts(size: Size, step: Step, *, narrow: Narrow = WIDE) -> dict[str, int]:
    """Bytes of a student's weights, some of them ``narrow``, of gradients, moments and activations."""
    use = step.use
    parts = {
        "student's weights": use.itemsize * (size.parameters - narrow.numbers)
        + round(narrow.itemsize * narrow.numbers),
        "gradients": use.itemsize * size.parameters,
        "AdamW's moments": round(MOMENTS[use.optimizer] * size.parameters),
        "activations": round(step.micro * activation_bytes(size, step)),
    }
    if step.itemsize < use.itemsize:
        # autocast keeps what it casts until the end of the step
        parts["student's weights in half precision"] = step.itemsize * max(0, size.multiplied - narrow.numbers)
    if narrow.unpacked:  # as float32, then in the format of the product
        parts["a layer's weights"] = (4 + step.itemsize) * narrow.unpacked
    return parts


def activation_bytes(size: Size, step: Step) -> float:
    """Bytes per token that the student's forward pass keeps for its backward pass.

    Where they were not counted on the architecture (`Step.kept`), they are those of Transformers' Llama, roughly: of each layer 6
    D (norms and residuals, in float32 always), 4 of all query heads, 4 F, and a row of the packed mask. Checkpointed layers
    keep their input, and one layer is computed again at a time.
    """
    kept, checkpointed = step.kept, step.use.checkpointed
    if kept is not None:
        return kept.per_token(size.layers, checkpointed=checkpointed)
    layer = 4 * 6 * size.hidden + step.itemsize * (4 * size.attention + 4 * size.ffn + step.length)
    return (size.layers * 4 * size.hidden + layer if checkpointed else size.layers * layer) + 4 * 2 * size.hidden


def _teacher_parts(size: Size, step: Step) -> dict[str, int]:
    layer = 4 * size.hidden + 4 * size.attention + 3 * size.ffn + step.length  # one layer at a time: nothing is kept
    return {
        "teacher's weights": step.itemsize * size.parameters,
        "teacher's forward pass": step.micro * step.itemsize * (layer + 2 * size.hidden),
    }


def _chunk_bytes(student: Size, teacher: Size | None, step: Step) -> int:
    """A buffer of logits a model, and on a GPU them in float32 and the objective's temporaries; on a CPU those stay in cache.

    In half precision also the student's head in that format.
    """
    fewest, most, elements = LOGITS_BUFFER[step.kind]
    logits = student.rows * min(step.micro, most, max(fewest, elements // student.rows))
    models = 1 if teacher is None else 2
    half = step.itemsize < 4
    wide = (3 + (models if half else 0)) if step.kind == "cuda" else 0
    head = step.itemsize * student.rows * student.hidden if half else 0
    return logits * (step.itemsize * models + 4 * wide) + head
