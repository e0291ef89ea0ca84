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

    def share(self, text: str) -> str:
        """The text of rank 0, on every rank."""

    def barrier(self) -> None:
        """Waits for every rank."""

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replaces each gradient by its sum over the ranks."""

    def clip(self, gradients: list[Tensor], max_norm: float) -> float:
        """Scales gradients down to a joint norm of at most ``max_norm``; gives the norm before."""

    def place(self, model: LanguageModel, *, train: bool) -> None:
        """Puts a model, equal on all ranks, where it computes; ``train``: whether it is trained."""

    def begin(self, model: CausalLM, *, last: bool) -> None:
        """Called before the forward pass of each micro-batch of a step, the ``last`` or not."""

    def idle(self, outputs: Outputs) -> None:
        """Called for a micro-batch without weight, which has no loss."""
