"""A model with the rows of the kept tokens alone, in embedding and head, and the tokenizer of these tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn
from transformers.configuration_utils import PreTrainedConfig
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from limbeck.errors import BadModel
from limbeck.models.build import build
from limbeck.models.language_model import LanguageModel
from limbeck.models.quiet import quiet_transformers
from limbeck.models.trim.choose import digest_of
from limbeck.models.trim.tokenizer import Kept, new_ids

LINEAGE = "vocabulary"  # in a model's lineage: what its tokenizer was trimmed from
_ONE = ("bos", "eos", "pad", "sep", "cls", "decoder_start", "forced_bos", "forced_eos")  # _token_id: an id, or several
_SEVERAL = ("suppress_tokens", "begin_suppress_tokens")
_NESTED = ("bad_words_ids", "sequence_bias", "force_words_ids")


@dataclass(frozen=True)
class Vocabulary:
    """A trimmed vocabulary: the kept ids of the whole one, ascending, and the tokenizer whose id i is the kept one at place i.

    ``whole`` is how many tokens the whole one has, ``source`` the name of the model it is of.
    """

    kept: Kept
    tokenizer: PreTrainedTokenizerBase
    whole: int
    source: str

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the kept ids."""
        return digest_of(self.kept)

    @property
    def lineage(self) -> dict[str, Any]:
        """What a model with this vocabulary says of it."""
        return {"of": self.source, "tokens": [self.whole, len(self.kept)], "kept_sha256": self.digest}

    def is_of(self, tokenizer: PreTrainedTokenizerBase) -> bool:
        """Whether a whole tokenizer has the kept tokens with the kept ids."""
        theirs = tokenizer.get_vocab()
        return all(theirs.get(token) == self.kept[new] for token, new in self.tokenizer.get_vocab().items())

    def require_of(self, model: LanguageModel) -> None:
        """Raises BadModel for a model of another tokenizer."""
        if not self.is_of(model.tokenizer):
            raise BadModel(
                f"{model.name}: expected the tokenizer of {self.source}, whose vocabulary was trimmed, got another; give a "
                "model with that tokenizer"
            )


def lineage_of_vocabulary(model: LanguageModel) -> dict[str, Any]:
    """What a student made of a model says of its vocabulary; nothing where that is not trimmed."""
    named = (model.lineage or {}).get(LINEAGE)
    return {} if named is None else {LINEAGE: named}


@torch.no_grad()
def trim(model: LanguageModel, vocabulary: Vocabulary) -> LanguageModel:
    """The model with the rows of the kept tokens. The weights given are taken over, and cut in place.

    Raises BadModel for a model of another tokenizer, or one with more tensors of the vocabulary's size than embedding and head.
    """
    vocabulary.require_of(model)
    inner, kept = model.model, vocabulary.kept
    embedding, head = inner.get_input_embeddings(), inner.get_output_embeddings()
    _check_alone(model, vocabulary)
    trained = embedding.weight.requires_grad
    places = torch.from_numpy(kept).to(embedding.weight.device)
    tied = head.weight is embedding.weight
    _keep(embedding, places)
    embedding.num_embeddings = len(kept)
    if getattr(embedding, "padding_idx", None) is not None:
        embedding.padding_idx = new_ids(kept).get(embedding.padding_idx)
    if tied:
        head.weight = embedding.weight
    else:
        _keep(head, places)
    if getattr(head, "bias", None) is not None:
        head.bias = nn.Parameter(head.bias.index_select(0, places), requires_grad=trained)
    head.out_features = len(kept)
    renumber_config(inner.config, vocabulary, name=model.name)
    if inner.generation_config is not None:
        renumber(inner.generation_config, vocabulary, name=model.name)
    if hasattr(inner, "vocab_size"):
        inner.vocab_size = len(kept)
    lineage = {**(model.lineage or {}), LINEAGE: vocabulary.lineage}
    found = LanguageModel(inner, vocabulary.tokenizer, model.name, lineage)
    found.packs = model.packs
    return found


def _keep(module: nn.Module, places: torch.Tensor) -> None:
    weight = module.weight
    assert isinstance(weight, nn.Parameter)
    module.weight = nn.Parameter(weight.index_select(0, places), requires_grad=weight.requires_grad)


def _check_alone(model: LanguageModel, vocabulary: Vocabulary) -> None:
    """Raises BadModel where the vocabulary's size decides more than embedding and head."""
    inner = model.model
    there = {
        id(p) for module in (inner.get_input_embeddings(), inner.get_output_embeddings()) for p in module.parameters()
    }
    known = {name for name, parameter in inner.named_parameters(remove_duplicate=False) if id(parameter) in there}
    with torch.device("meta"):
        shapes = [
            {name: tuple(p.shape) for name, p in build(config).named_parameters()}
            for config in (inner.config, config_with(inner.config, vocabulary, name=model.name))
        ]
    if other := [name for name, shape in shapes[0].items() if shapes[1].get(name) != shape and name not in known]:
        raise BadModel(
            f"{model.name}: expected the vocabulary in embedding and head alone, got {other[0]} {shapes[0][other[0]]}, which "
            "has a part for each token too; leave --vocab out"
        )


def renumber_config(config: PreTrainedConfig, vocabulary: Vocabulary, *, name: str) -> None:
    """Sets in place the vocabulary's size and the ids of special tokens. Raises BadModel where one of these is not kept."""
    for part in {id(part): part for part in (config, config.get_text_config())}.values():
        if getattr(part, "vocab_size", None) is not None:
            part.vocab_size = len(vocabulary.kept)
        renumber(part, vocabulary, name=name)


def renumber(settings: Any, vocabulary: Vocabulary, *, name: str) -> None:
    """Sets in place all ids of tokens in a configuration, or in settings of generation.

    An id that had no token before has none afterwards. Raises BadModel where a token is not kept.
    """
    new = new_ids(vocabulary.kept)

    def of(old: Any) -> Any:
        if isinstance(old, int) and not isinstance(old, bool):
            if old in new:
                return new[old]
            if 0 <= old < vocabulary.whole:
                raise BadModel(
                    f"{name}: its configuration needs the token of id {old}, which is not kept: keep it, or leave --vocab out"
                )
            return None
        if isinstance(old, list | tuple):
            return type(old)(found for found in map(of, old) if found is not None)
        return {of(key): value for key, value in old.items()} if isinstance(old, Mapping) else old

    for key in (*(f"{one}_token_id" for one in _ONE), *_SEVERAL, *_NESTED):
        if getattr(settings, key, None) is not None:
            setattr(settings, key, of(getattr(settings, key)))


def ids_named(*settings: Any) -> set[int]:
    """The ids of tokens that configurations and settings of generation name."""
    found: set[int] = set()

    def add(value: Any) -> None:
        if isinstance(value, int) and not isinstance(value, bool):
            found.add(value)
        elif isinstance(value, list | tuple | Mapping):
            for inner in value:
                add(inner)

    for some in settings:
        for key in (*(f"{one}_token_id" for one in _ONE), *_SEVERAL, *_NESTED):
            add(getattr(some, key, None))
    return found


def config_with(config: PreTrainedConfig, vocabulary: Vocabulary, *, name: str) -> PreTrainedConfig:
    """A copy of a configuration for the trimmed vocabulary."""
    with quiet_transformers():
        found: PreTrainedConfig = type(config).from_dict(config.to_dict())
    renumber_config(found, vocabulary, name=name)
    return found
