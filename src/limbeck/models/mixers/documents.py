"""Where the tokens of a row stand in their documents: all that a mixer is told besides hidden states.

Rows hold several documents, and `position` restarts with each. From that follows one number a token, its *reach*: how many
tokens of its own document came before it. Token j is seen from i iff 0 <= i - j <= reach[i]. Everything else (block-diagonal
attention, taps of a convolution that are cut off, a state that starts anew) is read off it. Padding on the left has position 0
or stands still, so each padding token is a document of its own, and the first real token starts another.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Documents:
    """``position`` of each token in its document, its ``reach``, its id where one is known (`tokens`), and whether no document
    starts inside a row (``whole``).

    The first token of a row that continues an earlier piece has a reach > 0: it sees what the state remembers.
    """

    position: Int[Tensor, "B T"]
    reach: Int[Tensor, "B T"]
    whole: bool
    tokens: Int[Tensor, "B T"] | None = None

    @classmethod
    def of(cls, position: Int[Tensor, "B T"], tokens: Int[Tensor, "B T"] | None = None) -> Documents:
        """From positions: a document starts at 0, and wherever a position is not its predecessor's + 1."""
        start = position == 0
        start[:, 1:] |= position[:, 1:] != position[:, :-1] + 1
        place = torch.arange(position.shape[1], device=position.device)
        latest = torch.where(start, place, -1).cummax(1).values
        reach = torch.where(latest >= 0, place - latest, position[:, :1] + place)
        return cls(position, reach, not bool(start[:, 1:].any()), tokens)

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
        """Rows that are a document each, or the tokens of one from position ``first`` on."""
        position = torch.arange(first, first + length, device=device).expand(rows, length)
        return cls(position, position, True, tokens)

    def piece(self, start: int, stop: int) -> Documents:
        """The tokens from ``start`` to ``stop`` of each row."""
        reach = self.reach[:, start:stop]
        tokens = None if self.tokens is None else self.tokens[:, start:stop]
        return Documents(self.position[:, start:stop], reach, self.whole or not bool((reach[:, 1:] == 0).any()), tokens)

    def behind(self, held: int) -> Documents:
        """These rows with ``held`` earlier tokens in front of them, of which the last ones are of the document that goes on."""
        place = torch.arange(held + self.reach.shape[1], device=self.reach.device)
        start = torch.cat([torch.zeros_like(self.reach[:, :1], dtype=torch.bool).expand(-1, held), self.reach == 0], 1)
        start = start.scatter(1, (held - self.reach[:, :1]).clamp_min(0), True)
        reach = place - torch.where(start, place, 0).cummax(1).values
        return Documents(reach, reach, not bool(start[:, 1:].any()))

    @property
    def continues(self) -> Bool[Tensor, "B T"]:
        """Whether a token sees what came before the row's first one."""
        return self.reach > torch.arange(self.reach.shape[1], device=self.reach.device)

    def chunks(self, size: int) -> Chunks:
        """What is seen where the rows are cut into chunks of ``size``; the last is filled up with more of its document."""
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
        """The documents in groups of which the longest is less than twice the shortest, so that little is filled up."""
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


@dataclass(frozen=True)
class Group:
    """Some documents, to be put into ``shape`` (documents, longest): ``tokens`` of all rows, counted through, and where in
    that shape each goes, counted through as well."""

    tokens: Int[Tensor, "n"]
    place: Int[Tensor, "n"]
    shape: tuple[int, int]


@dataclass(frozen=True)
class Chunks:
    """Who sees whom in rows cut into n chunks of c tokens: token i its chunk's token j, and what came before the chunk;
    whether a token is of the document of its chunk's last one; and whether that last one sees what came before the chunk."""

    visible: Bool[Tensor, "B n c c"]
    before: Bool[Tensor, "B n c"]
    last: Bool[Tensor, "B n c"]
    through: Bool[Tensor, "B n"]


def cut(x: Float[Tensor, "B H T *rest"], size: int) -> Float[Tensor, "B H n c *rest"]:
    """Heads of rows in chunks of ``size`` tokens, filled up with 0."""
    missing = -x.shape[2] % size
    if missing:
        x = F.pad(x, (0, 0) * (x.ndim - 3) + (0, missing))
    return x.unflatten(2, (-1, size))
