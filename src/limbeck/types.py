"""The values and protocols that all parts of limbeck share.

Legend of axes: B rows, T positions of a row, V tokens of the vocabulary, K outcomes of a signal, D hidden width,
n positions in a chunk (a flat piece of B x T), C chunks of text that two tokenizers have in common.

Targets are shifted once, where rows are packed (`corpora/pack.py`): everywhere after that ``logits[b, t]``,
``targets[b, t]`` and ``weight[b, t]`` belong to the same prediction.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NotRequired, Protocol, TypedDict, TypeVar, overload, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from limbeck.errors import Mismatch
from limbeck.host import joined_tensors, on_host, part_of, sent
from limbeck.products import full_products

Dataclass = TypeVar("Dataclass", bound="Batch | ModelInputs")


class Gathering(Protocol):
    """Processes that compute something together."""

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks, in order, on each of them."""


@dataclass(frozen=True)
class ModelInputs:
    """A model's input of B rows: tokens, their positions, which restart at 0 with each document, and the documents.

    Whatever else a model may read (pixels) is a field here.
    """

    tokens: Int[Tensor, "B T"]
    position: Int[Tensor, "B T"]
    document: Int[Tensor, "B T"]


@dataclass(frozen=True)
class Batch:
    """Rows of packed documents, already shifted.

    ``weight`` is what a prediction counts: 0 for padding, prompts, and the last token of a document cut by nothing but
    its end. ``position`` restarts at 0 with each document of a row, which is also what keeps attention inside it.
    ``document`` is the index of the document in its store, -1 where there is none. ``row`` is the number of each row among
    all those of its corpus, by which captured logits are found. ``student_inputs``: what the student reads, where that is
    other than what its teacher reads, such as masked tokens.
    """

    tokens: Int[Tensor, "B T"]
    targets: Int[Tensor, "B T"]
    weight: Float[Tensor, "B T"]
    position: Int[Tensor, "B T"]
    document: Int[Tensor, "B T"]
    row: Int[Tensor, " B"]
    student_inputs: ModelInputs | None = None

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device. What is sent from the host is also kept there (`limbeck.host`)."""
        return mapped(self, lambda tensor: sent(tensor, device))

    def rows(self, part: slice | Tensor) -> Batch:
        """Some rows of this batch, by a slice or by their indices (rows,)."""
        return mapped(self, lambda tensor: part_of(tensor, part))

    @property
    def total(self) -> float:
        """Summed weight of the predictions."""
        return float(on_host(self.weight).sum())

    @property
    def counted(self) -> Int[Tensor, " n"]:
        """The flat positions whose prediction has a weight."""
        return sent(on_host(self.weight).flatten().nonzero().squeeze(-1), self.weight.device)

    @property
    def inputs(self) -> ModelInputs:
        """The model's input of these rows."""
        return ModelInputs(self.tokens, self.position, self.document)

    def for_student(self) -> Batch:
        """The batch as the student reads it: its own inputs in the place of the teacher's, where it has such."""
        if self.student_inputs is None:
            return self
        own = self.student_inputs
        return replace(self, tokens=own.tokens, position=own.position, document=own.document, student_inputs=None)

    @property
    def sequence(self) -> Int[Tensor, "B T"]:
        """Ids from 0 of the sequences in these rows: one begins with each row, and wherever positions restart."""
        begins = self.position == 0
        begins[:, 0] = True
        return begins.reshape(-1).cumsum(0).sub_(1).view_as(self.position)

    def flat(self) -> Chunk:
        """All positions in one axis of length B x T."""
        return Chunk(self.targets.reshape(-1), self.weight.reshape(-1), self)


@dataclass(frozen=True)
class Chunk:
    """An objective's input at n positions besides the logits: the target token, and the weight of its prediction.

    ``origin``: the batch with these positions, or a chunk and which of its positions these are. None where they stand alone.
    """

    targets: Int[Tensor, " n"]
    weight: Float[Tensor, " n"]
    origin: Batch | tuple[Chunk, slice | Tensor] | None = None

    @cached_property
    def sequence(self) -> Int[Tensor, " n"] | None:
        """Which sequence of the batch each position belongs to, so that a loss may sum over one; None without an ``origin``.

        Positions of one sequence may come in several chunks, in order.
        """
        if not isinstance(self.origin, tuple):  # computed at first use: few objectives need it
            return None if self.origin is None else self.origin.sequence.reshape(-1)
        whole, part = self.origin
        return None if whole.sequence is None else whole.sequence[part]

    def part(self, part: slice | Tensor) -> Chunk:
        """Some of the positions, by a slice or by their indices (m,)."""
        return Chunk(self.targets[part], self.weight[part], (self, part))


@dataclass(frozen=True)
class Head:
    """The output head of a decoder: its last linear map, a scale and a soft cap.

    ``logits = cap(scale * (hidden @ weight.T + bias))`` with ``cap(z) = softcap * tanh(z / softcap)``, or the identity without
    a soft cap (Gemma 2, arXiv 2408.00118, sec. 2).
    """

    weight: Float[Tensor, "rows D"]
    bias: Float[Tensor, " rows"] | None = None
    scale: float = 1.0
    softcap: float | None = None

    def logits(self, hidden: Float[Tensor, "*shape D"]) -> Float[Tensor, "*shape rows"]:
        """Logits over every row of the head, padded ones too. Products of float32 are in full (`limbeck.products`)."""
        with full_products():
            z = torch.nn.functional.linear(hidden, self.weight, self.bias)
        if self.scale != 1.0:
            z = z * self.scale
        return z if self.softcap is None else self.softcap * torch.tanh(z / self.softcap)


@dataclass(frozen=True)
class Outputs:
    """A model's outputs for a batch before the head: hidden states, and the head that makes logits of them.

    ``vocab`` is the number of real tokens, from the tokenizer. Rows of the head beyond it are padding: they take part in
    nothing, so models of one family with differently padded heads meet on one support.

    ``extra``: nats of each position that the model adds to its loss in training, such as a penalty of a gate; with a graph.
    """

    hidden: Float[Tensor, "B T D"]
    head: Head
    vocab: int
    extra: Float[Tensor, "B T"] | None = None

    def logits(self, part: slice | Tensor | None = None) -> Float[Tensor, "n V"]:
        """Logits over the real vocabulary at some of the B x T flat positions, or at all of them (which is large).

        ``part`` is a slice or indices (n,).
        """
        hidden = self.hidden.reshape(-1, self.hidden.shape[-1])
        return self.head.logits(hidden if part is None else hidden[part])[:, : self.vocab]


@dataclass(frozen=True)
class Signal:
    """A teacher's logits at n positions, over the real vocabulary: the dense signal.

    Objectives use signals through `against`: two log-distributions over one support.
    """

    logits: Float[Tensor, "n V"]

    def log_p(self, temperature: float | Tensor = 1.0) -> Float[Tensor, "n V"]:
        """log p, in nats, at a temperature, which is a scalar."""
        return tempered(self.logits, temperature).log_softmax(-1)

    def against(
        self, logits: Float[Tensor, "n V"], temperature: float | Tensor = 1.0
    ) -> tuple[Float[Tensor, "n K"], Float[Tensor, "n K"]]:
        """(log p, log q) over the same K outcomes: the teacher's, and those of a student with these logits.

        The temperature is a scalar.
        """
        return self.log_p(temperature), tempered(logits, temperature).log_softmax(-1)

    def largest(self, count: int) -> Float[Tensor, "n k"]:
        """The largest probabilities of each position, largest first: ``count`` of them, or all where there are fewer."""
        return self.likeliest(count)[0]

    def likeliest(self, count: int) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
        """As `largest`, with the tokens that have these probabilities."""
        log_p = self.log_p()
        found = log_p.topk(min(count, log_p.shape[-1]))
        return found.values.exp(), found.indices

    def part(self, part: slice) -> Signal:
        """The signal at some of the positions."""
        return Signal(self.logits[part])


@dataclass(frozen=True)
class Sparse:
    """K outcomes of a teacher's distribution at n positions: the sum of weight f over them stands for the sum of p f over all V.

    Two kinds. *Top-k with the rest*: the outcomes are the most probable ones, weight = p, and ``rest`` is the log of the mass of
    all others. Distributions over K + 1 outcomes are compared; their divergences are never more than the true ones (data
    processing inequality). *Sampled* (``rest`` is None): an outcome was kept with probability p / weight, so the sums are
    unbiased (Horvitz & Thompson 1952), and weights sum to 1. ``log_p`` is the teacher's log-probability, in nats, in both.
    The outcomes of a position are distinct; one of weight 0 is padding, whose id may be that of another. A position whose
    weights are all 0 and whose rest is -inf has no target; training and probes give it weight 0 (`teachers.LogitCache.masked`).
    """

    ids: Int[Tensor, "n K"]
    log_p: Float[Tensor, "n K"]
    weight: Float[Tensor, "n K"]
    vocab: int
    rest: Float[Tensor, " n"] | None = None

    def against(
        self, logits: Float[Tensor, "n V"], temperature: float | Tensor = 1.0
    ) -> tuple[Float[Tensor, "n K+1"], Float[Tensor, "n K+1"]]:
        """As `Signal.against`, over the K outcomes and the rest; for top-k outcomes at temperature 1 only.

        Raises Mismatch otherwise: a formula over all outcomes has no value for a sample of them, and the mass of the rest at
        another temperature is unknown.
        """
        if self.rest is None or not (isinstance(temperature, float) and temperature == 1.0):
            raise Mismatch(
                "these captured logits are "
                + ("sampled outcomes" if self.rest is None else "the top-k outcomes and the rest at temperature 1")
                + f", which do not give a sum over all outcomes at temperature {temperature}: use a live teacher, or an "
                "objective that accepts them"
            )
        log_q = logits.log_softmax(-1)
        others = log_q.scatter(-1, self.ids, -math.inf).logsumexp(-1, keepdim=True)
        at_ids = torch.where(self.weight > 0, log_q.gather(-1, self.ids), self.log_p)  # padding differs in nothing
        return torch.cat([self.log_p, self.rest[:, None]], -1), torch.cat([at_ids, others], -1)

    def largest(self, count: int) -> Float[Tensor, "n k"]:
        """As `Signal.largest`, from top-k outcomes.

        Raises Mismatch for sampled ones: a sample does not give a distribution's largest probabilities, not even without bias.
        """
        return self.likeliest(count)[0]

    def likeliest(self, count: int) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
        """As `largest`, with the tokens that have these probabilities. Raises Mismatch as that does."""
        if self.rest is None:
            raise Mismatch(
                "these captured logits are sampled outcomes, which do not give the largest probabilities: use a "
                "live teacher, or logits captured with --codec top-k"
            )
        found = self.weight.topk(min(count, self.weight.shape[-1]))
        return found.values, self.ids.gather(-1, found.indices)

    @property
    def known(self) -> Bool[Tensor, " n"]:
        """Which positions have a target."""
        if self.rest is None:
            return torch.ones_like(self.weight[:, 0], dtype=torch.bool)
        return self.rest.isfinite() | (self.weight > 0).any(-1)

    def require_known(self, positions: Int[Tensor, " m"] | None = None) -> None:
        """Raises Mismatch if one of some positions, or of all, has no target."""
        if self.rest is None:
            return
        known = replace(self, rest=on_host(self.rest), weight=on_host(self.weight)).known
        known = known if positions is None else known[on_host(positions)]
        if missing := int((~known).sum()):
            raise Mismatch(
                f"{missing:,} of {len(known):,} positions of weight > 0 have no teacher target: give those weight 0 "
                "first, with batch = cache.masked(batch)"
            )

    def part(self, part: slice | Tensor) -> Sparse:
        """The signal at some of the positions, by a slice or by their indices (m,)."""
        rest = None if self.rest is None else self.rest[part]
        return Sparse(self.ids[part], self.log_p[part], self.weight[part], self.vocab, rest)

    def to(self, device: torch.device | str) -> Sparse:
        """The same signal on another device."""
        rest = None if self.rest is None else sent(self.rest, device)
        return Sparse(sent(self.ids, device), sent(self.log_p, device), sent(self.weight, device), self.vocab, rest)


@dataclass(frozen=True)
class ChunkTargets:
    """Targets at n positions from a teacher with another tokenizer: its log p of the chunks of text that they predict.

    ``chunk`` is the chunk of each position's target, -1 for none; ``log_p`` is the teacher's log-probability of each chunk, in
    nats. A chunk is one or more whole tokens in both tokenizers; all of its student tokens are among the n positions, with
    weight > 0.

    ``largest``, if it was recorded, are the teacher's k largest next-token probabilities, largest first, at positions where
    teacher and student have read the same text; 0 at the others.
    """

    chunk: Int[Tensor, " n"]
    log_p: Float[Tensor, " C"]
    largest: Float[Tensor, "n k"] | None = None


@dataclass(frozen=True)
class PairTargets:
    """The log-probabilities of both completions of each pair by the model before tuning, and where they are in n positions.

    ``side`` is the completion that each position's target belongs to: 2 i the preferred one of pair i, 2 i + 1 the rejected one,
    -1 none. ``log_p`` (nats, float64) are sums over a completion's tokens, all of which are among the n positions.
    """

    side: Int[Tensor, " n"]
    log_p: Float[Tensor, "pairs 2"]


@dataclass(frozen=True)
class Slopes:
    """A loss at n positions that depends on the logits through log q of the target alone: nats, and their slope in log q.

    ``largest`` are the teacher's largest probabilities from `ChunkTargets`, for terms that compare sorted probabilities.
    """

    nats: Float[Tensor, " n"]
    slope: Float[Tensor, " n"]
    largest: Float[Tensor, "n k"] | None = None

    def part(self, part: slice | Tensor) -> Slopes:
        """The slopes at some of the positions, by a slice or by indices (n,)."""
        return Slopes(self.nats[part], self.slope[part], None if self.largest is None else self.largest[part])


def joined(first: Batch, second: Batch) -> Batch:
    """The rows of both batches, and what their student reads in the place of a teacher's inputs, where either has such."""
    own = None
    if first.student_inputs is not None or second.student_inputs is not None:
        ours, theirs = first.for_student(), second.for_student()
        own = ModelInputs(
            joined_tensors([ours.tokens, theirs.tokens]),
            joined_tensors([ours.position, theirs.position]),
            joined_tensors([ours.document, theirs.document]),
        )
    return Batch(
        tokens=joined_tensors([first.tokens, second.tokens]),
        targets=joined_tensors([first.targets, second.targets]),
        weight=joined_tensors([first.weight, second.weight]),
        position=joined_tensors([first.position, second.position]),
        document=joined_tensors([first.document, second.document]),
        row=joined_tensors([first.row, second.row]),
        student_inputs=own,
    )


def mapped(value: Dataclass, change: Callable[[Tensor], Tensor]) -> Dataclass:
    """A dataclass of tensors with each tensor changed by ``change``, also in dataclasses inside. None stays None."""
    found: dict[str, Any] = {}
    for name in value.__dataclass_fields__:
        inside = getattr(value, name)
        found[name] = (
            change(inside) if isinstance(inside, Tensor) else None if inside is None else mapped(inside, change)
        )
    return replace(value, **found)


def tempered(logits: Float[Tensor, "*shape"], temperature: float | Tensor) -> Float[Tensor, "*shape"]:
    """Logits divided by a temperature; at temperature 1 the same tensor, since a division would cost a pass over all of them."""
    return logits if isinstance(temperature, float) and temperature == 1.0 else logits / temperature


@dataclass(frozen=True)
class Reading:
    """One measured number. ``low`` and ``high`` bound a 95 % interval; n is what was sampled (documents, tokens, runs).

    A number without sampling error (a parameter count) has low = high = value and n = 1.
    """

    model: str
    probe: str
    name: str
    value: float
    unit: str
    n: int
    low: float
    high: float
    seed: int | None = None

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Reading:
        """A reading from its row in readings.jsonl. Null numbers become NaN, since JSON has none; other keys are ignored."""
        was_nan = {key: math.nan for key in ("value", "low", "high") if row[key] is None}
        return cls(**{key: value for key, value in {**row, **was_nan}.items() if key in cls.__dataclass_fields__})

    def row(self) -> dict[str, Any]:
        """As a row of readings.jsonl; NaN and infinities as null, since JSON has none."""
        return {
            k: (None if isinstance(v, float) and not math.isfinite(v) else v)
            for k, v in ((name, getattr(self, name)) for name in self.__dataclass_fields__)
        }


class ReadingRow(TypedDict):
    """A row of readings.jsonl, as `Reading.row` gives it."""

    model: str
    probe: str
    name: str
    value: float | None
    unit: str
    n: int
    low: float | None
    high: float | None
    seed: NotRequired[int | None]


@runtime_checkable
class CausalLM(Protocol):
    """A model as teacher or student: maps a batch to its outputs."""

    name: str
    vocab: int

    def __call__(self, batch: Batch) -> Outputs: ...


@runtime_checkable
class StreamedLM(CausalLM, Protocol):
    """A model whose weights are read from disk once for many batches."""

    def each(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, Outputs]]: ...


@runtime_checkable
class Teacher(Protocol):
    """A teacher with the student's tokenizer: a live model, captured hidden states or captured logits."""

    name: str
    vocab: int

    def __call__(self, batch: Batch) -> Outputs | Sparse: ...


@runtime_checkable
class ChunkTeacher(Protocol):
    """A teacher with another tokenizer than the student's, log-probabilities of pairs of completions, or slopes known before."""

    name: str

    def __call__(self, batch: Batch) -> ChunkTargets | PairTargets | Slopes: ...


@overload
def each(teacher: CausalLM, batches: Iterable[Batch]) -> Iterator[tuple[Batch, Outputs]]: ...
@overload
def each(teacher: Teacher, batches: Iterable[Batch]) -> Iterator[tuple[Batch, Outputs | Sparse]]: ...
def each(teacher: Teacher, batches: Iterable[Batch]) -> Iterator[tuple[Batch, Outputs | Sparse]]:
    """The teacher's outputs for each of the batches, one after the other.

    Delete an output before you take the next one, which may load the head into memory again.
    """
    if isinstance(teacher, StreamedLM):
        yield from teacher.each(batches)
        return
    for batch in batches:
        yield batch, teacher(batch)


@runtime_checkable
class Corpus(Protocol):
    """Rows in a fixed, shuffled, endless order, with a position that can be saved.

    ``length``: tokens of a row; ``seed``: that of the order. `take` gives the next rows, `documents` the names of those with
    weight in the last rows that were taken: what a message names.
    """

    length: int
    seed: int

    def take(self, rows: int) -> Batch: ...
    def documents(self, rows: int) -> list[str]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...
