"""What it costs that a decoder must be given each document as a row of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from limbeck.models.unpacked import padded_share


def rows_of_documents(tokens: Sequence[int], length: int) -> torch.Tensor | None:
    """Positions of the whole rows that documents of so many tokens fill one after the other; None where they fill none."""
    stream = torch.cat([torch.arange(count) for count in tokens]) if tokens else torch.zeros(0, dtype=torch.long)
    return stream[: len(stream) // length * length].view(-1, length) if len(stream) >= length else None


def unpacked_cost(name: str, position: torch.Tensor | None) -> str:
    """What it costs to run each document of rows at these positions alone, in a sentence."""
    message = (
        f"in a packed row of {name} documents see one another, so each is a row of its own, padded to those beside it"
    )
    if position is None:
        return f"{message}: at most twice as many tokens"
    return f"{message}: {padded_share(position):.2f} times as many tokens of this text, in more and smaller calls"
