"""The cost of a decoder that needs each document in a row of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from limbeck.models.unpacked import padded_share


def rows_of_documents(tokens: Sequence[int], length: int) -> torch.Tensor | None:
    """Positions (rows, length) of the full rows that documents of these lengths fill when packed; None if they fill none."""
    stream = torch.cat([torch.arange(count) for count in tokens]) if tokens else torch.zeros(0, dtype=torch.long)
    return stream[: len(stream) // length * length].view(-1, length) if len(stream) >= length else None


def unpacked_cost(name: str, position: torch.Tensor | None) -> str:
    """A sentence about the cost of running each document of these packed rows alone."""
    message = (
        f"in a packed row of {name} documents would attend to each other, so each gets a row of its own, padded to the "
        "longest of its batch"
    )
    if position is None:
        return f"{message}: at most twice as many tokens"
    return f"{message}: {padded_share(position):.2f} times as many tokens of this text, in more and smaller calls"
