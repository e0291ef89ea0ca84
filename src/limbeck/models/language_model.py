"""A causal language model with its tokenizer, as limbeck runs it.

The decoder runs without its head. Callers compute logits chunk by chunk (`Outputs`), so the (tokens x vocabulary) matrix
never exists. This is right only where the head is the linear map that `Head` describes; `models.verify` checks it.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel
from transformers.configuration_utils import PreTrainedConfig
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from limbeck.errors import BadModel, Mismatch
from limbeck.host import queues
from limbeck.models.cached import read_on
from limbeck.models.inside import NAME, packed
from limbeck.models.rope import choose_by_document
from limbeck.models.unpacked import one_document_a_row
from limbeck.models.vocabulary import any_text_reaches, ids_of, without_row
from limbeck.types import Batch, Head, Outputs

# Factors on the logits by model type: the name of the configuration's field, and whether it divides.
LOGIT_FACTORS = {
    "cohere": ("logit_scale", False),
    "cohere2": ("logit_scale", False),
    "granite": ("logits_scaling", True),
    "granitemoe": ("logits_scaling", True),
    "granitemoeshared": ("logits_scaling", True),
    "granitemoehybrid": ("logits_scaling", True),
    "granite_swa": ("logits_scaling", True),
    "falcon_h1": ("lm_head_multiplier", False),
}
# Configuration fields of the logits' soft cap that are not named final_logit_softcapping.
_SOFTCAP_FIELDS = {"recurrent_gemma": "logits_soft_cap", "xlstm": "output_logit_soft_cap"}


SHARDED = "limbeck_hidden_states"  # the method of a sharded model (`models.sharding`) that computes hidden states


@dataclass
class LanguageModel:
    """A causal language model with its tokenizer: a teacher or a student.

    ``vocab`` is the vocabulary size: the highest token id plus one, bounded by the rows of the head. Gaps among the ids
    count. A token beyond the rows of the head is allowed where only a text that spells it out contains it; such a text is
    refused. ``lineage`` records what a student was pruned from (`students.prune`); it is saved and loaded with the model.
    ``packs`` says whether the decoder takes rows of several documents. Where it is false, each document runs alone;
    `models.verify` sets it. ``stored`` is the number format of the folder's weights, None where they are of none. Where it is not
    ``in_one_process``, it computes hidden states alone.

    Raises BadModel for a model without an output head, and Mismatch where ordinary text reaches tokens without a row.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    lineage: Mapping[str, Any] | None = None
    stored: torch.dtype | None = None
    in_one_process: ClassVar[bool] = True
    vocab: int = field(init=False)
    packs: bool = field(init=False, default=True)

    def __post_init__(self) -> None:
        choose_by_document(self.model)
        embeddings = self.model.get_output_embeddings()
        if embeddings is None:
            raise BadModel(
                f"{self.name}: expected a causal language model, got a {self.config.model_type} model without an output "
                "head; give a model with a language-modelling head"
            )
        rows, ids = embeddings.weight.shape[0], ids_of(self.tokenizer)
        self.vocab = min(ids, rows)
        if ids > rows and any_text_reaches(self.tokenizer, without_row(self.tokenizer, rows)):
            raise Mismatch(
                f"{self.name}: the tokenizer has {ids} tokens, but the head has only {rows} rows, so some tokens can never "
                "be predicted; use the tokenizer the model was trained with, or call resize_token_embeddings and train first"
            )

    def __call__(self, batch: Batch) -> Outputs:
        """Hidden states of a batch (B, T, D), and the head that maps them to logits. A token sees only its own document."""
        if self.packs:
            hidden = self._hidden_states(batch.tokens, batch.position)
        else:
            hidden = one_document_a_row(self._hidden_states, batch.tokens, batch.position)
        return Outputs(hidden, self.head, self.vocab)

    def _hidden_states(self, tokens: Int[Tensor, "B T"], position: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        # No attention mask on purpose: only then does Transformers look for restarts in the positions.
        with packed(position) as known:
            arguments = self.forward_arguments(tokens, position)
            if queues(position.device) and self.config._attn_implementation == NAME:
                arguments["attention_mask"] = known  # so that it neither looks nor waits
            decode = getattr(self.model, SHARDED, self.decoder)
            hidden: Tensor = decode(**arguments).last_hidden_state
        return hidden

    def read_on(self, tokens: Int[Tensor, "B T"], kept: Any, **others: Any) -> tuple[Float[Tensor, "B V"], Any]:
        """Logits after the last of ``tokens``, and the cache of all tokens so far, as `cached.read_on`."""
        return read_on(self.model, tokens, kept, **others)

    @property
    def decoder(self) -> Any:
        """The module that computes hidden states. In a few classes it is not ``base_model``."""
        found = self.model.base_model
        return self.model.get_submodule("model") if found is self.model else found

    def forward_arguments(self, tokens: Int[Tensor, "B T"], position: Int[Tensor, "B T"]) -> dict[str, Any]:
        """Keyword arguments of a forward pass. Some recurrent decoders do not accept positions."""
        arguments = {"input_ids": tokens, "position_ids": position, "attention_mask": None, "use_cache": False}
        accepted = self._accepted_arguments
        return {name: value for name, value in arguments.items() if accepted is None or name in accepted}

    @cached_property
    def _accepted_arguments(self) -> frozenset[str] | None:
        """Names of the decoder's arguments, None where it accepts any."""
        parameters = inspect.signature(self.decoder.forward).parameters
        free = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
        return None if free else frozenset(parameters)

    @property
    def head(self) -> Head:
        """The map from hidden states to logits, with the current weights."""
        embeddings = self.model.get_output_embeddings()
        factor, divides = LOGIT_FACTORS.get(self.config.model_type, ("", False))
        scale = float(getattr(self.config, factor)) if factor else 1.0
        return Head(
            weight=whole(embeddings.weight),
            bias=whole(getattr(embeddings, "bias", None)),
            scale=1 / scale if divides else scale,
            softcap=getattr(self.config, _SOFTCAP_FIELDS.get(self.config.model_type, "final_logit_softcapping"), None),
        )

    @property
    def config(self) -> PreTrainedConfig:
        """The model's configuration."""
        return self.model.config

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.model.device

    @property
    def context(self) -> int:
        """The context length in tokens; sys.maxsize where the architecture has no limit."""
        return int(getattr(self.config, "max_position_embeddings", None) or sys.maxsize)

    @property
    def parameters_count(self) -> int:
        """Number of parameters. Tied parameters count once."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def end(self) -> int | None:
        """Id of the token that closes a document, None where the tokenizer has none.

        A model that lists the opening token among its end-of-text tokens was trained on documents separated by that token
        alone; then this is the opening token.
        """
        generation = self.model.generation_config
        stops = generation.eos_token_id if generation is not None else None
        opening = self.tokenizer.bos_token_id
        if isinstance(stops, list) and opening is not None and opening in stops:
            return int(opening)
        closing = self.tokenizer.eos_token_id
        return None if closing is None else int(closing)

    @property
    def chunked(self) -> bool:
        """Whether attention is split into chunks at fixed places of a row, regardless of its documents (Llama 4)."""
        return "chunked_attention" in (getattr(self.config.get_text_config(), "layer_types", None) or ())


def whole(tensor: Tensor | None) -> Any:
    """A weight with all of its elements on this process, where it is sharded (a `DTensor`); else itself, also None."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
