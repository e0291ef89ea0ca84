"""The protocol of the processes of a training.

`run.world.World` implements it for one process and for replicated ones, where every rank holds all weights, and
`run.sharded.Sharded` for ranks that each hold a part of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from limbeck.models.language_model import LanguageModel
from limbeck.types import Batch, CausalLM, Outputs


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
    @property
    def sharded(self) -> bool: ...
    @property
    def group(self) -> dist.ProcessGroup | None: ...

    def sum(self, value: float) -> float:
        """The value summed over the ranks, the same bits on each."""

    def sum_tensor(self, value: Tensor) -> Tensor:
        """Numbers on the device summed over the ranks, each by itself, the same bits on each, without waiting for them."""

    def any(self, *flags: bool) -> list[bool]:
        """For each flag whether it is set on any rank."""

    def share(self, text: str) -> str:
        """The text of rank 0, on every rank."""

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks, in order, on each of them."""

    def barrier(self) -> None:
        """Waits for every rank."""

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replaces each gradient by its sum over the ranks."""

    def clip(self, gradients: list[Tensor], max_norm: float) -> Tensor:
        """Scales gradients down to a joint norm of at most ``max_norm``; gives the norm before, on their device."""

    def load(self, name: str | Path, *, dtype: torch.dtype = torch.float32, train: bool = False) -> LanguageModel:
        """A model from a folder or hub id, where it computes; frozen unless ``train``."""

    def place(self, model: LanguageModel, *, train: bool) -> None:
        """Puts a model, equal on all ranks, where it computes; ``train``: whether it is trained."""

    def gathered(self, model: LanguageModel) -> LanguageModel | None:
        """A model with all of its weights, for saving; None on ranks that need none."""

    def begin(self, model: CausalLM, *, last: bool) -> None:
        """Called before the forward pass of each micro-batch of a step, the ``last`` or not."""

    def even(self, rows: Batch, most: int) -> Batch:
        """This rank's rows of a step, of which another rank has at most ``most``; some again without weight where needed."""

    def idle(self, outputs: Outputs) -> None:
        """Called for a micro-batch without weight, which has no loss."""
