"""The values that everything in limbeck passes around, and the roles that pass them.

Legend of axes: B rows, T positions of a row, V tokens of the vocabulary, K outcomes of a signal, D hidden width,
n positions in a chunk (a flat piece of B x T), C chunks of text that two tokenizers have in common.

The shift is made once, where rows are packed (`corpora/pack.py`): everywhere after that ``logits[b, t]``,
``targets[b, t]`` and ``weight[b, t]`` speak of the same prediction.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NotRequired, Protocol, TypedDict, overload, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from limbeck.errors import Mismatch


@dataclass(frozen=True)
class Batch:
    """Rows of packed documents, already shifted.

    ``weight`` is what a prediction counts: 0 for padding, prompts, and the last token of a document cut by nothing but
    its end. ``position`` restarts at 0 with each document of a row, which is also what keeps attention inside it.
    ``document`` is the index of the document in its store, -1 where there is none. ``row`` is the number of each row among
    all those of its corpus: what a teacher that was asked before finds its answers by.
    """

    tokens: Int[Tensor, "B T"]
    targets: Int[Tensor, "B T"]
    weight: Float[Tensor, "B T"]
    position: Int[Tensor, "B T"]
    document: Int[Tensor, "B T"]
    row: Int[Tensor, "B"]

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        return replace(self, **{name: getattr(self, name).to(device) for name in self.__dataclass_fields__})

    def rows(self, part: slice) -> Batch:
        """Some rows of this batch."""
        return replace(self, **{name: getattr(self, name)[part] for name in self.__dataclass_fields__})

    def flat(self) -> Chunk:
        """All positions in one axis of length B x T."""
        return Chunk(self.targets.reshape(-1), self.weight.reshape(-1))


@dataclass(frozen=True)
class Chunk:
    """What an objective may know of n positions: the token that follows, and how much the prediction counts."""

    targets: Int[Tensor, "n"]
    weight: Float[Tensor, "n"]

    def part(self, part: slice) -> Chunk:
        """Some of the positions."""
        return Chunk(self.targets[part], self.weight[part])


@dataclass(frozen=True)
class Head:
    """The last linear map of a decoder, and what follows it.

    ``logits = cap(scale * (hidden @ weight.T + bias))`` with ``cap(z) = softcap * tanh(z / softcap)`` where there is one
    (Gemma 2, arXiv 2408.00118, sec. 2).
    """

    weight: Float[Tensor, "rows D"]
    bias: Float[Tensor, "rows"] | None = None
    scale: float = 1.0
    softcap: float | None = None

    def logits(self, hidden: Float[Tensor, "*shape D"]) -> Float[Tensor, "*shape rows"]:
        """Logits over every row of the head, padded ones too."""
        z = torch.nn.functional.linear(hidden, self.weight, self.bias)
        if self.scale != 1.0:
            z = z * self.scale
        return z if self.softcap is None else self.softcap * torch.tanh(z / self.softcap)


@dataclass(frozen=True)
class Outputs:
    """What a model says about a batch, not yet multiplied out: hidden states and the head that reads them.

    ``vocab`` is the number of real tokens, from the tokenizer. Rows of the head beyond it are padding: they take part in
    nothing, so models of one family with differently padded heads meet on one support.
    """

    hidden: Float[Tensor, "B T D"]
    head: Head
    vocab: int

    def logits(self, part: slice | Tensor | None = None) -> Float[Tensor, "n V"]:
        """Logits over the real tokens, of some of the B x T flat positions (of all, which is large, without)."""
        hidden = self.hidden.reshape(-1, self.hidden.shape[-1])
        return self.head.logits(hidden if part is None else hidden[part])[:, : self.vocab]


@dataclass(frozen=True)
class Signal:
    """What a teacher says about n positions: unnormalised log p over the real vocabulary.

    The dense kind. Whatever kinds follow, an objective only needs `against`: two log-distributions of one support.
    """

    logits: Float[Tensor, "n V"]

    def log_p(self, temperature: float | Tensor = 1.0) -> Float[Tensor, "n V"]:
        """log p at a temperature."""
        return tempered(self.logits, temperature).log_softmax(-1)

    def against(
        self, logits: Float[Tensor, "n V"], temperature: float | Tensor = 1.0
    ) -> tuple[Float[Tensor, "n K"], Float[Tensor, "n K"]]:
        """(log p, log q) over the same outcomes: the teacher's, and those of a student with these logits."""
        return self.log_p(temperature), tempered(logits, temperature).log_softmax(-1)

    def largest(self, count: int) -> Float[Tensor, "n k"]:
        """The largest probabilities of each position, largest first: ``count`` of them, or all where there are fewer."""
        log_p = self.log_p()
        return log_p.topk(min(count, log_p.shape[-1])).values.exp()

    def part(self, part: slice) -> Signal:
        """What is said about some of the positions."""
        return Signal(self.logits[part])


@dataclass(frozen=True)
class Sparse:
    """What a teacher says about n positions by K outcomes of each: a sum of weight f stands for the sum of p f over all V.

    Two kinds. *Coarse*: the outcomes are the likeliest, weight = p, and ``rest`` is log of the mass that they leave; what is
    compared are distributions over K + 1 outcomes, whose divergences are never more than the true ones (data processing
    inequality). *Drawn* (``rest`` is None): an outcome was kept with probability p / weight, so the sums are right in the
    mean (Horvitz & Thompson 1952), and weights add up to 1. ``log_p`` is the teacher's own log-probability in both. No outcome
    stands twice at a position; one of weight 0 is padding. Where all weights are 0 and the rest is none (-inf) there is no
    answer: whoever learns or measures gives that position weight 0 (`teachers.LogitCache.masked`).
    """

    ids: Int[Tensor, "n K"]
    log_p: Float[Tensor, "n K"]
    weight: Float[Tensor, "n K"]
    vocab: int
    rest: Float[Tensor, "n"] | None = None

    def against(
        self, logits: Float[Tensor, "n V"], temperature: float | Tensor = 1.0
    ) -> tuple[Float[Tensor, "n K+1"], Float[Tensor, "n K+1"]]:
        """As `Signal.against`, over the K outcomes and the rest; of a coarse signal at temperature 1 alone.

        Raises Mismatch of others: a formula over all outcomes has no value for a few drawn ones, and what the rest would be
        at another temperature is not known.
        """
        if self.rest is None or not (isinstance(temperature, float) and temperature == 1.0):
            raise Mismatch(
                "this teacher's answers are "
                + ("drawn outcomes" if self.rest is None else "its likeliest outcomes and the rest at temperature 1")
                + f", which say nothing of a sum over all outcomes at temperature {temperature}: take a dense teacher, or an "
                "objective that accepts them"
            )
        log_q = logits.log_softmax(-1)
        others = log_q.scatter(-1, self.ids, -math.inf).logsumexp(-1, keepdim=True)
        return torch.cat([self.log_p, self.rest[:, None]], -1), torch.cat([log_q.gather(-1, self.ids), others], -1)

    def largest(self, count: int) -> Float[Tensor, "n k"]:
        """As `Signal.largest`, of the likeliest outcomes that were kept.

        Raises Mismatch of drawn ones: which of a distribution's probabilities are its largest cannot be told from a sample,
        and the sizes of those that were drawn are no unbiased estimate of any.
        """
        if self.rest is None:
            raise Mismatch(
                "this teacher's answers are drawn outcomes, of which it cannot be told how large the largest probabilities are, "
                "in order: take a dense teacher, or answers captured with --kind coarse"
            )
        return self.weight.topk(min(count, self.weight.shape[-1])).values

    @property
    def known(self) -> Bool[Tensor, "n"]:
        """Where there is an answer."""
        if self.rest is None:
            return torch.ones_like(self.weight[:, 0], dtype=torch.bool)
        return self.rest.isfinite() | (self.weight > 0).any(-1)

    def require_known(self) -> None:
        """Raises Mismatch where a position has no answer: it would be learned, or measured, as if it had one."""
        if missing := int((~self.known).sum()):
            raise Mismatch(
                f"{missing:,} of {len(self.ids):,} positions that count have no answer of the teacher: let those count "
                "nothing first, by batch = cache.masked(batch)"
            )

    def part(self, part: slice | Tensor) -> Sparse:
        """What is said about some of the positions."""
        rest = None if self.rest is None else self.rest[part]
        return Sparse(self.ids[part], self.log_p[part], self.weight[part], self.vocab, rest)

    def to(self, device: torch.device | str) -> Sparse:
        """The same on another device."""
        rest = None if self.rest is None else self.rest.to(device)
        return Sparse(self.ids.to(device), self.log_p.to(device), self.weight.to(device), self.vocab, rest)


@dataclass(frozen=True)
class ChunkTargets:
    """What a teacher of other tokens says about n positions: how likely it finds chunks of the text that they predict.

    ``chunk`` is which chunk the target of each position belongs to, -1 of none; ``log_p`` that of each chunk. A chunk is
    some whole tokens of each of the two, and all of the student's are among the n positions, with weight.

    ``largest``, where it was asked for, are the teacher's k largest probabilities of what follows, largest first, at the
    positions where both have read the same text, 0 at the others.
    """

    chunk: Int[Tensor, "n"]
    log_p: Float[Tensor, "C"]
    largest: Float[Tensor, "n k"] | None = None


def tempered(logits: Float[Tensor, "*shape"], temperature: float | Tensor) -> Float[Tensor, "*shape"]:
    """Logits divided by a temperature. At 1 they are the same tensor: dividing would cost a pass over all of them."""
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
        """A reading from its row; JSON has no NaN, so a number that is null was one. What else the row has is left out."""
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
    """A teacher or a student: says something about a batch."""

    name: str
    vocab: int

    def __call__(self, batch: Batch) -> Outputs: ...


@runtime_checkable
class StreamedLM(CausalLM, Protocol):
    """A speaker whose weights pass by once for many batches, so that those are asked together."""

    def each(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, Outputs]]: ...


@runtime_checkable
class Teacher(Protocol):
    """Who is listened to: a live model, or what one said before, whole or by a few outcomes."""

    name: str
    vocab: int

    def __call__(self, batch: Batch) -> Outputs | Sparse: ...


@runtime_checkable
class ChunkTeacher(Protocol):
    """Who is listened to by a student of other tokens."""

    name: str

    def __call__(self, batch: Batch) -> ChunkTargets: ...


@overload
def each(teacher: CausalLM, batches: Iterable[Batch]) -> Iterator[tuple[Batch, Outputs]]: ...
@overload
def each(teacher: Teacher, batches: Iterable[Batch]) -> Iterator[tuple[Batch, Outputs | Sparse]]: ...
def each(teacher: Teacher, batches: Iterable[Batch]) -> Iterator[tuple[Batch, Outputs | Sparse]]:
    """What a teacher says about batches, one after the other.

    Let go of an answer before the next is taken, which may bring the head into memory again.
    """
    if isinstance(teacher, StreamedLM):
        yield from teacher.each(batches)
        return
    for batch in batches:
        yield batch, teacher(batch)


@runtime_checkable
class Corpus(Protocol):
    """Rows in a fixed, shuffled, endless order, with a position that can be saved."""

    length: int

    def take(self, rows: int) -> Batch: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@runtime_checkable
class Probe(Protocol):
    """Measures a student, perhaps against a teacher."""

    def __call__(self, student: CausalLM, teacher: CausalLM | None) -> Iterator[Reading]: ...
