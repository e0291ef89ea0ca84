"""A model whose weights are spread over processes, of which the first leads: it alone runs a job, the others follow.

Whenever the leader computes hidden states of some rows, each process computes an equal part of them, and the leader gets all.
So whatever is written for a model in memory runs as it is on the leader. Embedding and head are whole on each process.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from limbeck.models.language_model import LanguageModel
from limbeck.models.sharding import load_sharded

LEADER = 0


class LedModel(LanguageModel):
    """A frozen model of which this process, the leader, holds a part; it computes hidden states and logits, and generates not."""

    in_one_process = False

    @property
    def processes(self) -> int:
        """How many processes compute."""
        return dist.get_world_size()

    def _hidden_states(self, tokens: Int[Tensor, "B T"], position: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        _announce(tokens.shape, tokens.device)
        for tensor in (tokens, position):
            dist.broadcast(tensor.contiguous(), LEADER)
        own = super()._hidden_states(*_part(tokens, position))
        parts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.gather(own.contiguous(), parts, LEADER)
        return torch.cat(parts)[: len(tokens)]


@contextmanager
def leading(
    name: str | Path, mesh: DeviceMesh, *, device: torch.device, dtype: torch.dtype
) -> Iterator[LanguageModel | None]:
    """The model of a folder or hub id on the leader; None on the others, after they have computed for it to its end.

    All processes enter together, before any work with the model. Raises as `load_sharded`, on all of them.
    """
    model = load_sharded(name, mesh, device=device, dtype=dtype, ends=False)
    if dist.get_rank() != LEADER:
        _follow(model, device)
        yield None
        return
    led = LedModel(model.model, model.tokenizer, model.name, model.lineage, model.stored)
    led.packs = model.packs
    try:
        yield led
    finally:
        _announce((0, 0), device)


@torch.no_grad()
def _follow(model: LanguageModel, device: torch.device) -> None:
    """Computes this process's part of each batch of the leader, until it announces an empty one."""
    while True:
        shape = torch.empty(2, dtype=torch.int64, device=device)
        dist.broadcast(shape, LEADER)
        if not shape[0]:
            return
        tokens, position = (torch.empty(shape.tolist(), dtype=torch.int64, device=device) for _ in range(2))
        for tensor in (tokens, position):
            dist.broadcast(tensor, LEADER)
        own = model._hidden_states(*_part(tokens, position))
        dist.gather(own.contiguous(), None, LEADER)


def _announce(shape: tuple[int, ...], device: torch.device) -> None:
    """Sends the followers the rows and tokens of the next batch; none end them."""
    dist.broadcast(torch.tensor(shape, dtype=torch.int64, device=device), LEADER)


def _part(*tensors: Int[Tensor, "B T"]) -> tuple[Int[Tensor, "b T"], ...]:
    """This process's rows of a batch, as many on each process: the last row again where there are too few."""
    rows = len(tensors[0])
    each = -(-rows // dist.get_world_size())
    mine = (dist.get_rank() * each + torch.arange(each)).clamp(max=rows - 1)
    return tuple(tensor[mine.to(tensor.device)] for tensor in tensors)
