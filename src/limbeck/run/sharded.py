"""Processes that each hold a part of all weights: the `Mesh` of sharded training (FSDP2)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor

from limbeck.models.language_model import LanguageModel
from limbeck.models.sharding import begin, gathered, load_sharded, shard
from limbeck.models.trim.model import Vocabulary
from limbeck.run.world import World, scale_down
from limbeck.types import Batch, CausalLM, Outputs

REPLICATE, SHARD = "replicate", "shard"


def layout_of(text: str, processes: int) -> tuple[int, int]:
    """(replicas, shards) of a mesh as a user writes it: ``replicate``, ``shard``, or ``shard=8,replicate=2``.

    Raises ValueError with a sentence for a text that is none of these, or whose product is not the number of processes.
    """
    if text in (REPLICATE, SHARD):
        return (1, processes) if text == SHARD else (processes, 1)
    found = dict(part.partition("=")[::2] for part in text.replace(" ", "").split(","))
    if not found.keys() <= {REPLICATE, SHARD} or not all(size.isdecimal() and int(size) for size in found.values()):
        raise ValueError("expected replicate, shard, or numbers of processes such as shard=8,replicate=2")
    replicas, shards = (int(found.get(name, 1)) for name in (REPLICATE, SHARD))
    if replicas * shards != processes:
        raise ValueError(
            f"{shards} shards x {replicas} replicas are {shards * replicas} processes, and torchrun started {processes}"
        )
    return replicas, shards


def sharded(
    world: World, replicas: int, shards: int, *, dtype: torch.dtype | None = None, narrow: bool = False
) -> World:
    """The processes of a `World` with weights in so many shards, each shard on so many replicas; itself for one shard.

    ``dtype`` and ``narrow`` as in `Sharded`.
    """
    if shards == 1:
        return world
    sizes, names = ((shards,), (SHARD,)) if replicas == 1 else ((replicas, shards), (REPLICATE, SHARD))
    layout = init_device_mesh(world.device.type, sizes, mesh_dim_names=names)
    return Sharded(world.rank, world.size, world.device, layout, dtype, narrow, group=world.group, host=world.host)


@dataclass(frozen=True)
class Sharded(World):
    """The processes of this run, each with a part of all weights.

    ``layout`` has one dimension (shards) or two (replicas, shards). ``dtype``: the number format in which the weights of a model
    that is trained are gathered, None for their own. ``narrow``: its matrices are held in bfloat16, and its vectors whole.
    """

    layout: DeviceMesh
    dtype: torch.dtype | None = None
    narrow: bool = False

    @property
    def sharded(self) -> bool:
        """Whether a rank holds a part of the weights only, so that all ranks compute together."""
        return True

    def load(
        self,
        name: str | Path,
        *,
        dtype: torch.dtype = torch.float32,
        train: bool = False,
        vocabulary: Vocabulary | None = None,
    ) -> LanguageModel:
        """A model from a folder or hub id, of which this process reads and holds its part alone; frozen unless ``train``.

        With a ``vocabulary`` it has the kept tokens alone.
        """
        how: dict[str, Any] = {"train": train, "vocabulary": vocabulary, "narrow": train and self.narrow}
        how |= {"device": self.device, "dtype": dtype, "gathered": self.dtype if train else None}
        return load_sharded(name, self.layout, **how)

    def place(self, model: LanguageModel, *, train: bool) -> None:
        """Shards a model over the processes, in place, and moves its part to this process's device."""
        dtype, narrow = (self.dtype, self.narrow) if train else (None, False)
        shard(model, self.layout, train=train, dtype=dtype, narrow=narrow)
        for parameter in model.model.parameters():  # those that FSDP leaves where they are
            if not isinstance(parameter, DTensor):
                parameter.data = parameter.data.to(self.device)

    def gathered(self, model: LanguageModel) -> LanguageModel | None:
        """A copy of the model with all of its weights, in float32 on a CPU, on rank 0; None on the others."""
        return gathered(model, keep=self.first)

    def begin(self, model: CausalLM, *, last: bool) -> None:
        """Prepares the forward and backward pass of a micro-batch, the ``last`` of its step or not."""
        begin(cast("LanguageModel", model), last=last)

    def even(self, rows: Batch, most: int) -> Batch:
        """As many rows on each rank, since each forward pass is one of all ranks: the first again, without weight."""
        more = most - len(rows.tokens)
        if not more:
            return rows
        filled = rows.rows(torch.arange(most) % len(rows.tokens))
        return replace(filled, weight=filled.weight * (torch.arange(most) < len(rows.tokens))[:, None])

    def idle(self, outputs: Outputs) -> None:
        """A backward pass of zeros, since the ranks sum gradients in the backward pass, all together."""
        outputs.hidden.backward(torch.zeros_like(outputs.hidden))

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Sums the gradients of parameters that are not sharded; those of the others were summed in the backward pass."""
        super().sum_gradients(p for p in parameters if not isinstance(p, DTensor))

    def clip(self, gradients: list[Tensor], max_norm: float) -> Tensor:
        """Scales gradients, the same on every rank, down to a joint norm of at most ``max_norm``; gives the norm before."""
        kinds = [[g for g in gradients if isinstance(g, DTensor) is sharded] for sharded in (True, False)]
        norm = torch.stack([_norm(kind) for kind in kinds if kind]).square().sum().sqrt()
        scale_down([g.to_local() if isinstance(g, DTensor) else g for g in gradients], norm, max_norm)
        return norm


def _norm(gradients: list[Tensor]) -> Tensor:
    """The joint norm in float64; that of sharded gradients is a `DTensor`, of which ``float`` would give the local part."""
    norm = torch.nn.utils.get_total_norm(gradients, foreach=True)
    return (norm.full_tensor() if isinstance(norm, DTensor) else norm).double()
