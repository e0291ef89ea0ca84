"""Converts a Llama-like teacher to a student whose layers have cheaper sequence mixers than softmax attention.

The student is limbeck's own decoder (`models.decoder`) with the teacher's weights. A layer with another mixer is initialised from
attention's queries, keys, values and output map, as far as the mixer has a place for them. With attention everywhere the logits
are the teacher's. Linear attention initialised from softmax attention is due to Kasai et al., arXiv 2103.13076, sec. 3; a state
space from the same maps to Wang et al., arXiv 2408.15237, sec. 2.2. Training follows in `run.match`, and then distillation.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers.configuration_utils import PreTrainedConfig

from limbeck.errors import BadModel, BadShape
from limbeck.models.anatomy import Anatomy
from limbeck.models.build import build
from limbeck.models.decoder import LimbeckConfig, LimbeckForCausalLM, LimbeckLayer
from limbeck.models.language_model import LanguageModel
from limbeck.models.mixers.attention import Attention
from limbeck.models.mixers.deltanet import DeltaNet, GatedDeltaNet
from limbeck.models.mixers.gla import GatedLinearAttention
from limbeck.models.mixers.linear import Based, LinearAttention
from limbeck.models.mixers.mixer import Mixer
from limbeck.models.mixers.named import MIXERS
from limbeck.models.mixers.pattern import parse
from limbeck.models.mixers.retnet import Retention
from limbeck.models.stored import StoredModel
from limbeck.models.trim.model import lineage_of_vocabulary
from limbeck.students.shape import Shape, parameters
from limbeck.students.shape import choose as choose_pruned
from limbeck.students.shape import config_of as pruned_config

_FAMILIES = ("llama", "mistral")
_TENSORS = {  # tensors of a layer, and their names in limbeck's decoder
    "input_layernorm.weight": "mixer_norm.weight",
    "post_attention_layernorm.weight": "mlp_norm.weight",
    "mlp.gate_proj.weight": "mlp.gate_proj.weight",
    "mlp.up_proj.weight": "mlp.up_proj.weight",
    "mlp.down_proj.weight": "mlp.down_proj.weight",
    "self_attn.q_proj.weight": "mixer.q_proj.weight",
    "self_attn.k_proj.weight": "mixer.k_proj.weight",
    "self_attn.v_proj.weight": "mixer.v_proj.weight",
    "self_attn.o_proj.weight": "mixer.o_proj.weight",
}


@dataclass(frozen=True)
class Maps:
    """The linear maps of an attention layer by head. Keys and values are repeated for each query head of their group."""

    q: Float[Tensor, "H K D"]
    k: Float[Tensor, "H K D"]
    v: Float[Tensor, "H K D"]
    o: Float[Tensor, "H D K"]

    @classmethod
    def of(cls, attention: Attention) -> Maps:
        """The maps of limbeck's own attention."""
        heads, groups = attention.dims.heads, attention.dims.kv_heads
        q, k, v = (getattr(attention, f"{name}_proj").weight.detach() for name in "qkv")
        k, v = (part.unflatten(0, (groups, -1)).repeat_interleave(heads // groups, 0) for part in (k, v))
        o = attention.o_proj.weight.detach().unflatten(1, (heads, -1)).transpose(0, 1)
        return cls(q.unflatten(0, (heads, -1)), k, v, o)


@torch.no_grad()
def convert(
    teacher: LanguageModel | StoredModel, mixers: Sequence[str], *, device: torch.device | None = None
) -> LanguageModel:
    """A trainable student with these mixers, one a layer, on a ``device``: the teacher's. The teacher is not changed.

    Of a teacher on disk one tensor is read at a time, and the student is the same, in the format that the teacher computes in.

    Its ``lineage`` describes for each layer what was copied from the teacher's attention, and what was initialised from the
    current random state. Raises BadModel for a teacher that cannot be converted, and for a mixer that cannot be initialised from
    attention.
    """
    about = teacher.about if isinstance(teacher, StoredModel) else teacher
    config, dtype = config_of(about.config, mixers), about.model.dtype
    device = device or (torch.device("cpu") if isinstance(teacher, StoredModel) else teacher.device)
    model = build(config, dtype=dtype).to(device)
    assert isinstance(model, LimbeckForCausalLM)
    theirs = _tensors_of(teacher)
    _copy(model.model.embed_tokens.weight, theirs("model.embed_tokens.weight"))
    _copy(model.model.norm.weight, theirs("model.norm.weight"))
    if not config.tie_word_embeddings:
        _copy(model.lm_head.weight, theirs("lm_head.weight"))
    converted = []
    for number, (layer, name) in enumerate(zip(model.model.layers, mixers, strict=True)):
        attention = Attention(config.dims(number), rope=True).to(device, dtype)
        ours = dict(layer.named_parameters()) | {f"mixer.{n}": p for n, p in attention.named_parameters()}
        for tensor, place in _TENSORS.items():
            _copy(ours[place], theirs(f"model.layers.{number}.{tensor}"))
        assert isinstance(layer, LimbeckLayer)
        copied, initialised = initialise(layer.mixer, attention)
        converted.append({"mixer": name, "taken": copied, "fresh": initialised})
    model.generation_config = copy.deepcopy(about.model.generation_config)
    lineage = {"teacher": about.name, "mixers": list(mixers), "converted": converted} | lineage_of_vocabulary(about)
    return LanguageModel(model.requires_grad_(True).train(), about.tokenizer, f"{about.name}-converted", lineage)


def _tensors_of(teacher: LanguageModel | StoredModel) -> Callable[[str], Tensor]:
    """A teacher's tensors by name, in the format that it computes in."""
    if isinstance(teacher, StoredModel):
        return lambda name: teacher.tensor(name, teacher.about.model.dtype)
    return teacher.model.state_dict().__getitem__


@torch.no_grad()
def initialise(mixer: Mixer, attention: Attention) -> tuple[str, str]:
    """Copies an attention layer's maps into a mixer as far as it has a place for them.

    Returns two descriptions: what was copied, and what keeps its initial values.
    """
    if isinstance(mixer, Attention):
        for name, parameter in attention.named_parameters():
            _copy(mixer.get_parameter(name), parameter)
        initial = sorted(
            {name for name, _ in mixer.named_parameters()} - {name for name, _ in attention.named_parameters()}
        )
        return "queries, keys, values and output map, as they are", ", ".join(initial) or "nothing"
    return _INITIALISERS[type(mixer)](mixer, Maps.of(attention))


def config_of(config: PreTrainedConfig, mixers: Sequence[str]) -> LimbeckConfig:
    """The configuration of a converted student. Raises BadModel where the teacher or a mixer cannot be converted."""
    check_family(config)
    check_mixers(mixers)
    sizes, rope = Anatomy.of(config).sizes, config.rope_parameters
    return LimbeckConfig(
        vocab_size=config.vocab_size,
        hidden_size=sizes.hidden,
        intermediate_size=sizes.ffn,
        mixers=mixers,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        num_key_value_heads=sizes.kv_heads,
        head_dim=sizes.head_dim,
        max_position_embeddings=config.max_position_embeddings,
        rope_theta=rope["rope_theta"],
        rms_norm_eps=config.rms_norm_eps,
        initializer_range=config.initializer_range,
        tie_word_embeddings=config.tie_word_embeddings,
        pad_token_id=config.pad_token_id,
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
    )


def converted_parameters(config: PreTrainedConfig, mixers: Sequence[str]) -> int:
    """Number of parameters of a converted student, tied ones once. It is built without storage.

    Raises BadModel as `config_of` does.
    """
    with torch.device("meta"):
        return sum(p.numel() for p in build(config_of(config, mixers)).parameters())


def choose(config: PreTrainedConfig, mixers_of: Callable[[int], Sequence[str]], *, budget: int) -> Shape:
    """The balanced shape of a pruned student that has at most ``budget`` parameters after conversion.

    Mixers have gates, wider values and separate keys for each query head, so attention's number of parameters does not bound
    theirs. The pruned student shrinks in proportion to the excess of its conversion, until that fits. ``mixers_of`` maps a number
    of layers to their mixers. Raises BadShape where no pruned student is small enough.
    """
    wanted, found = budget, 0
    while True:
        try:
            shape = choose_pruned(config, parameters=wanted)
        except BadShape as error:
            if not found:
                raise
            raise BadShape(
                f"the budget of {budget:,} parameters is less than the smallest student with these --mixers has: converted, "
                f"the smallest pruned student that was tried has {found:,}; give more, or other mixers"
            ) from error
        found = converted_parameters(pruned_config(shape, config), mixers_of(shape.layers))
        if found <= budget:
            return shape
        wanted = min(wanted, parameters(config, shape)) * budget // found


def check_family(config: PreTrainedConfig) -> None:
    """Raises BadModel, with the reason, where limbeck's decoder cannot represent this configuration."""
    reason = obstacle(config)
    if reason:
        raise BadModel(
            f"a {config.model_type} model cannot be converted: {reason}. Mixers take the place of attention in llama and mistral "
            "models alone; give such a teacher, or a student of mixers that exists with --student"
        )


def place_of(tensor: str) -> str:
    """The name in limbeck's decoder of a Llama-like decoder's tensor, such as layers.3.self_attn.q_proj.weight."""
    layers, number, local = tensor.split(".", 2)
    return f"{layers}.{number}.{_TENSORS[local]}"


def check_mixers(mixers: Sequence[str]) -> None:
    """Raises BadModel for a mixer without a place for attention's queries, keys and values."""
    for text in mixers:
        name, _ = parse(text)
        kind = MIXERS[name]
        if kind not in _INITIALISERS and not issubclass(kind, Attention):
            why = "its keys and queries are one for all heads" if name == "mamba2" else "it has none"
            able = [other for other, made in MIXERS.items() if made in _INITIALISERS or issubclass(made, Attention)]
            raise BadModel(
                f"{text!r}: nothing of attention's queries, keys and values of several heads can be put into {name} ({why}); "
                f"a teacher is converted to {', '.join(able)}"
            )


def obstacle(config: PreTrainedConfig) -> str:
    """Why limbeck's decoder cannot represent a configuration, "" where it can."""
    rope: Mapping[str, Any] = getattr(config, "rope_parameters", None) or {}
    window = getattr(config, "sliding_window", None)
    if getattr(config, "quantization_config", None) is not None:
        return "its weights are quantised; limbeck import MODEL --out FOLDER de-quantises them"
    if config.model_type in ("qwen2", "qwen3", *_FAMILIES):
        more = sorted(set(Anatomy.of(config).inside) - set(_TENSORS))
        if more:
            return f"its layers have {', '.join(more)}, for which ours have no place"
    if config.model_type not in _FAMILIES:
        return "its layers are not those of our decoder"
    if window is not None and window < config.max_position_embeddings:
        return f"its attention has a window of {window} tokens"
    if rope.get("rope_type", "default") != "default" or rope.get("partial_rotary_factor", 1.0) != 1.0:
        return f"its rotary positions are scaled ({rope.get('rope_type')})"
    if config.hidden_act != "silu":
        return f"its MLP has {config.hidden_act} where ours has silu"
    return ""


def _linear(mixer: Mixer, maps: Maps) -> tuple[str, str]:
    assert isinstance(mixer, LinearAttention)
    width, features = maps.q.shape[1], mixer.features
    # attention's score is q · k / sqrt(width); the maps but elu divide by sqrt(features)
    scale = (1 if mixer.map == "elu" else features**0.5) / width**0.5
    copied_scores = _put_scores(mixer, maps, channels=features, scale=scale)
    _put_values(mixer, maps)
    return f"{copied_scores}, without their rotary positions; values and output map as they are", _beyond(
        features, width
    )


def _retention(mixer: Mixer, maps: Maps) -> tuple[str, str]:
    _put(mixer, "q_proj", maps.q)
    _put(mixer, "k_proj", maps.k)
    _put_values(mixer, maps)
    return "queries and keys as they are; values and output map", "gates, norm, and what values have beyond attention's"


def _gated(mixer: Mixer, maps: Maps) -> tuple[str, str]:
    assert isinstance(mixer, GatedLinearAttention)
    width = maps.q.shape[1]
    copied_scores = _put_scores(mixer, maps, channels=mixer.key, scale=(mixer.key / width) ** 0.5)
    _put_values(mixer, maps)
    return (
        f"{copied_scores}, without their rotary positions; values and output map as they are",
        "decays, gates and norm",
    )


def _delta(mixer: Mixer, maps: Maps) -> tuple[str, str]:
    assert isinstance(mixer, DeltaNet)
    _put(mixer, "q_proj", maps.q)
    _put(mixer, "k_proj", maps.k)
    _put_values(mixer, maps)
    mixer.conv.weight.zero_()
    mixer.conv.weight[:, -1] = 1  # passes the token through; training adds its neighbours
    more = (
        "strengths and norm"
        if type(mixer) is DeltaNet
        else "strengths, decays, gates, norm, and the second half of values"
    )
    return "queries, keys, values and output map behind convolutions that let through; no rotary positions", more


_INITIALISERS: Mapping[type[Mixer], Callable[[Mixer, Maps], tuple[str, str]]] = {
    LinearAttention: _linear,
    Based: _linear,
    Retention: _retention,
    GatedLinearAttention: _gated,
    DeltaNet: _delta,
    GatedDeltaNet: _delta,
}


def _put_scores(mixer: Mixer, maps: Maps, *, channels: int, scale: float) -> str:
    """Sets queries and keys with ``channels`` a head, whose products are nearest to ``scale`` times attention's at distance 0.

    Where a head has more channels than attention's, the additional keys are 0, so that their random queries have no effect; under
    1 + elu, which maps them to 1, they add the same to all tokens. With fewer channels the best product of that rank is used
    (Eckart & Young 1936).
    """
    width = maps.q.shape[1]
    if channels >= width:
        _put(mixer, "q_proj", maps.q * scale**0.5)
        _put(mixer, "k_proj", maps.k * scale**0.5)
        _weight(mixer, "k_proj").unflatten(0, (len(maps.k), -1))[:, width:] = 0
        return "queries and keys"
    left, right = (torch.linalg.qr(part.double().mT) for part in (maps.q, maps.k))  # (H, D, K), (H, K, K)
    u, s, vh = torch.linalg.svd(left.R @ right.R.mT)
    root = (scale * s[:, :channels]).sqrt()[:, None]
    _put(mixer, "q_proj", (left.Q @ (u[..., :channels] * root)).mT)
    _put(mixer, "k_proj", (right.Q @ (vh.mT[..., :channels] * root)).mT)
    return f"queries and keys, their best {channels} of {width} channels"


def _put_values(mixer: Mixer, maps: Maps) -> None:
    """Sets values, and the columns of the output map that read them. A head may have more channels after these."""
    _put(mixer, "v_proj", maps.v)
    width = maps.v.shape[1]
    _weight(mixer, "o_proj").unflatten(1, (len(maps.o), -1))[..., :width] = maps.o.transpose(0, 1)


def _put(mixer: Mixer, name: str, weights: Float[Tensor, "H K D"]) -> None:
    """Sets the weights of the first channels of each head."""
    _weight(mixer, name).unflatten(0, (len(weights), -1))[:, : weights.shape[1]] = weights


def _weight(mixer: Mixer, name: str) -> Tensor:
    return mixer.get_parameter(f"{name}.weight")


def _beyond(channels: int, width: int) -> str:
    return f"queries of the {channels - width} further channels" if channels > width else "nothing"


def _copy(ours: Tensor, theirs: Tensor) -> None:
    if ours.shape != theirs.shape:
        raise AssertionError(f"{tuple(theirs.shape)} into {tuple(ours.shape)}")
    ours.copy_(theirs)
