"""Shards a language model over processes with FSDP2, so that each holds a part of every weight.

Each decoder layer is gathered for its own forward and backward pass. The head of a model that is trained is gathered once for a
micro-batch and kept, since the fused head (`objectives/fused.py`) reads its weight and writes its gradient itself.

Why the seams are where they are: `fully_shard` runs its hooks where a module is *called*, so hidden states are computed through a
method of the whole model that is registered for it. After the backward pass a group's gradient is taken from its gathered
parameters, whoever wrote it, and reduced.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

from limbeck.models.build import build
from limbeck.models.language_model import SHARDED, LanguageModel, whole


def shard(model: LanguageModel, mesh: DeviceMesh, *, train: bool, dtype: torch.dtype | None = None) -> None:
    """Shards a model's weights in place over a mesh of one dimension (shards) or two (replicas, shards).

    The weights become `DTensor`s; they must be equal on all processes before. With ``train`` gradients are summed over the
    processes, not averaged, and embedding and head stay gathered from their use to the end of the backward pass. ``dtype``: the
    number format in which weights are gathered and computed with, None for their own; gradients are summed in float32.
    """
    root: Any = model.model
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=None if dtype is None else torch.float32)
    keep: dict[str, Any] = {"mesh": mesh, "mp_policy": policy, "reshard_after_forward": not train}
    for layer in layers_of(root):
        fully_shard(layer, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
    for unit in _ends(root):
        fully_shard(unit, **keep)
    fully_shard(root, **keep)
    for module in _units(root):
        # a step divides by the weight of all its tokens itself; the factor alone would be a reduction that gloo does not have
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)
    decoder = model.decoder  # found before the method that calls it is there
    setattr(root, SHARDED, lambda **arguments: decoder(**arguments))
    register_fsdp_forward_method(root, SHARDED)


def begin(model: LanguageModel, *, last: bool) -> None:
    """Prepares a forward and backward pass of one micro-batch of a training: gathers embedding and head.

    Gradients are reduced over the processes in the backward pass of the ``last`` micro-batch of a step.
    """
    root: Any = model.model
    root.set_requires_gradient_sync(last)
    root.set_is_last_backward(last)
    for unit in _ends(root):
        gathered: Any = unit[0] if isinstance(unit, list) else unit
        gathered.unshard()


def gathered(model: LanguageModel, *, keep: bool) -> LanguageModel | None:
    """A copy of a sharded model with all of its weights, on a CPU, where ``keep``; all processes call it.

    The weights are gathered one after another.
    """
    state = {}
    for name, tensor in model.model.state_dict().items():
        found = whole(tensor)
        if keep:
            state[name] = found.detach().cpu()
    if not keep:
        return None
    with torch.device("meta"):
        plain = build(model.config)
    plain.load_state_dict(state, assign=True)
    for name, buffer in model.model.named_buffers():  # those too that no file holds
        place, _, own = name.rpartition(".")
        plain.get_submodule(place).register_buffer(own, buffer.detach().cpu(), persistent=name in state)
    plain.tie_weights()
    plain.generation_config = model.model.generation_config
    return LanguageModel(plain, model.tokenizer, model.name, model.lineage, model.stored)


def layers_of(model: nn.Module) -> list[nn.Module]:
    """The decoder layers: the modules of the list that has most parameters."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    sizes = [sum(p.numel() for p in found.parameters()) for found in lists]
    return list(lists[sizes.index(max(sizes))]) if lists else []


def is_sharded(model: nn.Module) -> bool:
    """Whether a model's weights are sharded."""
    return isinstance(model, FSDPModule)


def _ends(model: Any) -> list[Any]:
    """Embedding and head: two units, or one of both modules where they share their weight."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    tied = embedding.weight is head.weight
    return [[embedding, head]] if tied else [embedding, head]


def _units(model: nn.Module) -> Iterator[FSDPModule]:
    return (module for module in model.modules() if isinstance(module, FSDPModule))
