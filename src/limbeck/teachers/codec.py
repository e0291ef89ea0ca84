"""A teacher's outcomes as bytes: as many a position everywhere, so that any of them is found by its number.

*Drawn* outcomes are packed one after the other, each an id in as few bits as the vocabulary needs and its probability in
``P_BITS``; *coarse* ones (the likeliest and the rest) have their ids sorted and in Elias-Fano code (Elias 1974, J. ACM 21,
246; within half a bit an id of what any code of a set needs), since there ids are most of the bytes. Probabilities are
logarithms in equal steps. After decoding, the exact head of drawn outcomes, and the likeliest of coarse ones, are scaled to
the mass that is stored more finely, so rounding moves mass among them and never to or from the others. A coarse position can
also say that there is no answer.
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

P_BITS = 10  # of a drawn outcome's probability
_DEEPEST = -24.0  # nats; what is less likely counts as this
_FINE = 2**16 - 1
_NO_ANSWER = 0  # of a coarse position: its outcomes and the rest all certain, which no answer is
_LOG_P = (np.arange(2**P_BITS) * (_DEEPEST / (2**P_BITS - 1))).astype(np.float32)
_P = np.exp(_LOG_P)
PAD = 8  # bytes after the last position, since a field is read as part of eight


@dataclass(frozen=True)
class Sampled:
    """Codes K drawn outcomes of a vocabulary: a byte of how many are the exact head, two of the mass of the others."""

    vocab: int
    k: int

    def __str__(self) -> str:
        return f"{self.k} drawn"

    @classmethod
    def within(cls, vocab: int, size: int) -> Sampled:
        """With as many outcomes as fit ``size`` bytes. Raises BadSetting where not even two do."""
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

    def encode(self, signal: Sparse, head: Int[Tensor, "n"]) -> UInt8[np.ndarray, "n bytes"]:
        """Packs what `teachers.draw.draw` gives."""
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
        """Gives them back, weights adding up to 1."""
        bits = _id_bits(self.vocab)
        fields = _unpack(packed, self.k, bits + P_BITS, start=24)
        steps = np.right_shift(fields, np.uint64(bits)).view(np.int64)
        ids = np.bitwise_and(fields, np.uint64(2**bits - 1), out=fields)
        # clipped, since a take that looks for steps out of range takes twice as long, and there are none
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

    def unanswered(self, packed: UInt8[np.ndarray, "n bytes"]) -> Bool[np.ndarray, " n"]:
        """Which positions have no answer: none, since who draws has all of a distribution."""
        return np.zeros(len(packed), dtype=bool)


@dataclass(frozen=True)
class TopK:
    """Codes the K likeliest outcomes and the rest: twice two bytes for the range of probabilities, two for the rest."""

    vocab: int
    k: int
    p_bits: int = 8

    def __str__(self) -> str:
        return f"{self.k} likeliest and the rest"

    @classmethod
    def within(cls, vocab: int, k: int, size: int) -> TopK:
        """With probabilities as fine as ``size`` bytes allow. Raises BadSetting where that is less than four bits."""
        free = size * 8 - cls(vocab, k, 0)._bits
        if not 1 <= k < vocab or free < 4 * k:
            raise BadSetting(
                f"{size} bytes a token hold fewer than {k} likeliest outcomes of a vocabulary of {vocab:,}: give "
                f"{cls(vocab, k, 4).bytes} or more, or keep fewer outcomes"
            )
        return cls(vocab, k, min(12, free // k))

    @classmethod
    def most(cls, vocab: int, size: int) -> TopK:
        """With as many outcomes as fit ``size`` bytes. Raises BadSetting where not one does."""
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
        """Packs what `teachers.draw.likeliest` gives."""
        assert signal.rest is not None, "a coarse signal has a rest"
        ids, log_p, rest = (x.cpu().numpy() for x in (signal.ids, signal.log_p, signal.rest))
        order = ids.argsort(1)
        ids, log_p = np.take_along_axis(ids, order, 1), np.take_along_axis(log_p, order, 1)
        ends = _steps(np.stack([log_p.max(1), log_p.min(1), rest], 1), _FINE)
        high, low = (_nats(ends[:, i : i + 1], _FINE) for i in (0, 1))
        share = (high - log_p) / np.maximum(high - low, 1e-9)
        codes: np.ndarray = np.rint(share.clip(0, 1) * (2**self.p_bits - 1)).astype(np.uint64)
        packed = np.zeros((len(ids), self.bytes + PAD), np.uint8)
        packed[:, :6] = np.where(np.isneginf(rest)[:, None], _NO_ANSWER, ends).astype("<u2").view(np.uint8)
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
        """Gives them back in the order of their ids; with the rest they add up to 1."""
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
        none = self.unanswered(packed)
        weight[none], left[none] = 0.0, -np.inf
        return _sparse(ids, log_p, weight, self.vocab, left)

    def unanswered(self, packed: UInt8[np.ndarray, "n bytes"]) -> Bool[np.ndarray, " n"]:
        """Which positions have no answer."""
        return (packed[:, :6] == _NO_ANSWER).all(1)


Codec = Sampled | TopK


def _id_bits(vocab: int) -> int:
    return max(1, (vocab - 1).bit_length())


def _steps(log_p: np.ndarray, most: int) -> np.ndarray:
    """Log-probabilities as whole numbers from 0 (certain) to ``most`` (_DEEPEST)."""
    return np.rint(np.clip(log_p / _DEEPEST, 0, 1) * most).astype(np.uint64)


def _nats(steps: np.ndarray, most: int) -> np.ndarray:
    return steps.astype(np.float64) * (_DEEPEST / most)


def _settled(known: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What to add to the logarithms of the known, and the mass of the others, so that both masses are 1 together.

    The smaller of the two is believed: it has the smaller error of rounding.
    """
    small = (others < 0.5) & (known > 0)
    scale = np.log(np.divide(1 - others, known, out=np.ones_like(known), where=small))
    return scale, np.where(small, others, np.maximum(1 - known, math.exp(_DEEPEST)))


def _pack(packed: np.ndarray, fields: np.ndarray, width: int, *, start: int) -> None:
    """Writes fields of ``width`` <= 56 bits one after the other into rows of bytes, from a bit on."""
    for i in range(fields.shape[1]):
        byte, shift = divmod(start + i * width, 8)
        value = fields[:, i] << np.uint64(shift)
        for j in range((shift + width + 7) // 8):
            packed[:, byte + j] |= (value >> np.uint64(8 * j)).astype(np.uint8)


def _unpack(packed: np.ndarray, count: int, width: int, *, start: int) -> np.ndarray:
    """Reads them back, each out of the eight bytes it begins in."""
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

    told = None if rest is None else tensor(rest)
    return Sparse(torch.from_numpy(ids.view(np.int64)), tensor(log_p), tensor(weight), vocab, told)
