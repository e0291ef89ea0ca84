"""The protocol of the processes of a training.

`run.world.World` implements it for one process and for replicated ones, where every rank holds all weights. With sharded weights,
the head and saved tensors must be gathered first: such a mesh has its own `head` and `whole`, and nothing else in `run/`
changes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor

from limbeck.types import Head


class Mesh(Protocol):
    """The processes of a training: this one's rank, and the collectives over all. Rank 0 writes files and prints."""

    @property
    def rank(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def first(self) -> bool: ...

    def sum(self, value: float) -> float:
        """The value summed over the ranks, the same bits on each."""

    def any(self, *flags: bool) -> list[bool]:
        """For each flag whether it is set on any rank."""

    def barrier(self) -> None:
        """Waits for every rank."""

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replaces each gradient by its sum over the ranks."""

    def clip(self, gradients: list[Tensor], max_norm: float) -> float:
        """Scales gradients down to a joint norm of at most ``max_norm``; gives the norm before."""

    def head(self, head: Head) -> Head:
        """A model's head with all of its rows on this rank; gradients flow back to the part that the rank holds."""

    def whole(self, tensor: Tensor) -> Tensor:
        """A tensor of the train state with all of its elements, in the shape that a checkpoint contains."""
