"""Codecs of a teacher's captured outcomes. Every position takes the same number of bytes, so a row is found by its number.

*Sampled* outcomes are packed one after the other: each an id in as few bits as the vocabulary needs, and its probability in
``P_BITS`` bits. *Top-k* outcomes with the rest have their ids sorted and in Elias-Fano code (Elias 1974, J. ACM 21, 246; within
half a bit an id of what any code of a set needs), since ids are most of their bytes. Probabilities are stored as logarithms in
equal steps. After decoding, the exact head of sampled outcomes, and the top-k outcomes, are scaled to a mass that is stored more
finely: rounding moves mass among them and never to or from the others. A top-k position can also be marked as without a target.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Int, UInt8
from torch import Tensor

from limbeck.errors import BadSetting
from limbeck.types import Sparse

Kind = Literal["drawn", "coarse"]

P_BITS = 10  # of a sampled outcome's probability
_DEEPEST = -24.0  # nats; smaller log-probabilities are stored as this
_FINE = 2**16 - 1
_NO_TARGET = 0  # in a top-k position: its outcomes and the rest would all be certain, which no distribution has
_LOG_P = (np.arange(2**P_BITS) * (_DEEPEST / (2**P_BITS - 1))).astype(np.float32)
_P = np.exp(_LOG_P)
PAD = 8  # bytes after the last position, since a field is read as part of eight


@dataclass(frozen=True)
class Sampled:
    """Codec of K sampled outcomes a position (`teachers.draw.sample_outcomes`).

    A position has one byte for the number of outcomes in the exact head, two bytes for the mass of the others, then K fields of
    an id and a probability.
    """

    vocab: int
    k: int

    def __str__(self) -> str:
        return f"{self.k} sampled"

    @classmethod
    def within(cls, vocab: int, size: int) -> Sampled:
        """The codec with as many outcomes as fit ``size`` bytes a position. Raises BadSetting if fewer than two fit."""
        k = min(255, vocab - 1, (size - 3) * 8 // (_id_bits(vocab) + P_BITS))
        if k < 2:
            raise BadSetting(
                f"{size} bytes a token hold {max(0, k)} outcomes of a vocabulary of {vocab:,}: give {cls(vocab, 2).bytes} or more"
            )
        return cls(vocab, k)

    @property
    def bytes(self) -> int:
        """Bytes of a position."""
        return 3 + -(-self.k * (_id_bits(self.vocab) + P_BITS) // 8)

    def encode(self, signal: Sparse, head: Int[Tensor, " n"]) -> UInt8[np.ndarray, "n bytes"]:
        """Packs n positions; ``head`` is how many outcomes of each are exact, as `teachers.draw.sample_outcomes` gives it."""
        ids, log_p, weight = (x.cpu().numpy() for x in (signal.ids, signal.log_p, signal.weight))
        heads = head.cpu().numpy()
        tail = np.arange(self.k) >= heads[:, None]
        mass = np.where(tail, weight, 0.0).sum(1)
        fields = ids.astype(np.uint64) | (_steps(log_p, 2**P_BITS - 1) << np.uint64(_id_bits(self.vocab)))
        packed = np.zeros((len(ids), self.bytes + PAD), np.uint8)
        packed[:, 0] = heads
        packed[:, 1:3] = _steps(np.log(np.maximum(mass, 1e-30)), _FINE).astype("<u2")[:, None].view(np.uint8)
        _pack(packed, fields, _id_bits(self.vocab) + P_BITS, start=24)
        return packed[:, : self.bytes]

    def decode(self, packed: UInt8[np.ndarray, "n bytes"]) -> Sparse:
        """The outcomes of n packed positions. The weights of a position sum to 1."""
        bits = _id_bits(self.vocab)
        fields = _unpack(packed, self.k, bits + P_BITS, start=24)
        steps = np.right_shift(fields, np.uint64(bits)).view(np.int64)
        ids = np.bitwise_and(fields, np.uint64(2**bits - 1), out=fields)
        # mode="clip" skips the check of the range, which would take as long again; all steps are within it
        log_p, weight = (table.take(steps, mode="clip") for table in (_LOG_P, _P))
        heads = packed[:, :1]
        mass = np.exp(_nats(np.ascontiguousarray(packed[:, 1:3]).view("<u2"), _FINE))
        mass[heads == 0] = 1.0
        in_head = np.arange(self.k, dtype=np.uint8) < heads
        scale, mass = _settled(np.sum(weight, axis=1, keepdims=True, where=in_head), mass)
        np.add(log_p, scale.astype(np.float32), out=log_p, where=in_head)
        np.multiply(weight, np.exp(scale).astype(np.float32), out=weight)
        np.copyto(weight, (mass / (self.k - heads)).astype(np.float32), where=~in_head)
        return _sparse(ids, log_p, weight, self.vocab)

    def missing(self, packed: UInt8[np.ndarray, "n bytes"]) -> Bool[np.ndarray, " n"]:
        """Which positions have no target: none, since sampling needs the whole distribution."""
        return np.zeros(len(packed), dtype=bool)


@dataclass(frozen=True)
class TopK:
    """Codec of the top-k outcomes of a position and the mass of the rest (`teachers.draw.top_k`).

    A position has two times two bytes for the range of its probabilities, two for the rest, then k fields of the low bits of an
    id and a probability of ``p_bits`` bits, then the high bits of all ids.
    """

    vocab: int
    k: int
    p_bits: int = 8

    def __str__(self) -> str:
        return f"top-{self.k}"

    @classmethod
    def within(cls, vocab: int, k: int, size: int) -> TopK:
        """The codec with probabilities as fine as ``size`` bytes a position allow, at most 12 bits.

        Raises BadSetting if they would have fewer than four bits, or if k is not between 1 and ``vocab`` - 1.
        """
        free = size * 8 - cls(vocab, k, 0)._bits
        if not 1 <= k < vocab or free < 4 * k:
            raise BadSetting(
                f"{size} bytes a token hold fewer than the top-{k} outcomes of a vocabulary of {vocab:,}: give "
                f"{cls(vocab, k, 4).bytes} or more, or keep fewer outcomes"
            )
        return cls(vocab, k, min(12, free // k))

    @classmethod
    def most(cls, vocab: int, size: int) -> TopK:
        """The codec with as many outcomes as fit ``size`` bytes a position. Raises BadSetting if none fits."""
        k = min(vocab - 1, 8 * size // 9)
        while k > 1 and cls(vocab, k).bytes > size:
            k -= 1
        return cls.within(vocab, k, size)

    @property
    def bytes(self) -> int:
        """Bytes of a position."""
        return -(-self._bits // 8)

    @property
    def _bits(self) -> int:
        return 48 + self.k * (self._low_bits + self.p_bits) + self._high_bits

    @property
    def _low_bits(self) -> int:
        return max(0, (self.vocab // self.k).bit_length() - 1)

    @property
    def _high_bits(self) -> int:
        return self.k + ((self.vocab - 1) >> self._low_bits)

    def encode(self, signal: Sparse) -> UInt8[np.ndarray, "n bytes"]:
        """Packs n positions of a signal of the top-k outcomes, as `teachers.draw.top_k` gives it."""
        assert signal.rest is not None, "a top-k signal has a rest"
        ids, log_p, rest = (x.cpu().numpy() for x in (signal.ids, signal.log_p, signal.rest))
        order = ids.argsort(1)
        ids, log_p = np.take_along_axis(ids, order, 1), np.take_along_axis(log_p, order, 1)
        ends = _steps(np.stack([log_p.max(1), log_p.min(1), rest], 1), _FINE)
        high, low = (_nats(ends[:, i : i + 1], _FINE) for i in (0, 1))
        share = (high - log_p) / np.maximum(high - low, 1e-9)
        codes: np.ndarray = np.rint(share.clip(0, 1) * (2**self.p_bits - 1)).astype(np.uint64)
        packed = np.zeros((len(ids), self.bytes + PAD), np.uint8)
        packed[:, :6] = np.where(np.isneginf(rest)[:, None], _NO_TARGET, ends).astype("<u2").view(np.uint8)
        fields = ids.astype(np.uint64) & np.uint64(2**self._low_bits - 1)
        fields |= np.left_shift(codes, np.uint64(self._low_bits))
        _pack(packed, fields, self._low_bits + self.p_bits, start=48)
        ones = np.zeros((len(ids), self._high_bits), np.uint8)
        np.put_along_axis(ones, (ids >> self._low_bits) + np.arange(self.k), 1, 1)
        start = 48 + self.k * (self._low_bits + self.p_bits)
        bits = np.unpackbits(packed[:, : self.bytes], axis=1, bitorder="little")
        bits[:, start : start + self._high_bits] = ones
        return np.packbits(bits, axis=1, bitorder="little")

    def decode(self, packed: UInt8[np.ndarray, "n bytes"]) -> Sparse:
        """The outcomes of n packed positions, in the order of their ids. Weights and the rest of a position sum to 1."""
        fields = _unpack(packed, self.k, self._low_bits + self.p_bits, start=48)
        start = 48 + self.k * (self._low_bits + self.p_bits)
        tail = np.unpackbits(packed[:, start // 8 :], axis=1, bitorder="little")[:, start % 8 :][:, : self._high_bits]
        places = np.nonzero(tail)[1].reshape(-1, self.k).astype(np.uint64)
        highs: np.ndarray = np.left_shift(places - np.arange(self.k, dtype=np.uint64), np.uint64(self._low_bits))
        ids = highs | (fields & np.uint64(2**self._low_bits - 1))
        ends = _nats(np.ascontiguousarray(packed[:, :6]).view("<u2"), _FINE)
        share = (fields >> np.uint64(self._low_bits)).astype(np.float64) / (2**self.p_bits - 1)
        log_p = ends[:, :1] - share * (ends[:, :1] - ends[:, 1:2])
        scale, rest = _settled(np.exp(log_p).sum(1, keepdims=True), np.exp(ends[:, 2:3]))
        log_p += scale
        weight, left = np.exp(log_p), np.log(rest[:, 0])
        none = self.missing(packed)
        weight[none], left[none] = 0.0, -np.inf
        return _sparse(ids, log_p, weight, self.vocab, left)

    def missing(self, packed: UInt8[np.ndarray, "n bytes"]) -> Bool[np.ndarray, " n"]:
        """Which positions have no target."""
        return (packed[:, :6] == _NO_TARGET).all(1)


Codec = Sampled | TopK


def _id_bits(vocab: int) -> int:
    return max(1, (vocab - 1).bit_length())


def _steps(log_p: np.ndarray, most: int) -> np.ndarray:
    """Log-probabilities as whole numbers from 0 (certain) to ``most`` (_DEEPEST)."""
    return np.rint(np.clip(log_p / _DEEPEST, 0, 1) * most).astype(np.uint64)


def _nats(steps: np.ndarray, most: int) -> np.ndarray:
    return steps.astype(np.float64) * (_DEEPEST / most)


def _settled(known: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The correction of the known outcomes' log-probabilities, and the mass of the others, so that both masses sum to 1.

    The smaller of the two masses is kept: it has the smaller rounding error.
    """
    small = (others < 0.5) & (known > 0)
    scale = np.log(np.divide(1 - others, known, out=np.ones_like(known), where=small))
    return scale, np.where(small, others, np.maximum(1 - known, math.exp(_DEEPEST)))


def _pack(packed: np.ndarray, fields: np.ndarray, width: int, *, start: int) -> None:
    """Writes fields of ``width`` <= 56 bits one after the other into rows of bytes, from bit ``start`` on."""
    for i in range(fields.shape[1]):
        byte, shift = divmod(start + i * width, 8)
        value = fields[:, i] << np.uint64(shift)
        for j in range((shift + width + 7) // 8):
            packed[:, byte + j] |= (value >> np.uint64(8 * j)).astype(np.uint8)


def _unpack(packed: np.ndarray, count: int, width: int, *, start: int) -> np.ndarray:
    """Reads ``count`` fields of ``width`` bits of each row, each from the eight bytes that it begins in."""
    n, size = packed.shape
    rows = np.empty(n * size + PAD, np.uint8)
    rows[: n * size] = packed.reshape(-1)
    fields = np.empty((n, count), np.uint64)
    for i in range(count):
        byte, shift = divmod(start + i * width, 8)
        words = np.ndarray((n,), "<u8", buffer=rows, offset=byte, strides=(size,))
        np.right_shift(words, np.uint64(shift), out=fields[:, i])
    return np.bitwise_and(fields, np.uint64(2**width - 1), out=fields)


def _sparse(
    ids: np.ndarray, log_p: np.ndarray, weight: np.ndarray, vocab: int, rest: np.ndarray | None = None
) -> Sparse:
    def tensor(array: np.ndarray) -> Tensor:
        return torch.from_numpy(array.astype(np.float32, copy=False))

    log_rest = None if rest is None else tensor(rest)
    return Sparse(torch.from_numpy(ids.view(np.int64)), tensor(log_p), tensor(weight), vocab, log_rest)
