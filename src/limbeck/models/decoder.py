"""The limbeck decoder: a Transformers model with interchangeable sequence mixers, one for each layer.

Each layer is x + mixer(norm(x)), then x + mlp(norm(x)) with SwiGLU (Shazeer, arXiv 2002.05202) unless the MLP is left out.
Mixers get no attention mask: positions express padding and packing (`mixers.documents`). The cache holds the state of each
mixer. This file and its imports are saved with a model (`mixers.remote_code`), so they depend on torch and Transformers only.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.cache_utils import Cache
from transformers.configuration_utils import PreTrainedConfig
from transformers.generation import GenerationConfig, GenerationMixin
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import can_return_tuple

from limbeck.errors import BadModel
from limbeck.models.cached import CACHE, NAMES, check_cache
from limbeck.models.mixers.convolution import ShortConv
from limbeck.models.mixers.documents import Documents
from limbeck.models.mixers.filters import Filter
from limbeck.models.mixers.low_rank import replace_linear
from limbeck.models.mixers.mixer import Dims, Mixer, State, linear
from limbeck.models.mixers.norm import RMSNorm
from limbeck.models.mixers.pattern import build, parse
from limbeck.models.mixers.remote_code import write_code
from limbeck.models.mixers.ssm import DiagonalSSM


class LimbeckConfig(PreTrainedConfig):
    """The configuration of a decoder. ``mixers`` lists one mixer a layer, or a few that repeat until all layers have one.

    An ``intermediate_size`` of 0 leaves out the MLPs. ``position_embeddings`` "learned" adds a learned vector of the position
    to each token embedding; mixers with rotary positions use those either way. ``factors`` lists the linear maps of low rank
    (`mixers.low_rank`) by name, such as "layers.0.mlp.up_proj", with their rank and the number of entries kept beside it. Raises
    BadModel for values that do not fit together.
    """

    model_type = "limbeck"
    keys_to_ignore_at_inference = NAMES

    def __init__(
        self,
        *,
        vocab_size: int = 32_000,
        hidden_size: int = 512,
        intermediate_size: int = 1_408,
        mixers: Sequence[str] = ("attention",),
        num_hidden_layers: int | None = None,
        num_attention_heads: int = 8,
        num_key_value_heads: int | None = None,
        head_dim: int | None = None,
        max_position_embeddings: int = 2_048,
        position_embeddings: str = "none",
        rope_theta: float = 10_000.0,
        chunk_size: int = 64,
        rms_norm_eps: float = 1e-6,
        initializer_range: float = 0.02,
        tie_word_embeddings: bool = False,
        use_cache: bool = True,
        factors: Mapping[str, Sequence[int]] | None = None,
        pad_token_id: int | None = None,
        bos_token_id: int | None = None,
        eos_token_id: int | list[int] | None = None,
        **others: Any,
    ) -> None:
        super().__init__(**others)
        _require_lengths(
            vocab_size=vocab_size,
            hidden_size=hidden_size,
            num_attention_heads=num_attention_heads,
            max_position_embeddings=max_position_embeddings,
            chunk_size=chunk_size,
        )
        self.vocab_size, self.hidden_size, self.intermediate_size = vocab_size, hidden_size, intermediate_size
        self.mixers = [mixers] if isinstance(mixers, str) else list(mixers)
        self.num_hidden_layers = len(self.mixers) if num_hidden_layers is None else num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_attention_heads if num_key_value_heads is None else num_key_value_heads
        self.head_dim = hidden_size // num_attention_heads if head_dim is None else head_dim
        self.max_position_embeddings, self.position_embeddings = max_position_embeddings, position_embeddings
        self.rope_theta, self.chunk_size, self.rms_norm_eps = rope_theta, chunk_size, rms_norm_eps
        self.initializer_range, self.use_cache = initializer_range, use_cache
        self.tie_word_embeddings = tie_word_embeddings
        self.pad_token_id, self.bos_token_id, self.eos_token_id = pad_token_id, bos_token_id, eos_token_id
        self.factors = {name: list(numbers) for name, numbers in (factors or {}).items()}
        self._check()

    def dims(self, layer: int) -> Dims:
        """Sizes and constants for the mixer of a layer, counted from 0."""
        return Dims(
            width=self.hidden_size,
            heads=self.num_attention_heads,
            kv_heads=self.num_key_value_heads,
            head_dim=self.head_dim,
            layer=layer,
            layers=self.num_hidden_layers,
            length=self.max_position_embeddings,
            rope_theta=self.rope_theta,
            eps=self.rms_norm_eps,
            chunk=self.chunk_size,
        )

    def mixer_of(self, layer: int) -> str:
        """The mixer of a layer, counted from 0, as a text such as "swa:64"."""
        return self.mixers[layer % len(self.mixers)]

    def _check(self) -> None:
        if not self.mixers:
            raise BadModel(
                'mixers: expected at least one, such as ["conv", "based", "conv", "swa:64"], got an empty list'
            )
        for place, text in enumerate(self.mixers):
            try:
                parse(str(text))
            except BadModel as error:
                raise BadModel(f"mixers[{place}] = {error}") from None
        _require_lengths(num_hidden_layers=self.num_hidden_layers, num_key_value_heads=self.num_key_value_heads)
        if self.num_hidden_layers % len(self.mixers):
            raise BadModel(
                f"num_hidden_layers = {self.num_hidden_layers}: expected a multiple of the {len(self.mixers)} mixers, which are "
                "repeated until the layers are full"
            )
        if self.num_attention_heads % self.num_key_value_heads:
            raise BadModel(
                f"num_key_value_heads = {self.num_key_value_heads}: expected a divisor of the {self.num_attention_heads} heads, "
                "which share them in groups"
            )
        if self.head_dim < 2 or self.head_dim % 2:
            raise BadModel(
                f"head_dim = {self.head_dim}: expected an even number, since rotary positions turn channels in pairs; give "
                "head_dim, or other num_attention_heads"
            )
        if self.position_embeddings not in ("none", "learned"):
            raise BadModel(f"position_embeddings = {self.position_embeddings!r}: expected none or learned")


def _require_lengths(**lengths: Any) -> None:
    for name, value in lengths.items():
        if not isinstance(value, int) or value < 1:
            raise BadModel(f"{name} = {value!r}: expected a whole number above 0")


class MixerCache(Cache):
    """The cache of a limbeck decoder: the state of each layer's mixer, and the number of tokens read so far."""

    def __init__(self, layers: int) -> None:
        super().__init__(layers=[])
        self.states: list[State | None] = [None] * layers
        self.seen = 0

    def __len__(self) -> int:
        return len(self.states)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """The number of tokens read so far, including padding."""
        return self.seen

    def nbytes(self) -> int:
        """Bytes of the states of all layers."""
        return sum(part.nbytes for state in self.states for part in (state or {}).values())

    # Transformers computes these from a cache's layers; this cache has none.
    is_compileable = is_croppable = is_initialized = False

    @property
    def is_linear(self) -> list[bool]:
        """False for every layer. If a text continues the cached one, `generate` then reads only the new tokens."""
        return [False] * len(self)

    is_sliding = is_dummy = is_linear

    def reset(self) -> None:
        """Empties the cache."""
        self.states, self.seen = [None] * len(self.states), 0

    def reorder_cache(self, beam_idx: Int[Tensor, " B"]) -> None:
        """Reorders the rows, as beam search requires."""
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Int[Tensor, " B"]) -> None:
        """Keeps the rows at these indices, in this order."""
        self._each(lambda part: part.index_select(0, indices.to(part.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeats each row ``repeats`` times."""
        self._each(lambda part: part.repeat_interleave(repeats, 0))

    def crop(self, *_: Any) -> None:
        """Always raises BadModel, since the last tokens cannot be removed from a state that sums up the past."""
        raise BadModel("the states of a limbeck decoder cannot be shortened: generate from the whole text instead")

    def _each(self, change: Any) -> None:
        self.states = [
            state and {name: change(part).contiguous() for name, part in state.items()} for state in self.states
        ]


class Mlp(nn.Module):
    """The SwiGLU MLP, W_down (SiLU(W_gate x) ⊙ W_up x) (Shazeer, arXiv 2002.05202)."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = linear(width, inner), linear(width, inner), linear(inner, width)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class LimbeckLayer(GradientCheckpointingLayer):
    """A decoder layer: a mixer and an optional MLP, each applied to the normalised residual stream and added to it."""

    def __init__(self, config: LimbeckConfig, layer: int) -> None:
        super().__init__()
        self.mixer_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mixer = build(config.mixer_of(layer), config.dims(layer))
        inner = config.intermediate_size
        self.mlp_norm = RMSNorm(config.hidden_size, config.rms_norm_eps) if inner else None
        self.mlp = Mlp(config.hidden_size, inner) if inner else None

    def forward(
        self, x: Float[Tensor, "B T D"], documents: Documents, state: State | None
    ) -> tuple[Float[Tensor, "B T D"], State | None]:
        mixed, state = self.mixer(self.mixer_norm(x), documents, state)
        return self.after(x, mixed), state

    def after(self, x: Float[Tensor, "B T D"], mixed: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """The residual stream after this layer, from the stream ``x`` before it and the mixer's output ``mixed``."""
        x = x + mixed
        if self.mlp is not None and self.mlp_norm is not None:
            x = x + self.mlp(self.mlp_norm(x))
        return x


class LimbeckPreTrainedModel(PreTrainedModel):
    """The base class of the decoder with and without its head: configuration, initialisation and saving."""

    config_class = LimbeckConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ("LimbeckLayer",)
    _skip_keys_device_placement = NAMES
    _supports_sdpa = True
    _is_stateful = True  # the cache cannot be cropped, which assisted generation needs

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # The children of a module are initialised first, so a mixer may overwrite its own linear maps.
        super()._init_weights(module)
        if isinstance(module, Mixer | ShortConv | Filter | DiagonalSSM):
            module.initialise()

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Saves weights, configuration, and the code to load them without limbeck (trust_remote_code=True)."""
        if __name__.startswith("limbeck."):  # otherwise this code came from such a folder, and Transformers copies it
            self.config.auto_map = write_code(__name__, save_directory, [parse(text)[0] for text in self.config.mixers])
        super().save_pretrained(save_directory, *args, **kwargs)


class LimbeckModel(LimbeckPreTrainedModel):
    """The decoder without its head, from token ids (B, T) to hidden states (B, T, D) after the last norm."""

    def __init__(self, config: LimbeckConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        learned = config.position_embeddings == "learned"
        self.embed_positions = nn.Embedding(config.max_position_embeddings, config.hidden_size) if learned else None
        self.layers = nn.ModuleList(LimbeckLayer(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        for name, numbers in config.factors.items():
            try:
                replace_linear(self, name, *numbers)
            except (AttributeError, TypeError) as error:
                raise BadModel(f"factors[{name!r}] = {numbers}: {error}") from None
        self.gradient_checkpointing = False
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Int[Tensor, "B T"] | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Int[Tensor, "B T"] | None = None,
        cache: MixerCache | None = None,
        inputs_embeds: Float[Tensor, "B T D"] | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        past_key_values: MixerCache | None = None,
        **_: Any,
    ) -> BaseModelOutputWithPast:
        """Hidden states (B, T, D), and the cache after these tokens if one is used.

        Packed documents need ``position_ids`` that restart with each document. Padding needs such positions or a mask of shape
        (B, tokens in ``cache`` + T). ``past_key_values`` is the older name of ``cache``. Raises BadModel unless exactly one of
        ``input_ids`` and ``inputs_embeds`` is given, or if the mask or cache does not fit.
        """
        if (input_ids is None) == (inputs_embeds is None):
            given = "neither" if input_ids is None else "both"
            raise BadModel(f"expected input_ids or inputs_embeds, got {given}; give one of them")
        x = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        cache = _one_cache(cache, past_key_values)
        if cache is None and (self.config.use_cache and not self.training if use_cache is None else use_cache):
            cache = MixerCache(len(self.layers))
        documents = _documents(x, input_ids, position_ids, attention_mask, 0 if cache is None else cache.seen)
        if self.embed_positions is not None:
            x = x + self.embed_positions(documents.position)
        hidden = [x] if output_hidden_states else []
        for number, layer in enumerate(self.layers):
            state = None if cache is None else cache.states[number] or cast(LimbeckLayer, layer).mixer.fresh(x)
            x, after = layer(x, documents, state)
            if output_hidden_states and number + 1 < len(self.layers):
                hidden.append(x)
            if cache is not None:
                cache.states[number] = after
        if cache is not None:
            cache.seen += x.shape[1]
        x = self.norm(x)
        return BaseModelOutputWithPast(
            last_hidden_state=x, hidden_states=(*hidden, x) if output_hidden_states else None, **{CACHE: cache}
        )


class LimbeckForCausalLM(LimbeckPreTrainedModel, GenerationMixin):
    """The decoder with its head, from token ids (B, T) to logits (B, T, vocabulary)."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012 (Transformers wants a dict)

    def __init__(self, config: LimbeckConfig) -> None:
        super().__init__(config)
        self.model = LimbeckModel(config)
        self.lm_head = linear(config.hidden_size, config.vocab_size)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Int[Tensor, "B T"] | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Int[Tensor, "B T"] | None = None,
        cache: MixerCache | None = None,
        inputs_embeds: Float[Tensor, "B T D"] | None = None,
        labels: Int[Tensor, "B T"] | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        past_key_values: MixerCache | None = None,
        **of_loss: Any,
    ) -> CausalLMOutputWithPast:
        """Logits of the last ``logits_to_keep`` tokens (0: all), and with ``labels`` the mean loss of next-token prediction.

        ``of_loss`` is passed to the loss function, as Transformers' trainer expects; ``num_items_in_batch`` replaces its
        divisor. Other arguments are as in `LimbeckModel.forward`.
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=_one_cache(cache, past_key_values),
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            output_hidden_states=output_hidden_states,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, kept])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **of_loss)
        return CausalLMOutputWithPast(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, **{CACHE: getattr(outputs, CACHE)}
        )

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Generates as any Transformers model does. The first call checks the cache and raises BadModel if it is ignored."""
        if kwargs.get("use_cache") is not False and not torch.compiler.is_compiling():
            check_cache(self, self._generated)
        return super().generate(*args, **kwargs)

    def _generated(self) -> tuple[Float[Tensor, "1 V"], Int[Tensor, "1 3"]]:
        """Logits of `generate` after three tokens, the last read with the cache of the others; and these three tokens."""
        twin = copy(self)  # shares the weights, and keeps the user's generation settings unchanged
        twin.generation_config = GenerationConfig()
        tokens = torch.tensor([[1, 2]], device=self.device)
        asked = {"max_new_tokens": 2, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
        found = super(LimbeckForCausalLM, twin).generate(tokens, attention_mask=torch.ones_like(tokens), **asked)
        return found.logits[-1], found.sequences[:, :3]

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False  # `generate` then takes the cache of the first forward


def _one_cache(cache: MixerCache | None, older: MixerCache | None) -> MixerCache | None:
    """The cache, given under either of its two names. Raises BadModel for both at once or another kind of cache."""
    if cache is not None and older is not None:
        raise BadModel("expected cache or past_key_values, which are one thing, got both; give one of them")
    found = older if cache is None else cache
    if found is not None and not isinstance(found, MixerCache):
        raise BadModel(
            f"expected the cache that an earlier call gave, got a {type(found).__name__}; leave it out, and cache_implementation"
        )
    return found


def _documents(
    x: Float[Tensor, "B T D"],
    tokens: Int[Tensor, "B T"] | None,
    position: Int[Tensor, "B T"] | None,
    mask: Tensor | None,
    seen: int,
) -> Documents:
    """The documents of the rows: from positions if given, else from the mask's padding, else from the tokens read before."""
    rows, length = x.shape[:2]
    if mask is not None and mask.ndim == 2 and mask.shape[1] != seen + length:
        raise BadModel(
            f"expected an attention_mask of {seen + length} tokens ({seen} in the cache and {length} new), got one of "
            f"{mask.shape[1]}: the tokens before have to come too, or their cache"
        )
    if position is None:
        if mask is None or mask.ndim != 2:
            return Documents.alone(rows, length, first=seen, tokens=tokens, device=x.device)
        position = (mask.long().cumsum(1) - 1).masked_fill(mask == 0, 0)
    return Documents.of(position[:, -length:].expand(rows, -1), tokens)
