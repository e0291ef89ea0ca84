"""The anatomy that a config.json declares, read without torch or Transformers, which take seconds to load.

A configuration leaves most settings to the defaults of its class in Transformers. Only defaults that have never changed are
filled in here. A file that lacks another setting, or has an unknown key (custom code, quantised weights, a nested configuration,
something new), gives None; then `Anatomy.of` builds a layer instead. Tests compare both. Tensors and defaults are those of
transformers/models/*/{configuration,modeling}_*.py, v5.23.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from limbeck.errors import BadModel
from limbeck.models.anatomy import HEAD, KINDS, Anatomy, Kind, Sizes, kind_of
from limbeck.models.bounds import check_config
from limbeck.models.tied import has_own_head


def read_anatomy(file: Path) -> Anatomy | None:
    """The anatomy that a config.json declares; None where it cannot be read or is incomplete.

    Where the weights beside it contain a separate head, the head is not tied, whatever the file declares.
    """
    try:
        config = check_config(file)
    except BadModel:  # loading the model reports the fault
        return None
    return declared(config | {"tie_word_embeddings": False} if has_own_head(file.parent) else config)


def declared(config: Mapping[str, Any]) -> Anatomy | None:
    """The anatomy that the keys of a config.json declare, None where they are incomplete."""
    name = config.get("model_type")
    family = _FAMILIES.get(name) if isinstance(name, str) else None
    if family is None:
        return None
    kind = kind_of(str(name), parallel=bool(config.get("use_parallel_residual", False)))
    if _unusual(config, kind, family):
        return None
    sizes = _sizes(config, kind, family)
    tied = config.get("tie_word_embeddings", family.tied)
    chosen = {key: config.get(key, flag.silence) for key, flag in family.flags.items()}
    if sizes is None or not all(isinstance(value, bool) for value in (tied, *chosen.values())):
        return None
    added = [name for key, on in chosen.items() if on for name in family.flags[key].tensors]
    without = {name for key, on in chosen.items() if on for name in family.flags[key].removed}
    names = [name for name in (*family.tensors, *added) if name not in without]
    outside = {name: axes for name, axes in kind.outside.items() if not (tied and name == HEAD)}
    return Anatomy(kind, sizes, outside, {name: kind.inside[name] for name in names}, tied)


@dataclass(frozen=True)
class _Flag:
    """A boolean key: its default, and the tensors of a layer that it adds and removes."""

    silence: bool
    tensors: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Family:
    """The meaning of the keys of one architecture in Transformers.

    ``silent`` axes may be missing and ``null`` axes may be null, because they follow from others. ``needs`` are further keys
    without a safe default.
    """

    architecture: str
    tensors: tuple[str, ...]  # of a layer, always there
    flags: Mapping[str, _Flag] = field(default_factory=dict)
    tied: bool = False  # the default
    silent: frozenset[str] = frozenset()
    null: frozenset[str] = frozenset()
    needs: tuple[str, ...] = ()
    position: str = "max_position_embeddings"


_PROJECTIONS = tuple(f"self_attn.{part}_proj.weight" for part in "qkvo")
_BIASES = tuple(f"self_attn.{part}_proj.bias" for part in "qkvo")
_HEAD_NORMS = ("self_attn.q_norm.weight", "self_attn.k_norm.weight")
_FFN = tuple(f"mlp.{part}_proj.weight" for part in ("gate", "up", "down"))
_FFN_BIASES = tuple(f"mlp.{part}_proj.bias" for part in ("gate", "up", "down"))
_NORMS = ("input_layernorm.weight", "post_attention_layernorm.weight")
_FFN_NORMS = ("pre_feedforward_layernorm.weight", "post_feedforward_layernorm.weight")
_BLOCK = (*_PROJECTIONS, *_FFN, *_NORMS)
_BIASED = {"attention_bias": _Flag(False, _BIASES)}
_HEADS = frozenset({"kv_heads", "head_dim"})
_KV_HEADS = frozenset({"kv_heads"})
_OLMO2 = (*_PROJECTIONS, *_FFN, *_HEAD_NORMS, _NORMS[1], _FFN_NORMS[1])
_GLM4_NORMS = ("post_self_attn_layernorm.weight", "post_mlp_layernorm.weight")
_NORM_BIAS = "post_attention_layernorm.bias"
_NEOX_BIASES = ("attention.query_key_value.bias", "attention.dense.bias")

_FAMILIES: Mapping[str, _Family] = {
    "llama": _Family(
        "LlamaForCausalLM",
        _BLOCK,
        flags={**_BIASED, "mlp_bias": _Flag(False, _FFN_BIASES)},
        silent=_HEADS,
        null=_HEADS,
    ),
    "mistral": _Family("MistralForCausalLM", _BLOCK, silent=frozenset({"head_dim"}), null=frozenset({"head_dim"})),
    "qwen2": _Family(
        "Qwen2ForCausalLM",
        (*_BLOCK, *_BIASES[:3]),  # none at the output
        silent=frozenset({"head_dim"}),
        null=frozenset({"kv_heads"}),
    ),
    "qwen3": _Family("Qwen3ForCausalLM", (*_BLOCK, *_HEAD_NORMS), flags=_BIASED, null=frozenset({"kv_heads"})),
    "phi3": _Family(
        "Phi3ForCausalLM",
        ("self_attn.qkv_proj.weight", "self_attn.o_proj.weight", "mlp.gate_up_proj.weight", _FFN[2], *_NORMS),
        silent=_HEADS,
        null=frozenset({"kv_heads"}),
        needs=("pad_token_id",),  # 32000 where nothing is said, which a small vocabulary does not have
    ),
    "gemma": _Family("GemmaForCausalLM", _BLOCK, flags=_BIASED, tied=True),
    "gemma2": _Family("Gemma2ForCausalLM", (*_BLOCK, *_FFN_NORMS), flags=_BIASED, tied=True),
    "gemma3_text": _Family("Gemma3ForCausalLM", (*_BLOCK, *_FFN_NORMS, *_HEAD_NORMS), flags=_BIASED, tied=True),
    "olmo2": _Family("Olmo2ForCausalLM", _OLMO2, flags=_BIASED, silent=_HEADS, null=_KV_HEADS),
    "olmo3": _Family("Olmo3ForCausalLM", _OLMO2, flags=_BIASED, silent=_HEADS, null=_KV_HEADS),
    "smollm3": _Family(
        "SmolLM3ForCausalLM",
        _BLOCK,
        flags={**_BIASED, "mlp_bias": _Flag(False, _FFN_BIASES)},
        tied=True,
        silent=frozenset({"head_dim"}),
        null=_KV_HEADS,
        needs=("pad_token_id",),
    ),
    "granite": _Family(
        "GraniteForCausalLM",
        _BLOCK,
        flags={**_BIASED, "mlp_bias": _Flag(False, _FFN_BIASES)},
        silent=_HEADS,
        null=_KV_HEADS,
    ),
    "glm4": _Family(
        "Glm4ForCausalLM",
        (*_PROJECTIONS, "mlp.gate_up_proj.weight", _FFN[2], *_NORMS, *_GLM4_NORMS),
        flags={"attention_bias": _Flag(True, _BIASES[:3])},
        needs=("pad_token_id",),
    ),
    "stablelm": _Family(
        "StableLmForCausalLM",
        (*_BLOCK, "input_layernorm.bias", _NORM_BIAS),
        flags={
            "use_qkv_bias": _Flag(False, _BIASES[:3]),
            "use_parallel_residual": _Flag(False, removed=(_NORMS[1], _NORM_BIAS)),
        },
    ),
    "gpt2": _Family(
        "GPT2LMHeadModel",
        tuple(KINDS["gpt2"].inside),
        tied=True,
        silent=frozenset({"ffn"}),
        null=frozenset({"ffn"}),
        position="n_positions",
    ),
    "gpt_neox": _Family(
        "GPTNeoXForCausalLM",
        tuple(name for name in KINDS["gpt_neox"].inside if name not in _NEOX_BIASES),
        flags={"attention_bias": _Flag(True, _NEOX_BIASES)},
    ),
}

# Keys that change no tensor's shape in any of these families. A key in neither list gives None.
_NEUTRAL = frozenset(
    """
    model_type architectures transformers_version torch_dtype dtype _name_or_path use_cache cache_implementation
    bos_token_id eos_token_id pad_token_id id2label label2id _num_labels task_specific_params
    initializer_range rms_norm_eps layer_norm_eps layer_norm_epsilon
    hidden_act hidden_activation activation_function
    attention_dropout hidden_dropout classifier_dropout attn_pdrop embd_pdrop resid_pdrop
    rope_theta rope_scaling rope_parameters rope_local_base_freq rope_interleaved partial_rotary_factor
    rotary_pct rotary_emb_base original_max_position_embeddings
    sliding_window use_sliding_window max_window_layers layer_types sliding_window_pattern _sliding_window_pattern
    sliding_window_size query_pre_attn_scalar final_logit_softcapping attn_logit_softcapping
    pretraining_tp is_llama_config transformers.js_config n_ctx
    is_decoder use_parallel_residual scale_attn_weights reorder_and_upcast_attn
    no_rope_layers no_rope_layer_interval
    embedding_multiplier logits_scaling residual_multiplier attention_multiplier
    summary_activation summary_first_dropout summary_proj_to_labels summary_type summary_use_proj
    """.split()  # noqa: SIM905 (as a list it would be sixty lines)
)
# Keys that change nothing while they are false or null.
_OFF = frozenset(
    {
        "add_cross_attention",
        "qk_layernorm",
        "scale_attn_by_inverse_layer_idx",
        "use_bidirectional_attention",
        "use_mrope",
    }
)
# The settings of each kind of rotary embedding. Other kinds (Phi-3's factors per channel) tie sizes together.
_ROPE: Mapping[str, frozenset[str]] = {
    "default": frozenset(),
    "linear": frozenset({"factor"}),
    "dynamic": frozenset({"factor"}),
    "yarn": frozenset({"factor", "original_max_position_embeddings"}),
    "llama3": frozenset({"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}),
}


def _unusual(config: Mapping[str, Any], kind: Kind, family: _Family) -> bool:
    """Whether a configuration has keys or values that this file does not cover."""
    lengths = {*_keys(kind, family).values(), *family.flags, "tie_word_embeddings"}
    known = lengths | _NEUTRAL | {key for key in _OFF if not config.get(key)}
    pad, types = config.get("pad_token_id"), config.get("layer_types")
    return not (
        config.keys() <= known
        and all(key in config for key in family.needs)
        and config.get("architectures") in (None, [], [family.architecture])
        and (pad is None or (_is_length(config.get("vocab_size")) and pad in range(config["vocab_size"])))
        and (types is None or _are_types(types, config.get(kind.fields["layers"])))
        and all(_is_rope(config.get(key)) for key in ("rope_scaling", "rope_parameters"))
    )


def _keys(kind: Kind, family: _Family) -> dict[str, str]:
    """Axis → key of config.json."""
    keys = {**kind.fields, "vocab": "vocab_size", "position": family.position}
    return keys if kind.square else keys | {"head_dim": "head_dim"}


def _is_length(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _are_types(types: Any, layers: Any) -> bool:
    return isinstance(types, list) and len(types) == layers and all(t in _LAYER_TYPES for t in types)


_LAYER_TYPES = ("full_attention", "sliding_attention")


def _is_rope(rope: Any) -> bool:
    if rope is None:
        return True
    if not isinstance(rope, dict):
        return False
    if rope and rope.keys() <= set(_LAYER_TYPES):  # Gemma 3 has one for each type of layer
        return all(_is_rope(inner) for inner in rope.values())
    needed = _ROPE.get(str(rope.get("rope_type", rope.get("type", "default"))))
    return needed is not None and needed <= rope.keys()


def _sizes(config: Mapping[str, Any], kind: Kind, family: _Family) -> Sizes | None:
    """The lengths of the axes; None where one is missing that does not follow from others, or they are inconsistent."""
    found: dict[str, int] = {}
    for axis, key in _keys(kind, family).items():
        value: Any = config.get(key)
        if _is_length(value):
            found[axis] = value
        elif value is not None or axis not in (family.null if key in config else family.silent):
            return None
    hidden, heads = found["hidden"], found["heads"]
    follow = {"kv_heads": heads, "head_dim": hidden // heads, "ffn": 4 * hidden}
    sizes = Sizes(**(follow | found))
    return None if hidden % heads or heads % sizes.kv_heads else sizes
