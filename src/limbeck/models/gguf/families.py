"""The families of models that a GGUF file and Transformers both have: settings, tensor names and layouts, both ways.

One table serves import and export, so that each is the inverse of the other. A `Family` says which key of a file is which
setting of a configuration, what the architecture implies, and by which change of layout a tensor goes into a file. Tensor
names are those of the package `gguf`. Source: llama.cpp, conversion/*.py and src/llama-model.cpp, mid 2026.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float
from transformers.configuration_utils import PreTrainedConfig

from limbeck.errors import BadModel
from limbeck.models.gguf.container import Gguf, Keys
from limbeck.models.gguf.rope import FREQUENCIES, LONG, SHORT, read_rope, write_rope

Numbers = Float[np.ndarray, "..."]
ROTARY_TENSORS = (FREQUENCIES, LONG, SHORT)
_NEEDED = object()


@dataclass(frozen=True)
class Key:
    """A setting: its key in a file behind the architecture's name, its name in a configuration.

    ``default`` is what a file without the key means. ``off``: the number by which a file says None. ``real``: it is no whole
    number, whatever a configuration writes; llama.cpp refuses a file where it is stored as one.
    """

    stored: str
    named: str
    default: Any = _NEEDED
    off: Any = None
    real: bool = False

    def read(self, keys: Keys) -> Any:
        """The setting of a file. Raises BadModel where it must be there and is not."""
        found = keys.need(self.stored) if self.default is _NEEDED else keys.get(self.stored, self.default)
        return None if self.off is not None and found == self.off else found

    def write(self, config: PreTrainedConfig) -> Any:
        """What a file is to hold; None where it needs no such key."""
        found = getattr(config, self.named, None)
        found = self.off if found is None else found
        return float(found) if self.real and found is not None else found


@dataclass(frozen=True)
class Change:
    """A change of layout on the way into a file, and back, of the tensors whose names in Transformers end so."""

    ends: tuple[str, ...]
    write: Callable[[Numbers, PreTrainedConfig], Numbers]
    read: Callable[[Numbers, PreTrainedConfig], Numbers]


@dataclass(frozen=True)
class Family:
    """One architecture of a GGUF file.

    The first of ``model_types`` is what a file becomes; the others are written as the same. ``implied`` are settings that the
    architecture fixes: a configuration must have them to be written. ``complete`` adds settings that a file spreads over
    several keys, ``more`` writes them. ``refusal`` says why a configuration cannot be written, "" where it can. A missing
    tensor with a name of ``zeros`` means zeros.
    """

    architecture: str
    model_types: tuple[str, ...]
    keys: tuple[Key, ...]
    implied: Mapping[str, Any]
    changes: tuple[Change, ...] = ()
    rotary: bool = True
    complete: Callable[[Keys, dict[str, Any]], None] = lambda keys, settings: None
    more: Callable[[PreTrainedConfig], dict[str, Any]] = lambda config: {}
    refusal: Callable[[PreTrainedConfig], str] = lambda config: ""
    zeros: tuple[str, ...] = ()
    allowed: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    def settings(self, keys: Keys) -> dict[str, Any]:
        """The settings of a configuration, from those of a file. Raises BadModel where one is missing or cannot be kept."""
        found = {key.named: key.read(keys) for key in self.keys} | dict(self.implied)
        found["vocab_size"] = keys.file.rows
        self.complete(keys, found)
        if self.rotary and "rope_parameters" not in found:
            head = found.get("head_dim") or found["hidden_size"] // found["num_attention_heads"]
            found["rope_parameters"] = read_rope(keys, head_dim=head, context=found["max_position_embeddings"])
            if "original_max_position_embeddings" in found["rope_parameters"] and self.architecture == "phi3":
                found["original_max_position_embeddings"] = found["rope_parameters"]["original_max_position_embeddings"]
        keys.refuse_others()
        return found

    def stored(self, config: PreTrainedConfig) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """What a file holds besides weights: its keys, whole, and the tensors of rotary positions by name.

        Raises BadModel for a configuration that the format cannot hold.
        """
        self.require(config)
        keys = {key.stored: key.write(config) for key in self.keys} | self.more(config)
        tensors: dict[str, np.ndarray] = {}
        if self.rotary and "rope.freq_base" not in keys:
            rotary, tensors = write_rope(
                config.rope_parameters, head_dim=head_dim(config), context=config.max_position_embeddings
            )
            keys |= rotary
        return {f"{self.architecture}.{name}": value for name, value in keys.items() if value is not None}, tensors

    def require(self, config: PreTrainedConfig) -> None:
        """Raises BadModel for a configuration that a file of this architecture cannot hold."""
        for name, value in self.implied.items():
            found = getattr(config, name, value)
            if found != value and found not in self.allowed.get(name, ()):
                raise BadModel(
                    f"a {config.model_type} model with {name} = {found!r} has no place in a GGUF file of architecture "
                    f"{self.architecture}, which implies {value!r}; export another format"
                )
        if reason := self.refusal(config):
            raise BadModel(
                f"a {config.model_type} model {reason} has no place in a GGUF file of architecture {self.architecture}; export "
                "another format"
            )

    def write(self, name: str, values: Numbers, config: PreTrainedConfig) -> Numbers:
        """A tensor as a file holds it; ``name`` is that of Transformers."""
        for change in self.changes:
            values = change.write(values, config) if name.endswith(change.ends) else values
        return values

    def read(self, name: str, values: Numbers, config: PreTrainedConfig) -> Numbers:
        """A tensor as Transformers has it: the inverse of `write`."""
        for change in self.changes:
            values = change.read(values, config) if name.endswith(change.ends) else values
        return values

    def names(self, ours: Iterable[str], *, layers: int) -> dict[str, str]:
        """The name in a file of each tensor by its name in Transformers. Raises BadModel for one without."""
        from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

        architecture = next(key for key, name in MODEL_ARCH_NAMES.items() if name == self.architecture)
        table = get_tensor_name_map(architecture, layers)
        found = {}
        for name in ours:
            there = table.get_name(name, try_suffixes=(".weight", ".bias"))
            if there is None:
                raise BadModel(f"the tensor {name} has no name in a GGUF file of architecture {self.architecture}")
            found[name] = there
        return found


def head_dim(config: PreTrainedConfig) -> int:
    """Channels of an attention head."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _rotated(values: Numbers, heads: int) -> Numbers:
    """Rows of queries or keys from halves (Transformers) to neighbours (llama.cpp), head by head."""
    return values.reshape(heads, 2, -1, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)


def _rotated_back(values: Numbers, heads: int) -> Numbers:
    return values.reshape(heads, -1, 2, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)


_QUERIES, _KEYS = ("q_proj.weight", "q_proj.bias"), ("k_proj.weight", "k_proj.bias")
_NEIGHBOURS = (
    Change(
        _QUERIES,
        lambda values, config: _rotated(values, config.num_attention_heads),
        lambda values, config: _rotated_back(values, config.num_attention_heads),
    ),
    Change(
        _KEYS,
        lambda values, config: _rotated(values, config.num_key_value_heads),
        lambda values, config: _rotated_back(values, config.num_key_value_heads),
    ),
)
_PLUS_ONE = Change(("norm.weight",), lambda values, config: values + 1, lambda values, config: values - 1)
_TRANSPOSED = Change(
    ("c_attn.weight", "c_proj.weight", "c_fc.weight"),
    lambda values, config: values.T,
    lambda values, config: values.T,
)


def _grouped(values: Numbers, config: PreTrainedConfig) -> Numbers:
    """Rows of a fused projection from (head, 3) to (3, head)."""
    rows = values.reshape(config.num_attention_heads, 3, -1, *values.shape[1:])
    return rows.swapaxes(0, 1).reshape(values.shape)


def _ungrouped(values: Numbers, config: PreTrainedConfig) -> Numbers:
    rows = values.reshape(3, config.num_attention_heads, -1, *values.shape[1:])
    return rows.swapaxes(0, 1).reshape(values.shape)


_FUSED = Change(("query_key_value.weight", "query_key_value.bias"), _grouped, _ungrouped)

_SIZES = (
    Key("block_count", "num_hidden_layers"),
    Key("context_length", "max_position_embeddings"),
    Key("embedding_length", "hidden_size"),
    Key("feed_forward_length", "intermediate_size"),
    Key("attention.head_count", "num_attention_heads"),
)
_RMS = (*_SIZES, Key("attention.layer_norm_rms_epsilon", "rms_norm_eps", real=True))
_WINDOW = Key("attention.sliding_window", "sliding_window", None, off=0)


def _heads(keys: Keys, settings: dict[str, Any]) -> None:
    """Key-value heads and channels of a head, each with what a file without the key means."""
    heads = settings["num_attention_heads"]
    settings["num_key_value_heads"] = keys.get("attention.head_count_kv", heads)
    usual = settings["hidden_size"] // heads
    size, values = keys.get("attention.key_length", usual), keys.get("attention.value_length", usual)
    if size != values:
        raise BadModel(
            f"{keys.file.path}: keys of {size} channels a head and values of {values}: Transformers has one number; give the "
            "original model's folder"
        )
    if size != usual or keys.file.architecture in _STATED:
        settings["head_dim"] = size


_STATED = (
    "llama",
    "qwen3",
    "gemma",
    "gemma2",
    "gemma3",
    "glm4",
)  # of which a configuration always states the channels of a head


def _more_heads(config: PreTrainedConfig) -> dict[str, Any]:
    size = head_dim(config)
    found = {"attention.head_count_kv": config.num_key_value_heads}
    same = size * config.num_attention_heads == config.hidden_size
    return found if same else found | {"attention.key_length": size, "attention.value_length": size}


def _whole_rotation(keys: Keys, settings: dict[str, Any]) -> None:
    """Raises BadModel where only a part of a head rotates: rows that were moved for that cannot be moved back."""
    head = settings.get("head_dim") or settings["hidden_size"] // settings["num_attention_heads"]
    if keys.get("rope.dimension_count", head) != head:
        raise BadModel(
            f"{keys.file.path}: rope.dimension_count {keys.get('rope.dimension_count')} of {head} channels a head, which no "
            f"{keys.file.architecture} model of Transformers has; give the original model's folder"
        )


def _llama(keys: Keys, settings: dict[str, Any]) -> None:
    _heads(keys, settings)
    _whole_rotation(keys, settings)
    names = keys.file.tensors.keys()
    settings["attention_bias"] = any(
        name.startswith("blk.") and ".attn_" in name and name.endswith(".bias") for name in names
    )
    settings["mlp_bias"] = any(name.startswith("blk.") and ".ffn_" in name and name.endswith(".bias") for name in names)


def _no_window(config: PreTrainedConfig) -> str:
    """A window shorter than the context; the architecture has none."""
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    short = window is not None and window < config.max_position_embeddings
    return f"with a sliding window of {window} tokens" if short else ""


def _gemma2(keys: Keys, settings: dict[str, Any]) -> None:
    _heads(keys, settings)
    settings["query_pre_attn_scalar"] = _attention_scale(settings, _LARGEST_GEMMA2)


def _gemma3(keys: Keys, settings: dict[str, Any]) -> None:
    _heads(keys, settings)
    settings["query_pre_attn_scalar"] = _attention_scale(settings, _LARGEST_GEMMA3)
    of_all = read_rope(keys, head_dim=settings["head_dim"], context=settings["max_position_embeddings"])
    near = {"rope_type": "default", "rope_theta": float(keys.get("rope.freq_base_swa", 10_000.0))}
    settings["rope_parameters"] = {"full_attention": of_all, "sliding_attention": near}


# llama.cpp knows the largest model by its number of layers, and scales attention there by the width over the heads.
_LARGEST_GEMMA2, _LARGEST_GEMMA3 = 46, 62


def _attention_scale(settings: Mapping[str, Any], largest: int) -> int:
    if settings["num_hidden_layers"] == largest:
        return int(settings["hidden_size"] // settings["num_attention_heads"])
    return int(settings["head_dim"])


def _gemma_refusal(period: int, largest: int) -> Callable[[PreTrainedConfig], str]:
    """Why a Gemma cannot be written: the file has no key for the scale of attention, nor for which layers see a window."""

    def refusal(config: PreTrainedConfig) -> str:
        sizes = {name: getattr(config, name) for name in ("num_hidden_layers", "hidden_size", "num_attention_heads")}
        scale = _attention_scale(sizes | {"head_dim": head_dim(config)}, largest)
        if config.query_pre_attn_scalar != scale:
            return f"whose query_pre_attn_scalar is {config.query_pre_attn_scalar}, not {scale} as of so many layers,"
        usual = [
            "full_attention" if (i + 1) % period == 0 else "sliding_attention" for i in range(config.num_hidden_layers)
        ]
        if list(config.layer_types) != usual:
            return f"whose layers do not alternate with a period of {period} between sliding and full attention"
        return (
            "" if getattr(config, "use_bidirectional_attention", None) in (None, False) else "with attention both ways"
        )

    return refusal


def _gemma2_refusal(config: PreTrainedConfig) -> str:
    """The same of Gemma 2, whose logits llama.cpp always caps."""
    if not (config.attn_logit_softcapping and config.final_logit_softcapping):
        return "without soft caps of attention and logits, which llama.cpp always applies to this architecture,"
    return _gemma_refusal(2, _LARGEST_GEMMA2)(config)


def _gemma3_more(config: PreTrainedConfig) -> dict[str, Any]:
    of_all, near = config.rope_parameters["full_attention"], config.rope_parameters["sliding_attention"]
    keys, tensors = write_rope(of_all, head_dim=head_dim(config), context=config.max_position_embeddings)
    if tensors or near.get("rope_type", "default") != "default":
        raise BadModel("rotary positions of this kind have no place in a GGUF file of gemma3; export another format")
    return _more_heads(config) | keys | {"rope.freq_base_swa": float(near["rope_theta"])}


def _gpt2_more(config: PreTrainedConfig) -> dict[str, Any]:
    return {
        "feed_forward_length": config.n_inner or 4 * config.hidden_size,
        "attention.head_count_kv": config.num_attention_heads,
    }


def _gpt2(keys: Keys, settings: dict[str, Any]) -> None:
    settings["n_inner"] = keys.need("feed_forward_length")
    keys.get("attention.head_count_kv")
    keys.get("rope.dimension_count")  # which converters write and nothing reads


def _neox(keys: Keys, settings: dict[str, Any]) -> None:
    keys.get("attention.head_count_kv")
    settings["use_parallel_residual"] = bool(keys.get("use_parallel_residual", True))


def _smollm3(keys: Keys, settings: dict[str, Any]) -> None:
    _heads(keys, settings)
    _whole_rotation(keys, settings)


def _smollm3_refusal(config: PreTrainedConfig) -> str:
    usual = [int((layer + 1) % 4 != 0) for layer in range(config.num_hidden_layers)]
    return "" if list(config.no_rope_layers) == usual else "in which not every fourth layer is without positions"


def _stablelm(keys: Keys, settings: dict[str, Any]) -> None:
    _heads(keys, settings)
    settings["use_qkv_bias"] = "blk.0.attn_q.bias" in keys.file.tensors
    # The file has no norm of the FFN's input where attention and FFN have one input, whatever its key says.
    keys.get("use_parallel_residual")
    settings["use_parallel_residual"] = "blk.0.ffn_norm.weight" not in keys.file.tensors


def _granite(keys: Keys, settings: dict[str, Any]) -> None:
    _heads(keys, settings)
    _whole_rotation(keys, settings)


_ALL = (
    Family(
        "llama",
        ("llama", "mistral"),
        _RMS,
        {"hidden_act": "silu"},
        _NEIGHBOURS,
        complete=_llama,
        more=_more_heads,
        refusal=_no_window,
        zeros=("_proj.bias",),
    ),
    Family(
        "qwen2",
        ("qwen2",),
        _RMS,
        {"hidden_act": "silu", "use_sliding_window": False},
        complete=_heads,
        more=_more_heads,
        refusal=_no_window,
        allowed={"use_sliding_window": (True,)},  # refused where a window is short
    ),
    Family(
        "qwen3",
        ("qwen3",),
        _RMS,
        {"hidden_act": "silu", "use_sliding_window": False, "attention_bias": False},
        complete=_heads,
        more=_more_heads,
        refusal=_no_window,
        allowed={"use_sliding_window": (True,)},
    ),
    Family(
        "gemma",
        ("gemma",),
        _RMS,
        {"hidden_act": "gelu_pytorch_tanh", "attention_bias": False},
        (_PLUS_ONE,),
        complete=_heads,
        more=_more_heads,
        allowed={"hidden_act": ("gelu_new",)},
    ),
    Family(
        "gemma2",
        ("gemma2",),
        (
            *_RMS,
            Key("attention.sliding_window", "sliding_window", 4096),
            Key("attn_logit_softcapping", "attn_logit_softcapping", 50.0, off=0, real=True),
            Key("final_logit_softcapping", "final_logit_softcapping", 30.0, off=0, real=True),
        ),
        {"hidden_activation": "gelu_pytorch_tanh", "attention_bias": False},
        (_PLUS_ONE,),
        complete=_gemma2,
        more=_more_heads,
        refusal=_gemma2_refusal,
    ),
    Family(
        "gemma3",
        ("gemma3_text",),
        (
            *_RMS,
            Key("attention.sliding_window", "sliding_window"),
            Key("final_logit_softcapping", "final_logit_softcapping", None, real=True),
        ),
        {"hidden_activation": "gelu_pytorch_tanh", "attention_bias": False, "attn_logit_softcapping": None},
        (_PLUS_ONE,),
        complete=_gemma3,
        more=_gemma3_more,
        refusal=_gemma_refusal(6, _LARGEST_GEMMA3),
    ),
    Family(
        "phi3",
        ("phi3",),
        (*_RMS, _WINDOW),
        {"hidden_act": "silu"},
        complete=_heads,
        more=_more_heads,
    ),
    Family(
        "gpt2",
        ("gpt2",),
        (
            *(key for key in _SIZES if key.stored != "feed_forward_length"),
            Key("attention.layer_norm_epsilon", "layer_norm_epsilon", real=True),
        ),
        {
            "activation_function": "gelu_new",
            "scale_attn_weights": True,
            "scale_attn_by_inverse_layer_idx": False,
            "add_cross_attention": False,
        },
        (_TRANSPOSED,),
        rotary=False,
        complete=_gpt2,
        more=_gpt2_more,
    ),
    Family(
        "gptneox",
        ("gpt_neox",),
        (*_SIZES, Key("attention.layer_norm_epsilon", "layer_norm_eps", real=True)),
        {"hidden_act": "gelu", "attention_bias": True},
        (_FUSED,),
        complete=_neox,
        more=lambda config: {"use_parallel_residual": bool(config.use_parallel_residual)},
    ),
    Family(
        "olmo2",
        ("olmo2",),
        _RMS,
        {"hidden_act": "silu", "attention_bias": False},
        complete=_heads,
        more=_more_heads,
    ),
    Family(
        "smollm3",
        ("smollm3",),
        _RMS,
        {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "use_sliding_window": False},
        _NEIGHBOURS,
        complete=_smollm3,
        more=_more_heads,
        refusal=_smollm3_refusal,
    ),
    Family(
        "granite",
        ("granite",),
        (
            *_RMS,
            Key("attention.scale", "attention_multiplier", real=True),
            Key("embedding_scale", "embedding_multiplier", real=True),
            Key("residual_scale", "residual_multiplier", real=True),
            Key("logit_scale", "logits_scaling", real=True),
        ),
        {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False},
        _NEIGHBOURS,
        complete=_granite,
        more=_more_heads,
    ),
    Family(
        "glm4",
        ("glm4",),
        _RMS,
        {"hidden_act": "silu", "attention_bias": True},
        complete=_heads,
        more=_more_heads,
    ),
    Family(
        "stablelm",
        ("stablelm",),
        (*_SIZES, Key("attention.layer_norm_epsilon", "layer_norm_eps", real=True)),
        {"hidden_act": "silu", "qk_layernorm": False},
        complete=_stablelm,
        more=lambda config: _more_heads(config) | {"use_parallel_residual": bool(config.use_parallel_residual)},
    ),
)
FAMILIES: Mapping[str, Family] = {family.architecture: family for family in _ALL}
_BY_MODEL_TYPE = {name: family for family in _ALL for name in family.model_types}
GGUF_MODEL_TYPES = tuple(sorted(_BY_MODEL_TYPE))


def family_of(config: PreTrainedConfig) -> Family:
    """The family that a configuration is written as. Raises BadModel where there is none, or the format cannot hold it."""
    family = _BY_MODEL_TYPE.get(config.model_type)
    if family is None:
        raise BadModel(
            f"a {config.model_type} model has no place in a GGUF file that limbeck writes; there are "
            f"{', '.join(GGUF_MODEL_TYPES)}; export another format"
        )
    family.require(config)
    return family


def read_settings(file: Gguf) -> dict[str, Any]:
    """The settings of a configuration with ``model_type``, from a file of one of `FAMILIES`.

    Raises BadModel where a setting is missing, or has no place in Transformers.
    """
    family = FAMILIES[file.architecture]
    found = family.settings(Keys(file))
    return {"model_type": family.model_types[0], **found}
