"""Shards a language model over processes with FSDP2, so that each holds a part of every weight.

Each decoder layer is gathered for its own forward and backward pass. The head of a model that is trained is gathered once for a
micro-batch and kept, since the fused head (`objectives/fused.py`) reads its weight and writes its gradient itself.

Why the seams are where they are: `fully_shard` runs its hooks where a module is *called*, so hidden states are computed through a
method of the whole model that is registered for it. After the backward pass a group's gradient is taken from its gathered
parameters, whoever wrote it, and reduced.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from limbeck.errors import BadModel
from limbeck.models.build import build
from limbeck.models.formats import exact_parameters, set_format
from limbeck.models.language_model import SHARDED, LanguageModel, whole
from limbeck.models.skeleton import layers_of
from limbeck.models.stored import StoredModel
from limbeck.models.trim.model import Vocabulary
from limbeck.models.verify import verify


def shard(
    model: LanguageModel,
    mesh: DeviceMesh,
    *,
    train: bool,
    dtype: torch.dtype | None = None,
    narrow: bool = False,
    ends: bool = True,
) -> None:
    """Shards a model's weights in place over a mesh of one dimension (shards) or two (replicas, shards).

    The weights become `DTensor`s; before they must be equal on all processes, or without storage. With ``train`` gradients are
    summed over the processes, not averaged, and embedding and head stay gathered from their use to the end of the backward pass.
    ``dtype``: the number format in which weights are gathered and computed with, None for their own; gradients are summed in
    float32. ``narrow``: matrices are changed to bfloat16, and vectors, which keep theirs, stay whole on each process, since a
    unit of FSDP has one format; so do their gradients, which are not summed then. Without ``ends`` embedding and head stay whole.

    Raises BadModel for an architecture whose decoder has not exactly one list of layers.
    """
    root: Any = model.model
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=None if dtype is None else torch.float32)
    if narrow:
        set_format(root, torch.bfloat16)
    apart = set(exact_parameters(root)) if narrow else set()
    keep: dict[str, Any] = {"mesh": mesh, "mp_policy": policy, "reshard_after_forward": not train}
    for layer in layers_of(root):
        fully_shard(layer, mesh=mesh, mp_policy=policy, reshard_after_forward=True, ignored_params=apart)
    for unit in _ends(root) if ends else ():
        fully_shard(unit, **keep, ignored_params=apart)
    both = (root.get_input_embeddings(), root.get_output_embeddings())
    fully_shard(root, **keep, ignored_params=apart if ends else apart | {p for end in both for p in end.parameters()})
    for module in _units(root):
        # a step divides by the weight of all its tokens itself; the factor alone would be a reduction that gloo does not have
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)
    decoder = model.decoder  # found before the method that calls it is there
    setattr(root, SHARDED, lambda **arguments: decoder(**arguments))
    register_fsdp_forward_method(root, SHARDED)
    gathering = getattr(root, SHARDED)

    def hidden_states(**arguments: Any) -> Any:
        found = gathering(**arguments)
        if not torch.is_grad_enabled():  # no backward pass follows, after which weights are in parts again
            _spread(root)
        return found

    setattr(root, SHARDED, hidden_states)


def begin(model: LanguageModel, *, last: bool) -> None:
    """Prepares a forward and backward pass of one micro-batch of a training: gathers embedding and head.

    Gradients are reduced over shards in every backward pass, since each process would keep them whole until a later one; over
    replicas in that of the ``last`` micro-batch of a step.
    """
    root: Any = model.model
    root.set_requires_all_reduce(last)
    for unit in _ends(root):
        gathered: Any = unit[0] if isinstance(unit, list) else unit
        gathered.unshard()


def gathered(model: LanguageModel, *, keep: bool) -> LanguageModel | None:
    """A copy of a sharded model with all of its weights, in float32 on a CPU, where ``keep``; all processes call it.

    The weights are gathered one after another.
    """
    state = {}
    for name, tensor in model.model.state_dict().items():
        found = whole(tensor)
        if keep:
            state[name] = found.detach().cpu().to(torch.float32 if found.is_floating_point() else found.dtype)
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


def load_sharded(
    name: str | Path,
    mesh: DeviceMesh,
    *,
    device: torch.device,
    dtype: torch.dtype,
    train: bool = False,
    gathered: torch.dtype | None = None,
    narrow: bool = False,
    ends: bool = True,
    vocabulary: Vocabulary | None = None,
) -> LanguageModel:
    """A model from a folder or hub id, of which each process reads and holds its part of every weight alone.

    All processes call it. It is frozen and in eval mode, unless ``train`` is true; ``gathered`` is the ``dtype`` of `shard`,
    ``narrow`` and ``ends`` as there. With a ``vocabulary`` it has the kept tokens alone.
    Raises BadModel and Mismatch as `load` does, and BadModel as `trim`, for quantised weights, or for an architecture whose
    weights have another form on disk.
    """
    opened = StoredModel.open(
        name,
        dtype=dtype,
        reading="they are spread over processes",
        instead="leave --mesh out, or give the unquantised model",
    )
    if vocabulary is not None:
        opened = opened.trimmed(vocabulary)
    loaded, model = opened.about, opened.about.model
    model.requires_grad_(train)
    shard(loaded, mesh, train=train, dtype=gathered, narrow=narrow, ends=ends)
    both: Any = (model.get_input_embeddings(), model.get_output_embeddings())
    tied = both[0].weight is both[1].weight
    kept = {name: buffer.clone() for name, buffer in model.named_buffers()}  # which no file holds, mostly
    model.to_empty(device=device)
    if tied and both[0].weight is not both[1].weight:  # where they are no unit of FSDP, which keeps them one
        both[1].weight = both[0].weight
    for name, buffer in model.named_buffers():
        buffer.copy_(kept[name])
    _read_parts(opened, model)
    verify(loaded)
    _spread(model)
    model.train(train)
    return loaded


def _read_parts(opened: StoredModel, model: nn.Module) -> None:
    """Fills this process's part of all tensors. Raises BadModel on all processes where one finds NaN."""
    failed = ""
    try:
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if name in opened.tensors:
                _read_part(opened, name, tensor)
    except BadModel as error:
        failed = str(error)
    found = [failed] * dist.get_world_size()
    dist.all_gather_object(found, failed)
    if first := next(filter(None, found), None):
        raise BadModel(first)


@torch.no_grad()
def _read_part(opened: StoredModel, name: str, tensor: Tensor) -> None:
    """Fills the local rows of a tensor from its file. Raises BadModel for NaN among them."""
    local, first = tensor, 0
    if isinstance(tensor, DTensor):
        local = tensor.to_local()
        _, (first, *_) = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    if local.numel():
        starts = (first, *[0] * (local.ndim - 1))
        places = [start + torch.arange(length) for start, length in zip(starts, local.shape, strict=False)]
        local.copy_(opened.part(name, opened.places(name, places), local.dtype))


def _ends(model: Any) -> list[Any]:
    """Embedding and head: two units, or one of both modules where they share their weight."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    tied = embedding.weight is head.weight
    return [[embedding, head]] if tied else [embedding, head]


def _spread(model: nn.Module) -> None:
    """Keeps of each weight this process's part alone."""
    for unit in _units(model):
        unit.reshard()


def _units(model: nn.Module) -> Iterator[FSDPModule]:
    return (module for module in model.modules() if isinstance(module, FSDPModule))
