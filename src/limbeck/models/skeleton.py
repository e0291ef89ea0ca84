"""A model without weights, and the place of each tensor on disk: the start of streaming.

Files may use other names than Transformers (an older name, or one with the decoder's prefix). A tensor that Transformers would
have to compute from several others is refused.
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
from limbeck.models.build import build, unfilled
from limbeck.models.memory import MemoryNeeds
from limbeck.models.parts import ALIGNED, DTYPES
from limbeck.models.source import Stored, is_old_buffer
from limbeck.models.weights import check_match

IN_MEMORY = "it has to be in memory (without --stream)"


def skeleton(config: PreTrainedConfig, *, dtype: torch.dtype) -> PreTrainedModel:
    """A model of this configuration whose parameters have no storage. Its buffers are computed, because no file holds them.

    Raises BadModel where the configuration cannot be built.
    """

    def on_meta(parameter: nn.Parameter) -> nn.Parameter:
        if parameter.is_meta:  # a tied parameter stays one object
            return parameter
        return nn.Parameter(parameter.to("meta"), requires_grad=False)

    with unfilled(on_meta):
        model = build(config, dtype=dtype)
    return model.eval().requires_grad_(False)


def matched(folder: Path, model: PreTrainedModel, stored: Mapping[str, Stored]) -> dict[str, Stored]:
    """Name of each tensor of the model → the stored tensor.

    As in Transformers, names may have the decoder's prefix or lack it, and one of several tied tensors is enough. Raises
    BadModel where the stored tensors are not those of the model, or have an unknown number format.
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
            "streamed; compare the config.json, or keep the model in memory (without --stream), where it fits"
        )
    check_match(
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
                f"{folder}: expected {name} stored as one of {', '.join(DTYPES)}, got {tensor.dtype}; give unquantised weights"
            )
    return found


def _renaming(model: PreTrainedModel) -> Callable[[str], str]:
    """Maps a name in a file to the name in Transformers, where the tensor is the same."""
    try:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightRenaming
    except ImportError:  # in this release both have the same name
        return lambda key: key
    renamings = [change for change in get_model_conversion_mapping(model) if isinstance(change, WeightRenaming)]

    def renamed(key: str) -> str:
        for renaming in renamings:
            key = renaming.rename_source_key(key)[0]
        return key

    return renamed


def names_in_files(model: PreTrainedModel) -> dict[str, str]:
    """Name in files → name of each parameter, tied ones once. They are the same but for the older names of a few families."""
    names = [name for name, _ in model.named_parameters()]
    try:
        from transformers.core_model_loading import revert_weight_conversion
    except ImportError:  # in this release both have the same name
        return {name: name for name in names}
    written = revert_weight_conversion(model, {name: torch.tensor(place) for place, name in enumerate(names)})
    return {name: names[int(place)] for name, place in written.items()}


def layers_of(model: PreTrainedModel) -> list[nn.Module]:
    """The layers of a decoder: its list of as many modules as the configuration has layers.

    Raises BadModel where there is not exactly one such list.
    """
    count = model.config.get_text_config().num_hidden_layers
    lists = [m for m in model.base_model.children() if isinstance(m, nn.ModuleList) and len(m) == count]
    if len(lists) != 1:
        raise BadModel(
            f"{model.config.model_type}: expected one list of {count} layers in its decoder, got {len(lists)}: such an "
            "architecture cannot be read layer by layer; leave --stream or --mesh out"
        )
    return list(lists[0])


def needs_of(model: PreTrainedModel, *, length: int, caller_bytes: int = 0) -> MemoryNeeds:
    """Memory needs of a model, from its shapes and number formats, for sequences of ``length`` tokens.

    The activations of a token in a layer are estimated: every matrix of the layer maps from or to the hidden state, so their
    outputs are about parameters / D numbers, and most of them exist at once. Outputs of norms are float32. A mask has one or
    two numbers per pair of positions, and attention that is not fused has one score per head.

    Raises BadModel where the decoder has not exactly one list of layers.
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
    fused = model.config._attn_implementation != "eager"
    scores = 0 if fused else text.num_attention_heads * (2 * itemsize + 4)
    return MemoryNeeds(
        rest=sum(p.nbytes for p in model.parameters() if id(p) not in shared) + sum(b.nbytes for b in model.buffers()),
        embedding=embedding,
        layer=max(layers),
        head=head,
        token=itemsize * (inner + 4 * width) + 4 * 3 * width + length * (itemsize + 4 + scores),
        hidden=itemsize * width,
        rows=head_of(model).weight.shape[0],
        caller=caller_bytes,
    )


def embedding_of(model: PreTrainedModel) -> nn.Module:
    """The token embedding."""
    return model.get_input_embeddings()


def head_of(model: PreTrainedModel) -> Any:
    """The last linear map, from hidden states to logits."""
    return model.get_output_embeddings()
