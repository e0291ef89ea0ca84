"""The base class of mixers: a map of hidden states over time, with a state from which a later call continues.

A text may come in pieces of any length: as a whole (parallel), token by token (recurrent), or, inside, chunk by chunk. Given
the state after the earlier tokens, a mixer continues from it. Shapes: B rows, T tokens, D width of the model, H heads,
K channels of a query or key, V channels of a value, c tokens of a chunk, n chunks.
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
State = dict[str, Tensor]  # the tensors of a mixer's state by name; the first axis of each is the row


@dataclass(frozen=True)
class Dims:
    """Sizes and constants of a decoder that its mixers may read. ``layer`` counts from 0; ``length`` is the longest text.

    ``chunk`` is the number of tokens computed together. It changes time and memory, but no result.
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
    """Names one of limbeck's own mixers in patterns, as in ``@mixer("gdn")``. The class is unchanged."""
    return lambda kind: kind


class Mixer(nn.Module):
    """A causal map of hidden states, (B, T, D) → (B, T, D). Each token reads tokens of its own document up to itself.

    Subclasses define `mix`, `fresh` and `mixing_flops`, and usually `initialise` and `pairs`.
    """

    # Options that a pattern may set, with their defaults. A tuple lists allowed words; its first is the default. "swa:64"
    # sets the first option.
    OPTIONS: ClassVar[Mapping[str, Option | tuple[str, ...]]] = {}

    def __init__(self, dims: Dims) -> None:
        super().__init__()
        self.dims = dims
        self.chunk = dims.chunk

    def mix(
        self, x: Float[Tensor, "B T D"], documents: Documents, state: State | None, size: int
    ) -> tuple[Float[Tensor, "B T D"], State | None]:
        """The mixed rows, computed ``size`` tokens at a time, and the state after the last token.

        With ``state`` None, the rows continue no earlier text, and the returned state is None.
        """
        raise NotImplementedError

    def fresh(self, x: Float[Tensor, "B T D"]) -> State:
        """The state before the first token, for rows of the shape, dtype and device of ``x``."""
        raise NotImplementedError

    def initialise(self) -> None:
        """Initialises parameters other than `nn.Linear` maps as in the mixer's paper."""

    def forward(
        self, x: Float[Tensor, "B T D"], documents: Documents, state: State | None = None
    ) -> tuple[Float[Tensor, "B T D"], State | None]:
        """The rows mixed in chunks of `chunk` tokens, the form for training and for reading prompts."""
        return self.mix(x, documents, state, min(self.chunk, x.shape[1]))

    def parallel(self, x: Float[Tensor, "B T D"], documents: Documents) -> Float[Tensor, "B T D"]:
        """The rows mixed as one chunk of all T tokens."""
        return self.mix(x, documents, None, x.shape[1])[0]

    def recurrent(
        self, x: Float[Tensor, "B T D"], documents: Documents, state: State | None = None
    ) -> tuple[Float[Tensor, "B T D"], State]:
        """The rows mixed one token at a time, as in generation, and the state after the last token."""
        state = self.fresh(x) if state is None else state
        outputs = []
        for t in range(x.shape[1]):
            y, after = self.mix(x[:, t : t + 1], documents.piece(t, t + 1), state, 1)
            assert after is not None
            state = after
            outputs.append(y)
        return torch.cat(outputs, 1), state

    def state_bytes(self, length: int) -> int:
        """Bytes of the state of one row after ``length`` tokens, in the dtype of the weights."""
        parameter = next(self.parameters())
        like = torch.empty(1, 0, self.dims.width, device="meta", dtype=parameter.dtype)
        return sum(part.nbytes for part in self.fresh(like).values())

    def flops(self, length: int) -> float:
        """FLOPs of a forward pass a token, averaged over a row of ``length``: 2 for each weight, plus `mixing_flops`.

        Products, sums, convolutions and recurrences count. Operations once a channel (gates, norms, activations) do not, nor
        do the network and the transform of a long filter, which run once for all rows.
        """
        return 2.0 * multiplied(self) + self.mixing_flops(length)

    def mixing_flops(self, length: int) -> float:
        """FLOPs a token in a row of ``length`` that are not products with weights."""
        raise NotImplementedError

    def pairs(self, length: int) -> int:
        """The largest number of key-value pairs, of ``length`` tokens, that the state of a head can keep apart.

        For softmax attention, it is the number of tokens in the state. For a sum of k vᵀ, it is the number of channels of a
        key, since no more keys can be orthogonal (Schlag et al., arXiv 2102.11174, sec. 4.1). It is 0 for mixers that compare
        no query with earlier tokens, but weigh them by their place or content alone.
        """
        return 0


def multiplied(module: nn.Module) -> int:
    """The number of weights with which each token is multiplied: linear maps and short convolutions, but no long filters."""
    filters = {id(p) for part in module.modules() if isinstance(part, Filter) for p in part.parameters()}
    return sum(p.numel() for p in module.parameters() if p.ndim >= 2 and id(p) not in filters)


def heads(x: Float[Tensor, "B T HK"], count: int) -> Float[Tensor, "B H T K"]:
    """Splits channels into ``count`` heads."""
    return x.unflatten(-1, (count, -1)).transpose(1, 2)


def joined(x: Float[Tensor, "B H T K"]) -> Float[Tensor, "B T HK"]:
    """Concatenates the channels of all heads."""
    return x.transpose(1, 2).flatten(2)


def linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear map without bias."""
    return nn.Linear(inputs, outputs, bias=False)
