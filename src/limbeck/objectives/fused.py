"""The fused head: applies both heads and an objective to a batch without ever holding the (tokens x vocabulary) logits.

Logits of a few hundred positions at a time are computed into two buffers that are reused. The objective gets a few rows of them
at a time, small enough for the processor's cache (measured: element-wise work is 3 to 5 times faster there). Its gradient
overwrites the student's logits and is multiplied back at once. Note that gradients are computed in this forward pass, and that
the head's gradient is computed here, not by autograd.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from limbeck.errors import BadObjective, Mismatch
from limbeck.host import on_host, part_of, sent
from limbeck.models.mixers.precision import exact
from limbeck.objectives import chunks, outcomes, pairs
from limbeck.objectives.base import Objective, terms_of
from limbeck.products import full_products
from limbeck.types import Batch, Chunk, ChunkTargets, Head, Outputs, PairTargets, Signal, Slopes, Sparse

# On a CPU a block and its temporaries should fit the second-level cache (1 MiB), and the buffers of two chunks the third-level
# cache. On an accelerator every kernel launch costs.
_CHUNK_ELEMENTS = {"cpu": 2**23, "accelerator": 2**26}
_BLOCK_ELEMENTS = {"cpu": 2**16, "accelerator": 2**26}
_SPARSE_BLOCK_ELEMENTS = {"cpu": 2**18, "accelerator": 2**26}  # one tensor of a block instead of several
_CHUNK_POSITIONS = {"cpu": (128, 512), "accelerator": (256, 8192)}  # at least, at most
# A CPU compiles each shape of a product in bfloat16: a millisecond and two thirds of a MiB (limbeck/__init__.py). Chunks of
# whatever number of positions a batch trains on would be compiled anew at every step, so zeros are added up to a multiple.
_COMPILED_ROWS = 32
_SUM_ELEMENTS = 2**20  # of a head's gradient that are added at once in another format


@dataclass(frozen=True)
class Sizes:
    """How many positions' logits are computed at once (``chunk``), and how many an objective gets at once (``block``).

    They change speed and memory, and results only by rounding.
    """

    chunk: int
    block: int


def fused_backward(
    objective: Objective,
    outputs: Outputs,
    signal: Outputs | Sparse | ChunkTargets | PairTargets | Slopes | None,
    batch: Batch,
    *,
    scale: float | Tensor,
    sizes: Sizes | Literal["auto"] = "auto",
) -> Float[Tensor, ""]:
    """Computes scale x the sum of weight x nats over the batch, in float64, and adds its gradients to all parameters.

    The head's gradient is added to ``outputs.head.weight.grad`` (and the bias's), the objective's to its own parameters; the rest
    is propagated back through ``outputs.hidden``, so a head tied to the embeddings gets both. Positions of weight 0 are not
    computed.

    Raises Mismatch if teacher and student have different vocabularies or a position has no target, BadObjective if the objective
    cannot be computed from this signal.
    """
    flat = batch.flat()
    positions = batch.counted
    factor = flat.weight[positions] * scale
    total = torch.zeros((), dtype=torch.float64, device=factor.device)
    if len(positions) == 0:
        return total
    learned = [p for p in objective.parameters() if p.requires_grad]
    if learned and isinstance(signal, ChunkTargets | PairTargets):
        _require_unlearned(objective)
    sizes = _fitting(outputs, signal, len(positions)) if sizes == "auto" else sizes
    sides = _sides(outputs, _sloped(objective, outputs, signal, batch, sizes), sizes)
    back = _Back(outputs)
    with torch.no_grad(), exact(outputs.hidden):
        for part, student, teacher in _products(*sides, positions):
            here = positions[part]
            chunk = flat.part(here)
            values = []
            for rows in _parts(len(student.raw), sizes.block):
                logits = student.logits(rows)
                teacher_signal = None if teacher is None else teacher.signal(rows)
                nats, gradient = value_and_gradient(objective, logits, teacher_signal, chunk.part(rows))
                if nats.requires_grad:
                    torch.autograd.backward(nats, factor[part][rows].to(nats.dtype), inputs=learned)
                values.append(nats.detach())
                student.raw[rows] = student.gradient(gradient, logits)
            total += torch.cat(values).double() @ factor[part].double()
            with full_products():
                back.add(here, student, factor[part])
        if outputs.extra is not None:
            total += back.penalty(outputs.extra, positions, factor)
    back.finish()
    return total


@torch.no_grad()
def fused_nats(
    objective: Objective,
    outputs: Outputs,
    signal: Outputs | Sparse | ChunkTargets | PairTargets | Slopes | None,
    batch: Batch,
    *,
    sizes: Sizes | Literal["auto"] = "auto",
) -> Float[Tensor, "B T"]:
    """Nats of every position of weight > 0, 0 elsewhere, without ``outputs.extra``. No gradients; schedules stay."""
    nats = torch.zeros(batch.weight.numel(), device=batch.weight.device)
    positions = batch.counted
    sloped = _sloped(objective, outputs, signal, batch, sizes)
    for part, logits, teacher_signal, chunk in walk(outputs, sloped, batch, positions=positions, sizes=sizes):
        with exact(outputs.hidden):
            if isinstance(teacher_signal, Sparse | Slopes):
                found = value_and_gradient(objective, logits, teacher_signal, chunk)[0]
            else:
                found = objective(logits, teacher_signal, chunk)
            nats[positions[part]] = found.to(nats.dtype)
    return nats.view_as(batch.weight)


@torch.no_grad()
def walk(
    outputs: Outputs,
    signal: Outputs | Sparse | Slopes | None,
    batch: Batch,
    *,
    positions: Int[Tensor, " n"],
    sizes: Sizes | Literal["auto"] = "auto",
) -> Iterator[tuple[slice, Float[Tensor, "m V"], Signal | Sparse | Slopes | None, Chunk]]:
    """Iterates over some of the B x T flat positions, a few at a time, in their order, in bounded memory.

    Yields (which of ``positions``, the student's logits over the real vocabulary, the teacher's signal, targets and weights). The
    logits are in buffers that the next iteration overwrites. Raises Mismatch as `fused_backward`.
    """
    flat = batch.flat()
    sizes = _fitting(outputs, signal, len(positions)) if sizes == "auto" else sizes
    for part, student, teacher in _products(*_sides(outputs, signal, sizes), positions):
        for rows in _parts(len(student.raw), sizes.block):
            which = slice(part.start + rows.start, part.start + rows.stop)
            here = positions[which]
            target = None if teacher is None else teacher.signal(rows)
            yield which, student.logits(rows), target, flat.part(here)


_FORMATS: ContextVar[WeakTensorKeyDictionary | None] = ContextVar("formats", default=None)


@contextmanager
def fixed_weights() -> Iterator[None]:
    """While it is open no weight changes: a head in another number format is computed once for all calls."""
    token = _FORMATS.set(WeakTensorKeyDictionary())
    try:
        yield
    finally:
        _FORMATS.reset(token)


def _in_format(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """A head's weight in a number format, without a graph."""
    known = _FORMATS.get()
    if weight.dtype == dtype or known is None:
        return weight.detach().to(dtype)
    if weight not in known or known[weight].dtype != dtype:
        known[weight] = weight.detach().to(dtype)
    found: Tensor = known[weight]
    return found


def release() -> None:
    """Frees the buffers that are kept between calls."""
    _SPARE.clear()


def value_and_gradient(
    objective: Objective, logits: Float[Tensor, "n V"], teacher_signal: Signal | Sparse | Slopes | None, chunk: Chunk
) -> tuple[Float[Tensor, " n"], Float[Tensor, "n V"]]:
    """`Objective.value_and_gradient` for a signal of any kind.

    From a few outcomes the terms of a sum are computed together, except a user's terms that have only ``forward``. Raises
    BadObjective if the objective cannot be computed from this signal.
    """
    if isinstance(teacher_signal, Slopes):
        return chunks.value_and_gradient(terms_of(objective), logits, teacher_signal, chunk)
    if not isinstance(teacher_signal, Sparse):
        return objective.value_and_gradient(logits, teacher_signal, chunk)
    terms = terms_of(objective)
    known = [(weight, term) for weight, term in terms if type(term).of_outcomes is not Objective.of_outcomes]
    nats, gradient = outcomes.value_and_gradient(known, logits, teacher_signal, chunk)
    for weight, term in terms:
        if type(term).of_outcomes is Objective.of_outcomes:
            value, slope = term.value_and_gradient(
                logits, cast("Signal", teacher_signal), chunk
            )  # it may use `against`
            with torch.enable_grad():  # of the term's own parameters
                nats = nats + weight * value
            gradient = gradient.add_(slope, alpha=weight)
    return nats, gradient


def _require_unlearned(objective: Objective) -> None:
    """Raises BadObjective for a term with parameters whose slopes are computed once, before its parameters change."""
    for _, term in terms_of(objective):
        if term.needs_teacher and any(p.requires_grad for p in term.parameters()):
            raise BadObjective(
                f"{term}: it learns parameters of its own, which it can only with a teacher of the student's tokenizer, and not "
                "from chunks or pairs: take another objective"
            )


def _sloped(
    objective: Objective,
    outputs: Outputs,
    signal: Outputs | Sparse | ChunkTargets | PairTargets | Slopes | None,
    batch: Batch,
    sizes: Sizes | Literal["auto"],
) -> Outputs | Sparse | Slopes | None:
    """Targets of chunks or pairs as slopes at positions, by a pass through the head where their likelihoods are compared."""
    if not isinstance(signal, ChunkTargets | PairTargets):
        return signal
    terms = terms_of(objective)
    flat = batch.flat()
    exact = torch.promote_types(outputs.hidden.dtype, torch.float32)
    log_q = torch.zeros(flat.weight.shape, dtype=exact, device=flat.weight.device)
    of_pairs = isinstance(signal, PairTargets)
    if of_pairs or chunks.of_chunks(terms):
        which = signal.side if isinstance(signal, PairTargets) else signal.chunk
        positions = sent((on_host(which) >= 0).nonzero().squeeze(-1), which.device)
        for part, logits, _, chunk in walk(outputs, None, batch, positions=positions, sizes=sizes):
            log_q[positions[part]] = logits.log_softmax(-1).gather(-1, chunk.targets[:, None]).squeeze(-1).to(exact)
    return (pairs if of_pairs else chunks).slopes(terms, signal, log_q, flat.weight)


class _Stored:
    """A teacher's captured signal in the place of a `_Side`: there are no logits to compute."""

    buffer = None

    def __init__(self, stored: Sparse | Slopes) -> None:
        self.stored = stored

    def multiply(self, positions: Tensor) -> None:
        """Selects some positions. Raises Mismatch if one has no target."""
        if isinstance(self.stored, Sparse):
            self.stored.require_known(positions)
        self.chosen = self.stored.part(positions)

    def signal(self, rows: slice) -> Sparse | Slopes:
        """The signal at some of the selected positions."""
        return self.chosen.part(rows)


class _Side:
    """One model's head over the real vocabulary, with a buffer for its products with a chunk of hidden states."""

    def __init__(self, outputs: Outputs, rows: int) -> None:
        self.head: Head = outputs.head
        self.hidden = outputs.hidden.detach().reshape(-1, outputs.hidden.shape[-1])
        self.dtype = dtype = _dtype(outputs)
        self.weight = _in_format(outputs.head.weight, dtype)[: outputs.vocab]
        self.bias = None if outputs.head.bias is None else outputs.head.bias.detach()[: outputs.vocab]
        self.multiple = _multiple(outputs)
        self.buffer = _borrow(self._whole(rows) * len(self.weight), dtype, self.hidden.device)
        self.rows = rows

    def multiply(self, positions: Tensor) -> None:
        """Fills `raw`, (n, V), with the products of some positions; rows of zeros may follow it in `products`."""
        n = len(positions)
        self.chosen = self.hidden[positions].to(self.dtype)
        if more := self._whole(n) - n:
            self.chosen = torch.cat([self.chosen, self.chosen.new_zeros(more, self.chosen.shape[1])])
        self.products = self.buffer[: (n + more) * len(self.weight)].view(n + more, len(self.weight))
        self.raw = self.products[:n]
        with full_products():
            torch.mm(self.chosen, self.weight.t(), out=self.products)

    def _whole(self, rows: int) -> int:
        return -(-rows // self.multiple) * self.multiple

    def logits(self, rows: slice) -> Tensor:
        """Logits from some products (bias, scale, soft cap), at least in float32. Overwrites the products if it can."""
        z = self.raw[rows]
        z = z if z.dtype == torch.float64 else z.float()
        if self.bias is not None:
            z = z.add_(self.bias)
        if self.head.scale != 1.0:
            z = z.mul_(self.head.scale)
        if self.head.softcap is not None:
            z = z.div_(self.head.softcap).tanh_().mul_(self.head.softcap)
        return z

    def signal(self, rows: slice) -> Signal:
        """The teacher's signal at some products."""
        return Signal(self.logits(rows))

    def gradient(self, gradient: Tensor, logits: Tensor) -> Tensor:
        """The gradient in the products, from that in the logits."""
        if self.head.softcap is not None:
            gradient = gradient * (1 - (logits / self.head.softcap) ** 2)
        return gradient if self.head.scale == 1.0 else gradient * self.head.scale


class _Back:
    """Accumulates the student's gradients: of hidden states, head weight and head bias."""

    def __init__(self, outputs: Outputs) -> None:
        self.outputs = outputs
        hidden, head = outputs.hidden, outputs.head
        self.hidden = torch.zeros_like(hidden).view(-1, hidden.shape[-1]) if hidden.requires_grad else None
        self.weight = self._gather(head.weight)
        self.bias = None if head.bias is None else self._gather(head.bias)
        self.extra: Tensor | None = None

    def penalty(self, extra: Tensor, positions: Tensor, factor: Tensor) -> Tensor:
        """Takes up the model's own nats at some positions; gives factor x nats, summed in float64."""
        if extra.requires_grad:
            self.extra = torch.zeros_like(extra, requires_grad=False).view(-1)
            self.extra[positions] = factor.to(extra.dtype)
        return extra.detach().reshape(-1)[positions].double() @ factor.double()

    @staticmethod
    def _gather(tensor: Tensor) -> Tensor | None:
        """The accumulator of a tensor's gradient: its own ``grad`` if that has enough precision for sums over chunks."""
        if not tensor.requires_grad:
            return None
        if not tensor.is_leaf or tensor.dtype not in (torch.float32, torch.float64):
            return torch.zeros_like(tensor, dtype=torch.promote_types(tensor.dtype, torch.float32), requires_grad=False)
        if tensor.grad is None:
            tensor.grad = torch.zeros_like(tensor, requires_grad=False)
        return tensor.grad

    def add(self, positions: Tensor, side: _Side, factor: Tensor) -> None:
        """Adds one chunk, whose gradient in the products is in ``side.raw``.

        The factor of each position is applied to the narrow operand, (n, D), which is equivalent and cheap.
        """
        factor = factor[:, None].to(side.dtype)
        n = len(factor)
        if self.hidden is not None:
            found = torch.mm(side.products, side.weight)[:n]
            self.hidden[positions] = found.mul_(factor).to(self.hidden.dtype)
        if self.weight is not None:
            side.chosen[:n] *= factor
            _add_product(self.weight[: len(side.weight)], side.products.t(), side.chosen)
        if self.bias is not None:
            whole = nn.functional.pad(factor, (0, 0, 0, len(side.products) - n))
            _add_product(self.bias[: len(side.weight), None], side.products.t(), whole)

    def finish(self) -> None:
        """Propagates the accumulated gradients that are not in ``grad`` yet back through the student."""
        head = self.outputs.head
        gathered = [(self.outputs.hidden, self.hidden), (head.weight, self.weight), (head.bias, self.bias)]
        gathered += [] if self.extra is None else [(self.outputs.extra, self.extra)]
        waiting = [
            (tensor, gradient.view(tensor.shape).to(tensor.dtype))
            for tensor, gradient in gathered
            if tensor is not None and gradient is not None and not (tensor.is_leaf and tensor.grad is gradient)
        ]
        if waiting:
            with exact(
                self.outputs.hidden
            ):  # autocast in the backward pass would round what the forward pass kept wide
                torch.autograd.backward([t for t, _ in waiting], [g for _, g in waiting])


def _fitting(outputs: Outputs, signal: object, n: int) -> Sizes:
    """Sizes for the device and the kind of signal, with chunks of about equal length for n positions."""
    device = "cpu" if outputs.hidden.device.type == "cpu" else "accelerator"
    fewest, most = _CHUNK_POSITIONS[device]
    multiple = _multiple(outputs)  # so that only a last chunk is lengthened
    largest = min(most, max(fewest, _CHUNK_ELEMENTS[device] // outputs.vocab)) // multiple * multiple
    chunks = max(1, math.ceil(n / largest))
    elements = (_SPARSE_BLOCK_ELEMENTS if isinstance(signal, Sparse) else _BLOCK_ELEMENTS)[device]
    return Sizes(chunk=max(1, math.ceil(n / chunks / multiple) * multiple), block=max(1, elements // outputs.vocab))


def _multiple(outputs: Outputs) -> int:
    """Of how many rows a product with the head is a multiple."""
    device = outputs.hidden.device.type
    return _COMPILED_ROWS if device == "cpu" and _dtype(outputs) == torch.bfloat16 else 1


def _dtype(outputs: Outputs) -> torch.dtype:
    """The number format of products with the head."""
    device = outputs.hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else outputs.hidden.dtype


def _sides(
    outputs: Outputs, signal: Outputs | Sparse | Slopes | None, sizes: Sizes
) -> tuple[_Side, _Side | _Stored | None]:
    """Student and teacher with their buffers. Raises Mismatch if their vocabularies differ."""
    if isinstance(signal, Slopes):
        return _Side(outputs, sizes.chunk), _Stored(signal)
    if signal is not None and signal.vocab != outputs.vocab:
        raise Mismatch(
            f"the teacher has a vocabulary of {signal.vocab} tokens, the student one of {outputs.vocab}: the objective compares "
            "them token by token; give the student the teacher's tokenizer, or use CrossEntropy, which needs no teacher"
        )
    if isinstance(signal, Sparse):
        return _Side(outputs, sizes.chunk), _Stored(signal)
    return _Side(outputs, sizes.chunk), None if signal is None else _Side(signal, sizes.chunk)


def _products(
    student: _Side, teacher: _Side | _Stored | None, positions: Tensor
) -> Iterator[tuple[slice, _Side, _Side | _Stored | None]]:
    """Computes chunk after chunk of positions: (which of them, student, teacher)."""
    sides: list[_Side | _Stored] = [student] if teacher is None else [student, teacher]
    try:
        for part in _parts(len(positions), student.rows):
            for side in sides:
                side.multiply(part_of(positions, part))
            yield part, student, teacher
    finally:
        buffers = [side.buffer for side in sides if side.buffer is not None]
        _SPARE.extend(buffer for buffer in buffers if buffer.device.type == "cpu")


# Buffers kept between calls. On a CPU fresh memory costs more than the arithmetic in it: 1.8 GB/s to fault pages in, 8.2 GB/s to
# write them again. Accelerators have their own caching allocator.
_SPARE: list[Tensor] = []


def _borrow(elements: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A buffer of at least ``elements``: a spare one, or a new one that replaces spare ones that are too small."""
    fits = [spare for spare in _SPARE if spare.dtype == dtype and spare.numel() >= elements and device.type == "cpu"]
    if not fits:
        _SPARE.clear()
        return torch.empty(elements, dtype=dtype, device=device)
    _SPARE[:] = [spare for spare in _SPARE if spare is not fits[0]]
    return fits[0]


def _parts(n: int, size: int) -> Iterator[slice]:
    """Consecutive pieces of n."""
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a @ b, in the precision of ``total``."""
    if total.dtype == a.dtype:
        total.addmm_(a, b)
        return
    # A CPU copies what it adds in another format, so a part at a time; an accelerator converts while it adds.
    size = len(total) if total.device.type != "cpu" else max(1, _SUM_ELEMENTS // b.shape[1])
    for rows in _parts(len(total), size):
        total[rows] += torch.mm(a[rows], b)
