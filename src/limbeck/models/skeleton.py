"""A model without weights, and where each of them is on disk: what streaming begins with.

Transformers fills a model by names that a file may spell otherwise (an older name, the decoder's prefix); what it would have to
compute first (several tensors made one) is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.configuration_utils import PreTrainedConfig

from limbeck.errors import BadModel
from limbeck.models.load import build, refuse_unlike
from limbeck.models.memory import Needs
from limbeck.models.parts import ALIGNED, DTYPES
from limbeck.models.source import Stored, is_old_buffer


def skeleton(config: PreTrainedConfig, *, dtype: torch.dtype) -> PreTrainedModel:
    """A model of this configuration whose parameters have no storage; its buffers, which no file holds, are computed."""
    register = nn.Module.register_parameter

    def on_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None and not parameter.is_meta:  # one that is tied stays the same
            parameter = nn.Parameter(parameter.to("meta"), requires_grad=False)
        register(module, name, parameter)

    nn.Module.register_parameter = on_meta  # type: ignore[method-assign, assignment]
    try:
        model = build(config, dtype=dtype)
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]
    return model.eval().requires_grad_(False)


def matched(folder: Path, model: PreTrainedModel, stored: Mapping[str, Stored]) -> dict[str, Stored]:
    """Tensor of the model → where it is. Raises BadModel where the file's tensors are not the model's.

    As when Transformers loads: names may have the decoder's prefix or lack it, and one of several tied tensors is enough.
    """
    expected: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    expected |= {name: tensor for name, tensor in model.state_dict().items() if name not in expected}
    prefix = f"{model.base_model_prefix}."
    renamed = _renaming(model)
    found: dict[str, Stored] = {}
    unexpected = []
    for key, tensor in stored.items():
        names = (key, prefix + key, key.removeprefix(prefix), renamed(key))
        name = next((name for name in names if name in expected), None)
        if name is None:
            unexpected.append(key)
        else:
            found[name] = tensor
    for name in expected.keys() - found.keys():
        twins = [other for other in found if expected[other] is expected[name]]
        if twins:
            found[name] = found[twins[0]]
    patterns = model._keys_to_ignore_on_load_unexpected or ()
    missing = expected.keys() - found.keys()
    unexpected = [
        key
        for key in unexpected
        if not is_old_buffer(key, stored[key].shape) and not any(re.search(pattern, key) for pattern in patterns)
    ]
    if missing and unexpected:
        raise BadModel(
            f"{folder}: the weights have {sorted(unexpected)[0]} where Transformers computes with {sorted(missing)[0]} "
            f"({len(missing)} such tensors), so they are of another architecture, or have another form on disk, which cannot be "
            "streamed; compare the config.json, or capture without --stream where the model fits"
        )
    refuse_unlike(
        folder,
        mismatched=[
            (name, tensor.shape, tuple(expected[name].shape))
            for name, tensor in found.items()
            if tensor.shape != tuple(expected[name].shape)
        ],
        missing=missing,
        unexpected=unexpected,
    )
    for name, tensor in found.items():
        if tensor.dtype not in DTYPES:
            raise BadModel(
                f"{folder}: {name} is stored as {tensor.dtype}, expected {', '.join(DTYPES)}: give unquantised weights"
            )
    return found


def _renaming(model: PreTrainedModel) -> Callable[[str], str]:
    """What Transformers calls a tensor of a file, where it is the same tensor by another name."""
    try:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightRenaming
    except ImportError:  # a release in which both have one name
        return lambda key: key
    renamings = [change for change in get_model_conversion_mapping(model) if isinstance(change, WeightRenaming)]

    def renamed(key: str) -> str:
        for renaming in renamings:
            key = renaming.rename_source_key(key)[0]
        return key

    return renamed


def layers_of(model: PreTrainedModel) -> list[nn.Module]:
    """The layers of a decoder: its one list of as many modules as the configuration has layers."""
    count = model.config.get_text_config().num_hidden_layers
    lists = [m for m in model.base_model.children() if isinstance(m, nn.ModuleList) and len(m) == count]
    if len(lists) != 1:
        raise BadModel(
            f"{model.config.model_type}: expected one list of {count} layers in its decoder, found {len(lists)}: such an "
            "architecture cannot be streamed; capture without --stream"
        )
    return list(lists[0])


def needs_of(model: PreTrainedModel, *, length: int, beside: int = 0) -> Needs:
    """What a model without storage would take, from its shapes and formats, asked about rows of ``length`` tokens.

    A token's activations in a layer: every matrix of the layer maps the hidden state to something or back, so its outputs are
    about parameters / D numbers, and the most of them exist together; a norm's are float32. A mask has a number or two per
    pair of positions, and attention that is not fused one score per head.
    """
    layers = [
        sum(p.nbytes for p in layer.parameters()) + len(list(layer.parameters())) * ALIGNED
        for layer in layers_of(model)
    ]
    embedding, head = (sum(p.nbytes for p in m.parameters()) for m in (embedding_of(model), head_of(model)))
    shared = {id(p) for module in (*layers_of(model), embedding_of(model), head_of(model)) for p in module.parameters()}
    text = model.config.get_text_config()
    itemsize, width = model.dtype.itemsize, text.hidden_size
    inner = max(sum(p.numel() for p in layer.parameters()) for layer in layers_of(model)) // width
    fused = model.config._attn_implementation == "sdpa"
    scores = 0 if fused else text.num_attention_heads * (2 * itemsize + 4)
    return Needs(
        rest=sum(p.nbytes for p in model.parameters() if id(p) not in shared) + sum(b.nbytes for b in model.buffers()),
        embedding=embedding,
        layer=max(layers),
        head=head,
        token=itemsize * (inner + 4 * width) + 4 * 3 * width + length * (itemsize + 4 + scores),
        hidden=itemsize * width,
        rows=head_of(model).weight.shape[0],
        beside=beside,
    )


def embedding_of(model: PreTrainedModel) -> nn.Module:
    """The table that tokens are looked up in."""
    return model.get_input_embeddings()


def head_of(model: PreTrainedModel) -> Any:
    """The last linear map, from hidden states to logits."""
    return model.get_output_embeddings()
