"""The place of each token of a row in its document: the only input of a mixer besides hidden states.

A row holds several documents, and `position` restarts with each. The *reach* of a token is the number of tokens of its own
document before it. Token i may read token j iff 0 <= i - j <= reach[i]. Block-diagonal attention, the limits of convolutions
and the restart of states all follow from the reach. Padding on the left has position 0 or repeats a position, so each padding
token is a document of its own, and the first real token starts another.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from limbeck.host import on_host
from limbeck.models.inside import lengths


@dataclass(frozen=True)
class Documents:
    """For B rows of T tokens: ``position`` in the document, ``reach``, and token ids (``tokens``, if known).

    ``whole`` is true if no document starts inside a row. If a row continues an earlier piece, its first token has a reach
    above 0 and reads the state.
    """

    position: Int[Tensor, "B T"]
    reach: Int[Tensor, "B T"]
    whole: bool
    tokens: Int[Tensor, "B T"] | None = None

    @classmethod
    def of(cls, position: Int[Tensor, "B T"], tokens: Int[Tensor, "B T"] | None = None) -> Documents:
        """Documents from positions. A document starts at position 0 and wherever a position is not the previous one + 1."""
        start = _starts(position)
        place = torch.arange(position.shape[1], device=position.device)
        latest = torch.where(start, place, -1).cummax(1).values
        reach = torch.where(latest >= 0, place - latest, position[:, :1] + place)
        return cls(position, reach, not bool(_starts(on_host(position))[:, 1:].any()), tokens)

    @classmethod
    def alone(
        cls,
        rows: int,
        length: int,
        *,
        first: int = 0,
        tokens: Int[Tensor, "B T"] | None = None,
        device: torch.device | str = "cpu",
    ) -> Documents:
        """Rows of one document each, of ``length`` tokens from position ``first`` on."""
        position = torch.arange(first, first + length, device=device).expand(rows, length)
        return cls(position, position, True, tokens)

    def piece(self, start: int, stop: int) -> Documents:
        """The tokens of each row from ``start`` up to but without ``stop``."""
        reach = self.reach[:, start:stop]
        tokens = None if self.tokens is None else self.tokens[:, start:stop]
        return Documents(self.position[:, start:stop], reach, self.whole or not bool((reach[:, 1:] == 0).any()), tokens)

    def behind(self, held: int) -> Documents:
        """These rows with ``held`` earlier tokens in front. The last of those belong to the document that continues."""
        place = torch.arange(held + self.reach.shape[1], device=self.reach.device)
        start = torch.cat([torch.zeros_like(self.reach[:, :1], dtype=torch.bool).expand(-1, held), self.reach == 0], 1)
        start = start.scatter(1, (held - self.reach[:, :1]).clamp_min(0), True)
        reach = place - torch.where(start, place, 0).cummax(1).values
        return Documents(reach, reach, not bool(start[:, 1:].any()))

    @cached_property
    def lengths(self) -> list[int]:
        """The lengths of the documents' parts in these rows, row after row."""
        found: list[int] = lengths(on_host(self.position)).tolist()
        return found

    @property
    def continues(self) -> Bool[Tensor, "B T"]:
        """Whether a token may read tokens from before its row's first one."""
        return self.reach > torch.arange(self.reach.shape[1], device=self.reach.device)

    def chunks(self, size: int) -> Chunks:
        """The masks of rows split into chunks of ``size`` tokens. The last chunk is padded with more of its document."""
        missing = -self.reach.shape[1] % size
        more = torch.arange(1, missing + 1, device=self.reach.device)
        reach = torch.cat([self.reach, self.reach[:, -1:] + more], 1).unflatten(1, (-1, size))  # (B, n, c)
        place = torch.arange(size, device=reach.device)
        back = place[:, None] - place
        return Chunks(
            visible=(back >= 0) & (back <= reach[..., None]),
            before=reach > place,
            last=size - 1 - place <= reach[..., -1:],
            through=reach[..., -1] >= size,
        )

    def apart(self) -> Iterator[Group]:
        """The documents in groups of similar length. In each, the longest is under twice the shortest, to pad little."""
        start = self.reach == 0
        start[:, 0] = True
        place = torch.arange(start.shape[1], device=start.device)
        index = (place - torch.where(start, place, 0).cummax(1).values).flatten()
        document = start.flatten().cumsum(0) - 1
        length = document.bincount()
        group = length.log2().long()  # exact below 2^24
        for size in group.unique().tolist():
            chosen = group == size
            tokens = chosen[document].nonzero()[:, 0]
            longest = int(length[chosen].max())
            place = (chosen.cumsum(0) - 1)[document] * longest + index
            yield Group(tokens, place[tokens], (int(chosen.sum()), longest))


def _starts(position: Int[Tensor, "B T"]) -> Bool[Tensor, "B T"]:
    """Whether a document starts at a token: at position 0, and wherever a position is not the previous one + 1."""
    start = position == 0
    start[:, 1:] |= position[:, 1:] != position[:, :-1] + 1
    return start


@dataclass(frozen=True)
class Group:
    """Documents of similar length, to be laid out in ``shape`` (documents, longest). ``tokens`` are flat indices into all
    rows, and ``place`` has each token's flat index in ``shape``."""

    tokens: Int[Tensor, " n"]
    place: Int[Tensor, " n"]
    shape: tuple[int, int]


@dataclass(frozen=True)
class Chunks:
    """Masks of B rows split into n chunks of c tokens.

    ``visible``: token i may read token j of its chunk. ``before``: the token may read tokens before the chunk. ``last``: the
    token belongs to the document of the chunk's last token. ``through``: that last token may read tokens before the chunk.
    """

    visible: Bool[Tensor, "B n c c"]
    before: Bool[Tensor, "B n c"]
    last: Bool[Tensor, "B n c"]
    through: Bool[Tensor, "B n"]


def cut(x: Float[Tensor, "B H T *rest"], size: int) -> Float[Tensor, "B H n c *rest"]:
    """Splits the time axis of T tokens into n chunks of ``size`` (c) tokens, padded with zeros."""
    missing = -x.shape[2] % size
    if missing:
        x = F.pad(x, (0, 0) * (x.ndim - 3) + (0, missing))
    return x.unflatten(2, (-1, size))
