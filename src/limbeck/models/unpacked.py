"""Runs the documents of packed rows separately, for decoders whose documents would otherwise influence one another.

Recurrent layers carry their state across documents, and some attention depends on places in a row. Such a decoder gets each
document as a row of its own, padded at its end, which no causal token sees. The hidden states return to their places. Documents
of similar length run together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.models.inside import lengths

Decoder = Callable[[Int[Tensor, "B T"], Int[Tensor, "B T"]], Float[Tensor, "B T D"]]


def one_document_a_row(
    decoder: Decoder, tokens: Int[Tensor, "B T"], position: Int[Tensor, "B T"]
) -> Float[Tensor, "B T D"]:
    """Hidden states (B, T, D) of packed rows, from a decoder of (tokens, positions) that needs one document a row.

    A call has at most as many tokens as all rows together, and no document is padded to more than twice its length.
    """
    tokens_flat, position_flat = tokens.flatten(), position.flatten()
    places, hidden = [], []
    for first, length, longest in _together(position):
        offset = torch.arange(longest, device=tokens.device)
        index = (first[:, None] + offset).clamp(max=tokens.numel() - 1)
        inside = offset < length[:, None]
        states = decoder(tokens_flat[index], (position_flat[first][:, None] + offset).expand_as(index))
        places.append(index[inside])
        hidden.append(states[inside])
    order = torch.cat(places).argsort()
    return torch.cat(hidden)[order].view(*tokens.shape, -1)


def padded_share(position: Int[Tensor, "B T"]) -> float:
    """Computed tokens per token of these rows: 1 without padding, at most 2."""
    return sum(len(first) * longest for first, _, longest in _together(position)) / position.numel()


def _together(position: Int[Tensor, "B T"]) -> Iterator[tuple[Int[Tensor, " n"], Int[Tensor, " n"], int]]:
    """(starts in the flat rows, lengths, longest length) of each group of documents that run together, longest first."""
    length = lengths(position)
    first = length.cumsum(0) - length
    order = length.argsort(descending=True, stable=True)
    first, length = first[order], length[order]
    sizes = length.tolist()
    start = 0
    while start < len(sizes):
        longest = sizes[start]
        stop = start + 1
        while stop < len(sizes) and 2 * sizes[stop] >= longest and (stop + 1 - start) * longest <= position.numel():
            stop += 1
        yield first[start:stop], length[start:stop], longest
        start = stop
