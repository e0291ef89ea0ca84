"""Mixtures of experts that become dense students: the configuration of the dense decoder that stands for one.

Each FFN of a mixture becomes one as wide as the experts that a token is routed to, together with the shared expert. It is thus a
decoder of the dense family, whose anatomy counts and prunes students. `students.dense` fills it with weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from limbeck.errors import BadModel

if TYPE_CHECKING:  # seconds to load, for the name of a type
    from transformers.configuration_utils import PreTrainedConfig

DENSE = {"mixtral": "mistral", "qwen2_moe": "qwen2", "qwen3_moe": "qwen3"}  # model type → that of the dense family


def is_mixture(config: PreTrainedConfig) -> bool:
    """Whether a model is a mixture of experts that becomes a dense student."""
    return config.model_type in DENSE


def expert_width(config: PreTrainedConfig) -> int:
    """FFN neurons of one routed expert."""
    return int(getattr(config, "moe_intermediate_size", None) or config.intermediate_size)


def shared_width(config: PreTrainedConfig) -> int:
    """FFN neurons of the expert that every token has; 0 where there is none."""
    return int(getattr(config, "shared_expert_intermediate_size", None) or 0)


def expert_count(config: PreTrainedConfig) -> int:
    """Routed experts of a layer."""
    return int(getattr(config, "num_experts", None) or config.num_local_experts)


def normalises(config: PreTrainedConfig) -> bool:
    """Whether the routing weights of a token's experts are divided by their sum."""
    return config.model_type == "mixtral" or bool(config.norm_topk_prob)


def is_sparse(config: PreTrainedConfig, layer: int) -> bool:
    """Whether a layer's FFN is a mixture of experts."""
    every = int(getattr(config, "decoder_sparse_step", 1))
    return layer not in (getattr(config, "mlp_only_layers", None) or ()) and (layer + 1) % every == 0


def dense_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """The configuration of the dense decoder that stands for a mixture of experts; of another model its own.

    Its FFNs have the neurons of as many experts as a token is routed to, then those of the shared expert. Raises BadModel where
    the dense family has no place for the mixture.
    """
    if not is_mixture(config):
        return config
    from transformers import AutoConfig

    width = int(config.num_experts_per_tok) * expert_width(config) + shared_width(config)
    _check(config, width)
    family = type(AutoConfig.for_model(DENSE[config.model_type]))
    known = family().to_dict().keys() | {"head_dim", "torch_dtype", "dtype"}
    written: dict[str, Any] = {key: value for key, value in config.to_dict().items() if key in known}
    written |= {"model_type": family.model_type, "intermediate_size": width, "architectures": None}
    if config.model_type == "qwen3_moe":  # whose layers all have the window, or none has
        kind = "full_attention" if config.sliding_window is None else "sliding_attention"
        written |= {"layer_types": [kind] * config.num_hidden_layers}
    return family.from_dict(written)


def _check(config: PreTrainedConfig, width: int) -> None:
    """Raises BadModel for dense layers of another width, and for queries without the biases that the dense family has."""
    dense = [layer for layer in range(config.num_hidden_layers) if not is_sparse(config, layer)]
    if dense and config.intermediate_size != width:
        raise BadModel(
            f"a {config.model_type} model whose layer {dense[0]} is dense with {config.intermediate_size} FFN neurons, beside "
            f"experts of {width} for a token, cannot become a dense model of one width; it may be a teacher, with a --student"
        )
    if not getattr(config, "qkv_bias", True):
        raise BadModel(
            f"a {config.model_type} model without biases of queries and keys has no place among {DENSE[config.model_type]} "
            "models; it may be a teacher, with a --student"
        )
