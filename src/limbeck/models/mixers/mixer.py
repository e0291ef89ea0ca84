"""What every mixer is: a map of hidden states over time, with a state that carries it on.

A mixer reads rows and gives rows. Given the state that the tokens before left, it continues from there, so a text may come in
pieces of any length: the whole at once (parallel), a token at a time (recurrent), or, inside, chunk by chunk. Shapes: B rows,
T tokens, D width of the model, H heads, K channels of a query or key, V channels of a value, c tokens of a chunk, n chunks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from limbeck.models.mixers.documents import Documents
from limbeck.models.mixers.filters import Filter

Option = int | str | bool
State = dict[str, Tensor]  # what a mixer remembers, by name; the first axis of each is the row


@dataclass(frozen=True)
class Dims:
    """Lengths and constants of a decoder that its mixers may read. ``layer`` counts from 0; ``length`` is the longest text.

    ``chunk`` is how many tokens are taken together; it changes time and memory, and no result.
    """

    width: int
    heads: int
    kv_heads: int
    head_dim: int
    layer: int = 0
    layers: int = 1
    length: int = 2048
    rope_theta: float = 10_000.0
    eps: float = 1e-6
    chunk: int = 64


Kind = TypeVar("Kind", bound="type[Mixer]")


def mixer(name: str) -> Callable[[Kind], Kind]:
    """Gives limbeck's own mixers their names in patterns: ``@mixer("gdn")``, which `named.MIXERS` finds. Changes nothing else."""
    return lambda kind: kind


class Mixer(nn.Module):
    """Hidden states of tokens from those of their documents up to them, (B, T, D) → (B, T, D)."""

    # Options that a pattern may set and their defaults, of several words the first. "swa:64" sets the first option.
    OPTIONS: ClassVar[Mapping[str, Option | tuple[str, ...]]] = {}

    def __init__(self, dims: Dims) -> None:
        super().__init__()
        self.dims = dims
        self.chunk = dims.chunk

    def mix(
        self, x: Float[Tensor, "B T D"], documents: Documents, state: State | None, size: int
    ) -> tuple[Float[Tensor, "B T D"], State | None]:
        """The rows mixed, ``size`` tokens taken together, and the state after them.

        Without a state nothing came before, and none is kept.
        """
        raise NotImplementedError

    def fresh(self, x: Float[Tensor, "B T D"]) -> State:
        """The state before the first token, for rows such as these."""
        raise NotImplementedError

    def initialise(self) -> None:
        """Gives parameters that are no maps of `nn.Linear` the values of the paper."""

    def forward(
        self, x: Float[Tensor, "B T D"], documents: Documents, state: State | None = None
    ) -> tuple[Float[Tensor, "B T D"], State | None]:
        """The rows mixed in chunks, which is the form to train with and to read prompts with."""
        return self.mix(x, documents, state, min(self.chunk, x.shape[1]))

    def parallel(self, x: Float[Tensor, "B T D"], documents: Documents) -> Float[Tensor, "B T D"]:
        """The rows mixed as one chunk."""
        return self.mix(x, documents, None, x.shape[1])[0]

    def recurrent(
        self, x: Float[Tensor, "B T D"], documents: Documents, state: State | None = None
    ) -> tuple[Float[Tensor, "B T D"], State]:
        """The rows mixed a token at a time, as when a model writes."""
        state = self.fresh(x) if state is None else state
        outputs = []
        for t in range(x.shape[1]):
            y, after = self.mix(x[:, t : t + 1], documents.piece(t, t + 1), state, 1)
            assert after is not None
            state = after
            outputs.append(y)
        return torch.cat(outputs, 1), state

    def state_bytes(self, length: int) -> int:
        """Bytes of the state of one row after ``length`` tokens, in the number format of the weights."""
        parameter = next(self.parameters())
        like = torch.empty(1, 0, self.dims.width, device="meta", dtype=parameter.dtype)
        return sum(part.nbytes for part in self.fresh(like).values())

    def flops(self, length: int) -> float:
        """FLOPs of a forward pass for each token of a row of ``length``, on average: 2 for each weight, and what mixes.

        Products, sums, convolutions and recurrences are counted; what is done once a channel (gates, norms, functions) is
        not, nor the network and the transform of a long filter, which are run once for all rows.
        """
        return 2.0 * multiplied(self) + self.mixing_flops(length)

    def mixing_flops(self, length: int) -> float:
        """Those of `flops` that are no products with weights."""
        raise NotImplementedError

    def pairs(self, length: int) -> int:
        """Key-value pairs of ``length`` tokens that a head's state can keep apart, at most.

        Of softmax attention the tokens it remembers. Of a state that sums up k vᵀ the channels of a key, since no more keys
        are orthogonal (Schlag et al., arXiv 2102.11174, sec. 4.1). 0 where no query is compared with what was read: there
        the past is weighed by its place, or by what it says of itself.
        """
        return 0


def multiplied(module: nn.Module) -> int:
    """Weights that each token is multiplied with: of maps and short convolutions, not of long filters."""
    filters = {id(p) for part in module.modules() if isinstance(part, Filter) for p in part.parameters()}
    return sum(p.numel() for p in module.parameters() if p.ndim >= 2 and id(p) not in filters)


def heads(x: Float[Tensor, "B T HK"], count: int) -> Float[Tensor, "B H T K"]:
    """Channels split into heads."""
    return x.unflatten(-1, (count, -1)).transpose(1, 2)


def joined(x: Float[Tensor, "B H T K"]) -> Float[Tensor, "B T HK"]:
    """Heads one after the other again."""
    return x.transpose(1, 2).flatten(2)


def linear(inputs: int, outputs: int) -> nn.Linear:
    """A map without bias."""
    return nn.Linear(inputs, outputs, bias=False)
