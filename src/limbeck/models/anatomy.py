"""The anatomy of a decoder: a description by axes that counting, scoring and pruning share.

A table gives for each architecture the axis of every dimension of every tensor: vocabulary, hidden channels, query heads, key and
value heads, FFN neurons. Some architectures fuse several of these into one dimension (GPT-2 and Phi-3 concatenate queries, keys
and values; GPT-NeoX interleaves them head by head), which has an axis of its own. `students.kept` has the kept indices along
each axis. A tensor that is not in the table is an error; nothing is guessed. Torch is loaded only to build a layer; counting
from config.json (`models.declared`) does not need it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from limbeck.errors import BadModel
from limbeck.models.experts import DENSE, dense_config, is_mixture

if TYPE_CHECKING:  # seconds to load, for names of types
    from torch import nn
    from transformers import PreTrainedModel
    from transformers.configuration_utils import PreTrainedConfig

Axes = tuple[str, ...]

_BY_LAYER = ("layer_types", "no_rope_layers")  # settings with one entry per layer
HEAD = "lm_head.weight"  # in every kind; tied, it is the embedding by another name and no tensor of its own


@dataclass(frozen=True)
class Sizes:
    """Lengths of the plain axes. ``heads`` and ``kv_heads`` count heads, not channels. A search uses arrays as lengths."""

    layers: Any
    hidden: Any
    heads: Any
    kv_heads: Any
    ffn: Any
    head_dim: int
    vocab: int
    position: int

    def of(self, axis: str) -> Any:
        """The length of an axis by name, also of fused axes. ``axis`` must be a name from this file."""
        d = self.head_dim
        match axis:
            case "heads":
                return self.heads * d
            case "kv":
                return self.kv_heads * d
            case "q|k|v":
                return (self.heads + 2 * self.kv_heads) * d
            case "qkv per head":
                return self.heads * 3 * d
            case "gate|up":
                return self.ffn * 2
            case "hidden" | "ffn" | "vocab" | "position" | "head_dim":
                return getattr(self, axis)
        raise AssertionError(f"no axis {axis!r}")


@dataclass(frozen=True)
class Kind:
    """The names of tensors and settings in one family of architectures. Names inside a layer are relative to the layer."""

    layers: str
    inside: Mapping[str, Axes]
    outside: Mapping[str, Axes]
    attention_out: str
    ffn_out: str
    readers: Sequence[str]  # norms from whose outputs a layer reads the hidden channels
    final_norm: str
    fields: Mapping[str, str]
    square: bool = False  # hidden == heads x head_dim, always
    divides: bool = False  # hidden must be a multiple of heads, though head_dim is explicit
    transposed: bool = False  # matrices inside a layer are (inputs, outputs)
    scaled_embedding: bool = False  # embeddings are multiplied by sqrt(hidden), norms by 1 + weight (Gemma)
    unnormed: bool = (
        False  # what reads the hidden channels has no norm before it: ``readers`` read them as inputs (OLMo 2)
    )


@dataclass(frozen=True)
class Anatomy:
    """The axes of every tensor of a decoder, outside the layers and inside a layer."""

    kind: Kind
    sizes: Sizes
    outside: Mapping[str, Axes]
    inside: Mapping[str, Axes]
    tied: bool

    @classmethod
    def of(cls, config: PreTrainedConfig) -> Anatomy:
        """The anatomy of a configuration; no weight is allocated.

        Raises BadModel for an architecture that is not in the table, or a variant that the table does not describe.
        """
        import torch

        from limbeck.models.build import build, unfilled

        kind = _kind(config)
        sizes = _sizes(config, kind)
        single = resized(config, layers=[0], sizes=sizes)
        with torch.device("meta"), unfilled():
            model = build(single)
        prefix = f"{kind.layers}.0."
        inside: dict[str, Axes] = {}
        outside: dict[str, Axes] = {}
        for name, tensor in model.named_parameters():
            table, found, local = (
                (kind.inside, inside, name.removeprefix(prefix))
                if name.startswith(prefix)
                else (kind.outside, outside, name)
            )
            axes = table.get(local)
            if axes is None or tuple(sizes.of(axis) for axis in axes) != tuple(tensor.shape):
                raise BadModel(
                    f"{config.model_type}: the tensor {name} {tuple(tensor.shape)} is not in limbeck's table of this "
                    "architecture, so the model cannot be pruned; it may be a teacher, with a --student"
                )
            found[local] = axes
        tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
        return cls(kind, sizes, outside, inside, tied)

    @classmethod
    def of_students(cls, config: PreTrainedConfig) -> Anatomy:
        """The anatomy of what students are pruned from: that of a configuration, of a mixture of experts its dense decoder's.

        Raises BadModel as `of` does, and for a mixture for which the dense family has no place.
        """
        return cls.of(_dense(config))

    def count(self, *, layers: Any, hidden: Any, heads: Any, kv_heads: Any, ffn: Any) -> Any:
        """Number of parameters of a student of these sizes, tied ones once. Sizes are numbers or arrays that broadcast."""
        sizes = replace(self.sizes, layers=layers, hidden=hidden, heads=heads, kv_heads=kv_heads, ffn=ffn)
        return elements(self.outside, sizes) + layers * elements(self.inside, sizes)

    def count_body(self, *, layers: Any, hidden: Any, heads: Any, kv_heads: Any, ffn: Any) -> Any:
        """As `count`, without embeddings (of tokens and of positions) and without the head: N in scaling laws."""
        sizes = replace(self.sizes, layers=layers, hidden=hidden, heads=heads, kv_heads=kv_heads, ffn=ffn)
        outside = {name: axes for name, axes in self.outside.items() if axes[0] not in ("vocab", "position")}
        return elements(outside, sizes) + layers * elements(self.inside, sizes)

    def layers_of(self, model: PreTrainedModel) -> list[nn.Module]:
        """The layers, first to last."""
        return list(model.get_submodule(self.kind.layers).children())

    def attention_outs(self, model: PreTrainedModel) -> list[nn.Module]:
        """Per layer the linear map whose input is the concatenated outputs of the heads."""
        return [layer.get_submodule(self.kind.attention_out) for layer in self.layers_of(model)]

    def ffn_outs(self, model: PreTrainedModel) -> list[nn.Module]:
        """Per layer the linear map whose input is the activations of the FFN neurons."""
        return [layer.get_submodule(self.kind.ffn_out) for layer in self.layers_of(model)]

    def readers(self, model: PreTrainedModel) -> list[nn.Module]:
        """The norms from whose outputs the layers and the head read the hidden channels.

        In an ``unnormed`` kind those of the layers are no norms: they read the hidden channels as their inputs.
        """
        inner = [layer.get_submodule(name) for layer in self.layers_of(model) for name in self.kind.readers]
        return [*inner, model.get_submodule(self.kind.final_norm)]


def resized(config: PreTrainedConfig, *, layers: Sequence[int], sizes: Sizes) -> PreTrainedConfig:
    """The configuration of a student with these layers of the teacher and these sizes.

    Lists with one entry per layer (sliding or full attention, rotary positions or none) keep the entries of these layers.
    head_dim is explicit, since it no longer follows from the width. Raises BadModel for an architecture that cannot be pruned.
    """
    config = _dense(config)
    kind = _kind(config)
    written = config.to_dict()
    depth = int(getattr(config, kind.fields["layers"]))
    for name in _BY_LAYER:
        value = written.get(name)
        if isinstance(value, list) and len(value) >= depth:
            written[name] = [value[layer] for layer in layers]
    written[kind.fields["layers"]] = len(layers)
    for axis in ("hidden", "heads", "kv_heads", "ffn"):
        if axis in kind.fields:
            written[kind.fields[axis]] = int(getattr(sizes, axis))
    if not kind.square:
        written["head_dim"] = sizes.head_dim
    return type(config).from_dict(written)


def elements(tensors: Mapping[str, Axes], sizes: Sizes) -> Any:
    """The number of elements of these tensors together."""
    total: Any = 0
    for axes in tensors.values():
        product: Any = 1
        for axis in axes:
            product = product * sizes.of(axis)
        total = total + product
    return total


def _sizes(config: PreTrainedConfig, kind: Kind) -> Sizes:
    hidden = int(getattr(config, kind.fields["hidden"]))
    heads = int(getattr(config, kind.fields["heads"]))
    kv_heads = int(getattr(config, kind.fields["kv_heads"])) if "kv_heads" in kind.fields else heads
    head_dim = None if kind.square else getattr(config, "head_dim", None)
    ffn = getattr(config, kind.fields["ffn"])
    return Sizes(
        layers=int(getattr(config, kind.fields["layers"])),
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        ffn=4 * hidden if ffn is None else int(ffn),  # GPT-2 leaves n_inner out
        head_dim=hidden // heads if head_dim is None else int(head_dim),
        vocab=int(config.vocab_size),
        position=int(config.max_position_embeddings),
    )


def _dense(config: PreTrainedConfig) -> PreTrainedConfig:
    """The configuration itself, or of a mixture of experts that of the dense decoder made of it."""
    if is_mixture(config):
        _check_unquantised(config)
    return dense_config(config)


def _kind(config: PreTrainedConfig) -> Kind:
    kind = KINDS.get(config.model_type)
    if kind is None:
        raise BadModel(
            f"a {config.model_type} model cannot be pruned: limbeck prunes {', '.join(SUPPORTED)} models, and students of "
            f"mixtures of experts ({', '.join(sorted(DENSE))}), made dense before. "
            "It may be a teacher, which is checked when it is loaded: give a smaller model with its tokenizer as --student"
        )
    _check_unquantised(config)
    if getattr(config, "add_cross_attention", False) or getattr(config, "scale_attn_by_inverse_layer_idx", False):
        raise BadModel(
            f"a {config.model_type} model with add_cross_attention or scale_attn_by_inverse_layer_idx cannot be pruned: "
            "the first reads a second model, the second ties a layer to its number; give a model without them"
        )
    factors = (getattr(config, "rope_parameters", None) or {}).get("short_factor")
    if config.model_type == "phi3" and factors is not None:
        # Its configuration checks the length of these factors against hidden / heads, whatever head_dim says.
        return _with(kind, square=True)
    return kind_of(config.model_type, parallel=bool(getattr(config, "use_parallel_residual", False)))


def _check_unquantised(config: PreTrainedConfig) -> None:
    if getattr(config, "quantization_config", None) is not None:
        raise BadModel(
            f"a {config.model_type} model with quantised weights cannot be pruned: de-quantise it first (limbeck import MODEL "
            "--out FOLDER), or give the unquantised model. It may be a teacher as it is: give a smaller model with its tokenizer "
            "as --student"
        )


def kind_of(model_type: str, *, parallel: bool) -> Kind:
    """The kind of an architecture in `KINDS`; ``parallel``: attention and FFN of a layer have the same input."""
    kind = KINDS[model_type]
    # A norm of their own for both; GPT-NeoX has two all the same.
    return _with(kind, readers=("input_layernorm",)) if parallel and kind is _STABLELM else kind


def _with(kind: Kind, **changes: Any) -> Kind:
    return Kind(**{name: changes.get(name, getattr(kind, name)) for name in Kind.__dataclass_fields__})


_HIDDEN: Axes = ("hidden",)
_LLAMA = Kind(
    layers="model.layers",
    inside={
        "self_attn.q_proj.weight": ("heads", "hidden"),
        "self_attn.q_proj.bias": ("heads",),
        "self_attn.k_proj.weight": ("kv", "hidden"),
        "self_attn.k_proj.bias": ("kv",),
        "self_attn.v_proj.weight": ("kv", "hidden"),
        "self_attn.v_proj.bias": ("kv",),
        "self_attn.o_proj.weight": ("hidden", "heads"),
        "self_attn.o_proj.bias": _HIDDEN,
        "self_attn.q_norm.weight": ("head_dim",),
        "self_attn.k_norm.weight": ("head_dim",),
        "self_attn.qkv_proj.weight": ("q|k|v", "hidden"),
        "mlp.gate_proj.weight": ("ffn", "hidden"),
        "mlp.gate_proj.bias": ("ffn",),
        "mlp.up_proj.weight": ("ffn", "hidden"),
        "mlp.up_proj.bias": ("ffn",),
        "mlp.gate_up_proj.weight": ("gate|up", "hidden"),
        "mlp.down_proj.weight": ("hidden", "ffn"),
        "mlp.down_proj.bias": _HIDDEN,
        "input_layernorm.weight": _HIDDEN,
        "post_attention_layernorm.weight": _HIDDEN,
        "pre_feedforward_layernorm.weight": _HIDDEN,
        "post_feedforward_layernorm.weight": _HIDDEN,
        "post_self_attn_layernorm.weight": _HIDDEN,
        "post_mlp_layernorm.weight": _HIDDEN,
    },
    outside={
        "model.embed_tokens.weight": ("vocab", "hidden"),
        "model.norm.weight": _HIDDEN,
        HEAD: ("vocab", "hidden"),
    },
    attention_out="self_attn.o_proj",
    ffn_out="mlp.down_proj",
    readers=("input_layernorm", "post_attention_layernorm"),
    final_norm="model.norm",
    fields={
        "layers": "num_hidden_layers",
        "hidden": "hidden_size",
        "heads": "num_attention_heads",
        "kv_heads": "num_key_value_heads",
        "ffn": "intermediate_size",
    },
)
_GEMMA = _with(_LLAMA, scaled_embedding=True)
_GEMMA2 = _with(
    _GEMMA,
    readers=("input_layernorm", "pre_feedforward_layernorm"),
    divides=True,
)
_OLMO2 = _with(
    _LLAMA,
    inside={**_LLAMA.inside, "self_attn.q_norm.weight": ("heads",), "self_attn.k_norm.weight": ("kv",)},
    readers=("self_attn", "mlp"),
    unnormed=True,
)
_STABLELM = _with(
    _LLAMA,
    inside={**_LLAMA.inside, "input_layernorm.bias": _HIDDEN, "post_attention_layernorm.bias": _HIDDEN},
    outside={**_LLAMA.outside, "model.norm.bias": _HIDDEN},
    square=True,
)
_GPT2 = Kind(
    layers="transformer.h",
    inside={  # Conv1D keeps its weight as (inputs, outputs)
        "attn.c_attn.weight": ("hidden", "q|k|v"),
        "attn.c_attn.bias": ("q|k|v",),
        "attn.c_proj.weight": ("heads", "hidden"),
        "attn.c_proj.bias": _HIDDEN,
        "mlp.c_fc.weight": ("hidden", "ffn"),
        "mlp.c_fc.bias": ("ffn",),
        "mlp.c_proj.weight": ("ffn", "hidden"),
        "mlp.c_proj.bias": _HIDDEN,
        "ln_1.weight": _HIDDEN,
        "ln_1.bias": _HIDDEN,
        "ln_2.weight": _HIDDEN,
        "ln_2.bias": _HIDDEN,
    },
    outside={
        "transformer.wte.weight": ("vocab", "hidden"),
        "transformer.wpe.weight": ("position", "hidden"),
        "transformer.ln_f.weight": _HIDDEN,
        "transformer.ln_f.bias": _HIDDEN,
        HEAD: ("vocab", "hidden"),
    },
    attention_out="attn.c_proj",
    ffn_out="mlp.c_proj",
    readers=("ln_1", "ln_2"),
    final_norm="transformer.ln_f",
    fields={"layers": "n_layer", "hidden": "n_embd", "heads": "n_head", "ffn": "n_inner"},
    square=True,
    transposed=True,
)
_GPT_NEOX = Kind(
    layers="gpt_neox.layers",
    inside={
        "attention.query_key_value.weight": ("qkv per head", "hidden"),
        "attention.query_key_value.bias": ("qkv per head",),
        "attention.dense.weight": ("hidden", "heads"),
        "attention.dense.bias": _HIDDEN,
        "mlp.dense_h_to_4h.weight": ("ffn", "hidden"),
        "mlp.dense_h_to_4h.bias": ("ffn",),
        "mlp.dense_4h_to_h.weight": ("hidden", "ffn"),
        "mlp.dense_4h_to_h.bias": _HIDDEN,
        "input_layernorm.weight": _HIDDEN,
        "input_layernorm.bias": _HIDDEN,
        "post_attention_layernorm.weight": _HIDDEN,
        "post_attention_layernorm.bias": _HIDDEN,
    },
    outside={
        "gpt_neox.embed_in.weight": ("vocab", "hidden"),
        "gpt_neox.final_layer_norm.weight": _HIDDEN,
        "gpt_neox.final_layer_norm.bias": _HIDDEN,
        HEAD: ("vocab", "hidden"),
    },
    attention_out="attention.dense",
    ffn_out="mlp.dense_4h_to_h",
    readers=("input_layernorm", "post_attention_layernorm"),
    final_norm="gpt_neox.final_layer_norm",
    fields={
        "layers": "num_hidden_layers",
        "hidden": "hidden_size",
        "heads": "num_attention_heads",
        "ffn": "intermediate_size",
    },
    square=True,
)

KINDS: Mapping[str, Kind] = {
    "llama": _with(_LLAMA, divides=True),
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "phi3": _LLAMA,
    "gemma": _GEMMA,
    "gemma2": _GEMMA2,
    "gemma3_text": _GEMMA2,
    "gpt2": _GPT2,
    "gpt_neox": _GPT_NEOX,
    "olmo2": _OLMO2,
    "olmo3": _OLMO2,
    "smollm3": _LLAMA,
    "granite": _LLAMA,
    "glm4": _LLAMA,
    "stablelm": _STABLELM,
}
SUPPORTED = tuple(sorted(KINDS))
