"""A model whose weights are spread over processes, of which the first leads: it alone runs a job, the others follow.

Whenever the leader computes hidden states of some rows, each process computes an equal part of them, and the leader gets all.
So whatever is written for a model in memory runs as it is on the leader, whose head is whole. What calls the model's own modules
would wait for the others for ever; `LanguageModel.in_one_process` tells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from limbeck.errors import BadModel
from limbeck.models.language_model import LanguageModel
from limbeck.models.sharding import load_sharded
from limbeck.types import Head

LEADER = 0


@dataclass
class Read:
    """The tokens of texts so far, in place of a cache, which each process would have to keep in step."""

    texts: list[Tensor]

    def batch_select_indices(self, left: Int[Tensor, " rows"]) -> None:
        """Keeps some of the texts, as Transformers' caches do."""
        self.texts = [self.texts[number] for number in left.tolist()]


class LedModel(LanguageModel):
    """A frozen model of which this process, the leader, holds a part; ``whole`` is its head, ``number`` its place among all.

    Its modules cannot be called themselves: that raises BadModel.
    """

    in_one_process = False
    whole: Head
    number: int

    @property
    def head(self) -> Head:
        """The map from hidden states to logits."""
        return self.whole

    @torch.inference_mode(False)
    @torch.no_grad()
    def read_on(self, tokens: Int[Tensor, "B T"], kept: Any, **others: Any) -> tuple[Float[Tensor, "B V"], Any]:
        """As `LanguageModel.read_on`; all tokens are read again each time."""
        before = kept.texts if kept else [tokens.new_empty(0)] * len(tokens)
        mask = others.get("attention_mask")
        new = torch.ones_like(tokens) if mask is None else mask[:, -tokens.shape[1] :]
        texts = [torch.cat([text, row[real > 0]]) for text, row, real in zip(before, tokens, new, strict=True)]
        padded = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True)
        position = torch.arange(padded.shape[1], device=padded.device).expand_as(padded)
        hidden = self._hidden_states(padded, position)
        last = torch.stack([states[len(text) - 1] for states, text in zip(hidden, texts, strict=True)])
        return self.head.logits(last), Read(texts)

    @property
    def processes(self) -> int:
        """How many processes compute."""
        return dist.get_world_size()

    @torch.inference_mode(False)
    @torch.no_grad()
    def _hidden_states(self, tokens: Int[Tensor, "B T"], position: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        tokens, position = (tensor.clone() for tensor in (tokens, position))  # FSDP takes no tensors of inference mode
        _announce(self.number, tokens.shape, tokens.device)
        for tensor in (tokens, position):
            dist.broadcast(tensor, LEADER)
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
    with led(load_sharded(name, mesh, device=device, dtype=dtype, ends=False)) as found:
        yield None if found is None else found[0]


@contextmanager
def led(*models: LanguageModel) -> Iterator[list[LanguageModel] | None]:
    """Frozen sharded models on the leader; None on the others, after they have computed for them to the end of the block.

    All processes enter together.
    """
    heads = [model.head for model in models]  # gathered, where they are in parts
    device = models[0].device
    if dist.get_rank() != LEADER:
        heads.clear()
        _follow(models, device)
        yield None
        return
    leaders = [_leader(model, head, number) for number, (model, head) in enumerate(zip(models, heads, strict=True))]
    guards = [model.model.register_forward_pre_hook(_refuse(model.name), prepend=True) for model in models]
    try:
        yield leaders
    finally:
        for guard in guards:
            guard.remove()
        _announce(0, (0, 0), device)


def _leader(model: LanguageModel, head: Head, number: int) -> LanguageModel:
    leader = LedModel(model.model, model.tokenizer, model.name, model.lineage, model.stored)
    leader.packs, leader.whole, leader.number = model.packs, head, number
    return leader


def _refuse(name: str) -> Callable[..., NoReturn]:
    """A hook that refuses a forward pass of one process: it would wait for the others for ever."""

    def refuse(*_: object) -> NoReturn:
        raise BadModel(
            f"{name}: its weights are spread over processes, of which this computes hidden states alone, and what was asked for "
            "calls the whole model; leave --mesh out"
        )

    return refuse


@torch.no_grad()
def _follow(models: Sequence[LanguageModel], device: torch.device) -> None:
    """Computes this process's part of each batch of the leader, until it announces an empty one."""
    while True:
        shape = torch.empty(3, dtype=torch.int64, device=device)
        dist.broadcast(shape, LEADER)
        number, *sizes = shape.tolist()
        if not sizes[0]:
            return
        tokens, position = (torch.empty(sizes, dtype=torch.int64, device=device) for _ in range(2))
        for tensor in (tokens, position):
            dist.broadcast(tensor, LEADER)
        own = models[number]._hidden_states(*_part(tokens, position))
        dist.gather(own.contiguous(), None, LEADER)


def _announce(number: int, shape: tuple[int, ...], device: torch.device) -> None:
    """Sends the followers the model, rows and tokens of the next batch; no rows end them."""
    dist.broadcast(torch.tensor((number, *shape), dtype=torch.int64, device=device), LEADER)


def _part(*tensors: Int[Tensor, "B T"]) -> tuple[Int[Tensor, "b T"], ...]:
    """This process's rows of a batch, as many on each process: the last row again where there are too few."""
    rows = len(tensors[0])
    each = -(-rows // dist.get_world_size())
    mine = (dist.get_rank() * each + torch.arange(each)).clamp(max=rows - 1)
    return tuple(tensor[mine.to(tensor.device)] for tensor in tensors)
