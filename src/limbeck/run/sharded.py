"""Processes that each hold a part of all weights: the `Mesh` of sharded training (FSDP2)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from limbeck.models.language_model import LanguageModel
from limbeck.models.sharding import begin, shard
from limbeck.run.world import World
from limbeck.types import CausalLM, Outputs


@dataclass(frozen=True)
class Sharded(World):
    """The processes of this run, each with a part of all weights; ``layout`` has one dimension (shards) or two (replicas, shards)."""

    layout: DeviceMesh

    def place(self, model: LanguageModel, *, train: bool) -> None:
        """Shards a model over the processes, in place, and moves its part to this process's device."""
        shard(model, self.layout, train=train)

    def begin(self, model: CausalLM, *, last: bool) -> None:
        """Prepares the forward and backward pass of a micro-batch, the ``last`` of its step or not."""
        begin(cast("LanguageModel", model), last=last)

    def idle(self, outputs: Outputs) -> None:
        """A backward pass of zeros, since the ranks sum gradients in the backward pass, all together."""
        outputs.hidden.backward(torch.zeros_like(outputs.hidden))

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Sums the gradients of parameters that are not sharded; those of the others were summed in the backward pass."""
        super().sum_gradients(p for p in parameters if not isinstance(p, DTensor))

    def clip(self, gradients: list[Tensor], max_norm: float) -> float:
        """Scales gradients, the same on every rank, down to a joint norm of at most ``max_norm``; gives the norm before."""
        kinds = [[g for g in gradients if isinstance(g, DTensor) is sharded] for sharded in (True, False)]
        norm = math.hypot(*(_norm(kind) for kind in kinds if kind))
        if norm > max_norm:
            for kind in filter(None, kinds):
                torch._foreach_mul_(kind, max_norm / norm)
        return norm


def _norm(gradients: list[Tensor]) -> float:
    """The joint norm; that of sharded gradients is a `DTensor`, of which ``float`` would give the local part."""
    norm = torch.nn.utils.get_total_norm(gradients, foreach=True)
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
