"""A causal language model with its tokenizer: loaded, made, saved, and asked about a batch.

The decoder is run without its head: whoever needs logits multiplies chunk by chunk (`Outputs`), so the (tokens x
vocabulary) matrix never exists. That is only right if the head is the plain map `Head` describes and if attention stays
inside a document; both are tried out on a few tokens when a model is loaded, and a model that fails is refused.
"""

from __future__ import annotations

import inspect
import json
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel
from transformers import logging as transformers_logging
from transformers.configuration_utils import PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from limbeck.disk import check_digests, existing, read_plain, whole_folder, write_digests
from limbeck.errors import BadModel, LimbeckError, Mismatch
from limbeck.models.auto import LimbeckForCausalLM
from limbeck.models.bounds import check_config, check_generation
from limbeck.models.rope import choose_by_document, lengths_named
from limbeck.models.sidecar import complete, describe_source
from limbeck.models.source import (
    check_tokenizer,
    check_weights,
    config_file,
    is_old_buffer,
    resolve,
    stored_tensors,
)
from limbeck.models.tied import has_own_head
from limbeck.models.unpacked import one_document_a_row
from limbeck.models.vocabulary import any_text_reaches, ids_of, without_row
from limbeck.types import Batch, Head, Outputs

# Factors on the logits, by model type: the name of the configuration's field, and whether it divides.
_LOGIT_FACTOR = {
    "cohere": ("logit_scale", False),
    "cohere2": ("logit_scale", False),
    "granite": ("logits_scaling", True),
    "granitemoe": ("logits_scaling", True),
    "granitemoeshared": ("logits_scaling", True),
    "granitemoehybrid": ("logits_scaling", True),
    "granite_swa": ("logits_scaling", True),
    "falcon_h1": ("lm_head_multiplier", False),
}
# Where the soft cap of logits is not called final_logit_softcapping.
_SOFTCAP = {"recurrent_gemma": "logits_soft_cap", "xlstm": "output_logit_soft_cap"}

# Why an architecture is refused.
OTHER_HEAD = (
    "its logits are not head(hidden) with a known scale and soft cap, so chunked losses would be of another model"
)
SEES_AHEAD = "its tokens see those that follow them, so it is no causal language model"
SEES_ACROSS = "in a packed row its documents see one another"
NOT_FINITE = (
    "its logits are NaN or infinite on a few tokens: its weights are damaged, or overflow in this number format; copy it "
    "again, or take another --dtype"
)

_LOOKED_AT = 2**18  # numbers of a tensor that are looked at together: a test for NaN makes several tensors of as many


@dataclass
class LanguageModel:
    """A decoder, its tokenizer and its name: a teacher or a student.

    ``vocab``: how many ids from 0 on both know, those of gaps among them. A token beyond the rows of the head is one that only a
    text can hold which spells it out, and such a text is refused. ``lineage`` says what a student was cut out of
    (`students.cut`); it is saved and loaded with the model. ``packs``: whether the decoder takes rows of several documents as
    they are, which `verify` finds out; else each runs alone.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    lineage: Mapping[str, Any] | None = None
    vocab: int = field(init=False)
    packs: bool = field(init=False, default=True)

    def __post_init__(self) -> None:
        choose_by_document(self.model)
        embeddings = self.model.get_output_embeddings()
        if embeddings is None:
            raise BadModel(f"{self.name}: a {self.config.model_type} model without an output head; give a causal LM")
        rows, ids = embeddings.weight.shape[0], ids_of(self.tokenizer)
        self.vocab = min(ids, rows)
        if ids > rows and any_text_reaches(self.tokenizer, without_row(self.tokenizer, rows)):
            raise Mismatch(
                f"{self.name}: its tokenizer has {ids} tokens, its head only {rows} rows, so some can never be "
                "predicted; use the tokenizer the model was trained with, or resize_token_embeddings and train first"
            )

    def __call__(self, batch: Batch) -> Outputs:
        """Hidden states of a batch and the head that reads them. What a token sees stays inside its document."""
        if self.packs:
            hidden = self._decoder(batch.tokens, batch.position)
        else:
            hidden = one_document_a_row(self._decoder, batch.tokens, batch.position)
        return Outputs(hidden, self.head, self.vocab)

    def _decoder(self, tokens: Int[Tensor, "B T"], position: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        # No attention mask on purpose: only then does Transformers look for restarts in the positions.
        hidden: Tensor = self._without_head(**self._given(tokens, position)).last_hidden_state
        return hidden

    @property
    def _without_head(self) -> Any:
        """The module that gives hidden states. A few classes name it otherwise than ``base_model`` expects."""
        found = self.model.base_model
        return self.model.get_submodule("model") if found is self.model else found

    def _given(self, tokens: Int[Tensor, "B T"], position: Int[Tensor, "B T"]) -> dict[str, Any]:
        """The arguments of a forward pass; a recurrent decoder may have no place for positions."""
        given = {"input_ids": tokens, "position_ids": position, "attention_mask": None, "use_cache": False}
        return {name: value for name, value in given.items() if self._taken is None or name in self._taken}

    @cached_property
    def _taken(self) -> frozenset[str] | None:
        """The names of the decoder's arguments, None where it takes any."""
        taken = inspect.signature(self._without_head.forward).parameters
        free = any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values())
        return None if free else frozenset(taken)

    @property
    def head(self) -> Head:
        """The output map as it is now."""
        embeddings = self.model.get_output_embeddings()
        factor, divides = _LOGIT_FACTOR.get(self.config.model_type, ("", False))
        scale = float(getattr(self.config, factor)) if factor else 1.0
        return Head(
            weight=embeddings.weight,
            bias=getattr(embeddings, "bias", None),
            scale=1 / scale if divides else scale,
            softcap=getattr(self.config, _SOFTCAP.get(self.config.model_type, "final_logit_softcapping"), None),
        )

    @property
    def config(self) -> PreTrainedConfig:
        """The model's configuration."""
        return self.model.config

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device

    @property
    def context(self) -> int:
        """Tokens of the longest text the model was made for; sys.maxsize where its kind has no bound."""
        return int(getattr(self.config, "max_position_embeddings", None) or sys.maxsize)

    @property
    def parameters_count(self) -> int:
        """Number of parameters, tied ones once."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def end(self) -> int | None:
        """Id of the token that closes a document, None where the tokenizer knows none.

        A model that lists the opening token among those that end a text was trained on documents following each other
        with only that token between them.
        """
        generation = self.model.generation_config
        stops = generation.eos_token_id if generation is not None else None
        opening = self.tokenizer.bos_token_id
        if isinstance(stops, list) and opening is not None and opening in stops:
            return int(opening)
        closing = self.tokenizer.eos_token_id
        return None if closing is None else int(closing)

    @torch.no_grad()
    def verify(self) -> None:
        """Tries on a few tokens that the head is the whole way to logits, and that a token sees its own past alone.

        Where documents of a packed row see one another, each is run alone from here on (``packs``). Raises BadModel with
        the reason if the architecture does something `Outputs` does not describe, or its logits are no numbers.
        """
        training = self.model.training
        self.model.eval()
        try:
            self._verify_head(_alone(self._some_tokens(8)))
            self._verify_order(self._some_tokens(8))
            self.packs = not self.chunked and all(
                self._packs(self._some_tokens(8), first) for first in (4, *self._long_positions())
            )
        except (TypeError, AttributeError, ValueError, RuntimeError, LookupError, NotImplementedError) as error:
            raise self.refused(
                f"its decoder cannot be run on tokens and their positions ({_first_line(error)})"
            ) from error
        finally:
            self.model.train(training)

    def _verify_head(self, batch: Batch) -> None:
        outputs = self(batch)
        ours = outputs.logits()
        theirs = self.model(**self._given(batch.tokens, batch.position)).logits.flatten(0, 1)[:, : self.vocab]
        if not (torch.isfinite(ours).all() and torch.isfinite(theirs).all()):
            raise self.refused(NOT_FINITE)
        if self.differ(ours, theirs):
            raise self.refused(OTHER_HEAD)

    def _verify_order(self, tokens: Int[Tensor, "1 T"]) -> None:
        half = tokens.shape[1] // 2
        whole, start = self(_alone(tokens)).hidden[:, :half], self(_alone(tokens[:, :half])).hidden
        if self.differ(whole, start):
            raise self.refused(SEES_AHEAD)

    def _packs(self, tokens: Int[Tensor, "1 T"], first: int) -> bool:
        """Whether two documents in a row are as each alone. The second stands at positions from ``first`` on."""
        half = tokens.shape[1] // 2
        start = torch.arange(half, device=tokens.device)
        later = start if first == half else start + first
        packed = self(_batch(tokens, torch.cat([start, later])[None])).hidden
        alone = [
            self(_batch(part, place[None])).hidden
            for part, place in zip(tokens.split(half, 1), (start, later), strict=True)
        ]
        return not self.differ(packed, torch.cat(alone, 1))

    def _long_positions(self) -> list[int]:
        """Positions that four tokens may begin at to lie on both sides of a length that the configuration names."""
        return [length - 2 for length in lengths_named(self.config) if 6 < length < self.context - 1]

    @property
    def chunked(self) -> bool:
        """Whether attention is cut into chunks at places of a row, wherever its documents begin (Llama 4)."""
        return "chunked_attention" in (getattr(self.config.get_text_config(), "layer_types", None) or ())

    def differ(self, a: Float[Tensor, "*shape"], b: Float[Tensor, "*shape"]) -> bool:
        """Whether two results that should be the same differ by more than this model's number format rounds.

        Results that are NaN or infinite differ from everything.
        """
        tolerance = 1e-3 if self.model.dtype in (torch.float32, torch.float64) else 0.05
        return a.shape != b.shape or not _relative_difference(a, b) <= tolerance

    def refused(self, reason: str) -> BadModel:
        """What to raise of an architecture that cannot be used."""
        return BadModel(f"{self.name}: architecture {self.config.model_type} is refused: {reason}")

    def _some_tokens(self, count: int) -> Int[Tensor, "1 T"]:
        generator = torch.Generator().manual_seed(0)
        return torch.randint(self.vocab, (1, count), generator=generator).to(self.device)


def load_config(name: str | Path) -> PreTrainedConfig:
    """The configuration of a model, without its weights. Raises BadModel where it is no causal language model's.

    Whether head and embedding are one is read from weights that lie beside it: some files say it of two (`models.tied`).
    """
    folder = config_file(name).parent
    check_config(folder / "config.json")
    with quiet():
        try:
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        except Exception as error:  # each class checks its values in its own way
            raise BadModel(
                f"{folder}/config.json: not a configuration Transformers knows without running code of the folder "
                f"({_first_line(error)}); limbeck takes the causal language models of Transformers itself"
            ) from error
    known = {*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values(), LimbeckForCausalLM.__name__}
    named = config.architectures if isinstance(getattr(config, "architectures", None), list) else []
    named = [name for name in named if isinstance(name, str)]
    if (
        type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING
        or config.is_encoder_decoder
        or (named and not known & set(named))
    ):
        raise BadModel(
            f"{folder}: expected a causal language model, got {' '.join(named) or config.model_type}; "
            "give a decoder such as LlamaForCausalLM or GPT2LMHeadModel"
        )
    if config.get_text_config().tie_word_embeddings and has_own_head(folder):
        _set_tied(config, False)
    return config


def _set_tied(config: PreTrainedConfig, tied: bool) -> None:
    for part in (config, config.get_text_config()):
        part.tie_word_embeddings = tied


def load(
    name: str | Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32, train: bool = False
) -> LanguageModel:
    """A model from a local folder, a hub id or `builtin:NAME`; frozen and in eval mode unless it is to ``train``.

    Raises BadModel for whatever is wrong with the folder, its weights or its architecture, Mismatch for a tokenizer
    whose ordinary tokens are more than the head has rows. What the weights leave out is never filled with random numbers.
    """
    folder = resolve(name)
    config = load_config(folder)
    if train and is_quantised(config):
        raise BadModel(
            f"{folder}: its weights are quantised, and training needs them whole; give the unquantised model"
        )
    check_weights(folder)
    check_tokenizer(folder)
    check_generation(folder)
    tokenizer = load_tokenizer(folder)
    model = _load_weights(folder, config, dtype, device=torch.device(device))
    for key, parameter in model.named_parameters():
        if parameter.is_floating_point() and parameter.dtype.itemsize > 1:  # quantised weights have no infinities
            check_finite(folder, key, parameter)
    lineage_file = folder / "lineage.json"
    lineage = _lineage(lineage_file) if lineage_file.is_file() else None
    there = all(parameter.device.type == torch.device(device).type for parameter in model.parameters())
    speaker = LanguageModel(model if there else model.to(device), tokenizer, shown_name(name), lineage)
    speaker.model.requires_grad_(train)
    speaker.model.train(train)
    speaker.verify()
    return speaker


def _lineage(file: Path) -> dict[str, Any]:
    lineage: dict[str, Any] = read_plain(file, dict[str, Any], error=BadModel, remedy="copy the model's folder again")
    return lineage


def own(folder: Path) -> Path:
    """The folder of a model that limbeck wrote for itself, once its files are found to be as they were written.

    Raises BadModel where one is not. Of a folder without checksums nothing is known.
    """
    remedy = "copy the folder again; where the command of a run makes it, remove it, and that command makes it anew"
    check_digests(folder, error=BadModel, remedy=remedy)
    return folder


def shown_name(name: str | Path) -> str:
    """What a model is called: the last part of its folder, or its hub id."""
    given = existing(name)
    return given.resolve().name if given is not None and given.is_dir() else str(name)


def new_model(
    config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, seed: int, *, name: str = "fresh"
) -> LanguageModel:
    """A model of the given shape with random weights, the same on every device for the same seed; in training mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LanguageModel(build(config).train(), tokenizer, name)


def is_quantised(config: PreTrainedConfig) -> bool:
    """Whether a model's weights are quantised: it answers as Transformers runs it, and is neither cut nor trained."""
    return getattr(config, "quantization_config", None) is not None


def build(config: PreTrainedConfig, *, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A model of this configuration with weights from the current random state, on the current default device.

    Of a quantised one the unquantised model.
    """
    if is_quantised(config):
        config = type(config).from_dict({k: v for k, v in config.to_dict().items() if k != "quantization_config"})
    with quiet():
        try:
            return AutoModelForCausalLM.from_config(
                config, trust_remote_code=False, dtype=dtype, attn_implementation=_attention(config)
            )
        except LimbeckError:
            raise
        except Exception as error:  # an unknown activation, sizes that do not divide: each class ends in its own way
            raise _unbuildable(config, error) from error


def _unbuildable(config: PreTrainedConfig, error: Exception) -> BadModel:
    return BadModel(
        f"a {config.model_type} model cannot be built from its configuration ({type(error).__name__}: {_first_line(error)}); "
        "correct its config.json"
    )


@torch.no_grad()
def round_to(model: LanguageModel, dtype: torch.dtype) -> torch.dtype:
    """Rounds a model's weights in place to what a file of this format keeps, and gives the format.

    The weights stay in the format they are computed in. float32 where one of them is beyond float16's range.
    """
    parameters = [p for p in model.model.parameters() if p.is_floating_point()]
    if any(not torch.isfinite(p.to(dtype)).all() for p in parameters):
        return torch.float32
    for parameter in parameters:
        parameter.copy_(parameter.to(dtype))
    return dtype


def save(
    model: LanguageModel, folder: str | Path, *, card: str | None = None, dtype: torch.dtype | None = None
) -> None:
    """Writes an ordinary Hugging Face folder: safetensors, configuration, tokenizer, and lineage and card if any.

    With ``dtype`` the weights are rounded to that format, in memory too, so that what is measured afterwards is what
    lies there. Written beside and renamed, so a folder of that name is always whole. An older one is replaced.
    """
    with whole_folder(Path(folder).absolute()) as partial:
        with quiet():
            with _stored_as(model, dtype):
                model.model.save_pretrained(partial)
            model.tokenizer.save_pretrained(partial)
            complete(partial, model.config, tokenizer_of=_folder_of(model.tokenizer))
        if model.lineage is not None:
            text = json.dumps(model.lineage, indent=1, sort_keys=True)
            (partial / "lineage.json").write_text(text + "\n", encoding="utf-8")
        if card is not None:
            (partial / "README.md").write_text(card, encoding="utf-8")
        write_digests(partial)


@contextmanager
def _stored_as(model: LanguageModel, dtype: torch.dtype | None) -> Iterator[None]:
    """The parameters are in a file's format meanwhile, and then as they were but for its rounding."""
    parameters = [p for p in model.model.parameters() if p.is_floating_point()]
    computed = [p.dtype for p in parameters]
    kept = None if dtype is None else round_to(model, dtype)
    try:
        for parameter in parameters:
            parameter.data = parameter.data if kept is None else parameter.data.to(kept)
        yield
    finally:
        for parameter, was in zip(parameters, computed, strict=True):
            parameter.data = parameter.data.to(was)


def _folder_of(tokenizer: PreTrainedTokenizerBase) -> Path | None:
    """The folder that a tokenizer was read from."""
    folder = Path(str(tokenizer.name_or_path or "."))
    return folder if tokenizer.name_or_path and folder.is_dir() else None


def describe(model: LanguageModel, folder: Path) -> None:
    """Writes what a model is but for its weights: configuration and tokenizer."""
    with whole_folder(folder) as partial, quiet():
        model.config.save_pretrained(partial)
        if model.model.generation_config is not None:  # it may name the token that closes a document
            model.model.generation_config.save_pretrained(partial)
        model.tokenizer.save_pretrained(partial)
        if source := _folder_of(model.tokenizer):
            describe_source(source, partial)
        write_digests(partial)


def load_described(folder: Path, *, name: str) -> LanguageModel:
    """What `describe` wrote: a model without weights, which can be asked for all but answers.

    Raises BadModel where a part of it is missing or damaged.
    """
    config = load_config(own(folder))
    check_tokenizer(folder)
    with torch.device("meta"):
        model = build(config).eval().requires_grad_(False)
    read_generation(model, folder)
    return LanguageModel(model, load_tokenizer(folder), name)


def read_generation(model: PreTrainedModel, folder: Path) -> None:
    """Gives a model that was built the generation settings of its folder, which may name the token that closes a document."""
    check_generation(folder)
    with quiet(), suppress(OSError):  # not every model has them
        model.generation_config = GenerationConfig.from_pretrained(folder)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model's folder. Raises BadModel where it cannot be read."""
    with quiet():
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        except Exception as error:
            # Whatever a damaged tokenizer file raises (the Rust side raises bare Exception), the remedy is the same.
            raise BadModel(f"{folder}: its tokenizer cannot be read ({_first_line(error)}); save it again") from error
    if len(tokenizer) == 0:
        raise BadModel(f"{folder}: its tokenizer has no tokens; save the model's tokenizer into the folder")
    return tokenizer


def _check_shapes(folder: Path, config: PreTrainedConfig) -> None:
    """Raises BadModel where stored tensors are not those of the configuration, before any is made of the latter's size."""
    try:
        with torch.device("meta"):
            model = build(config)
    except BadModel as error:
        raise BadModel(f"{folder}: {error}") from error
    stored = stored_tensors(folder)
    expected = ((name, stored[name].shape, p.shape) for name, p in model.named_parameters() if name in stored)
    refuse_unlike(folder, mismatched=[(n, s, e) for n, s, e in expected if s != tuple(e)], missing=(), unexpected=())


def _load_weights(
    folder: Path, config: PreTrainedConfig, dtype: torch.dtype, *, device: torch.device
) -> PreTrainedModel:
    quantised = is_quantised(config)
    if not quantised:
        _check_shapes(folder, config)
    # some kinds can only be read onto their device, which Transformers leaves to accelerate
    placed = {"device_map": {"": device}} if quantised and device.type != "cpu" and find_spec("accelerate") else {}
    with quiet():
        try:
            model, report = AutoModelForCausalLM.from_pretrained(
                folder,
                config=config,
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=False,
                attn_implementation=_attention(config),
                ignore_mismatched_sizes=True,  # reported below with a remedy, instead of a traceback
                output_loading_info=True,
                **placed,
            )
        except Exception as error:  # whatever a class, or a package for quantised weights, ends in
            remedy = (
                "; it is quantised: install what Transformers asks for, or give the unquantised model"
                if quantised
                else ""
            )
            raise BadModel(f"{folder}: the model cannot be loaded ({_first_line(error)}){remedy}") from error
    stored = stored_tensors(folder)
    refuse_unlike(
        folder,
        mismatched=report["mismatched_keys"],
        missing=report["missing_keys"],
        unexpected=[key for key in report["unexpected_keys"] if not is_old_buffer(key, stored[key].shape)],
    )
    _set_tied(model.config, model.get_output_embeddings().weight is model.get_input_embeddings().weight)
    return model


def refuse_unlike(
    folder: Path,
    *,
    mismatched: Iterable[tuple[str, Sequence[int], Sequence[int]]],
    missing: Iterable[str],
    unexpected: Iterable[str],
) -> None:
    """Raises BadModel where weights are not those of the configuration. ``mismatched`` are (tensor, its shape, the right one)."""
    mismatched, missing, unexpected = sorted(mismatched, key=str), sorted(missing), sorted(unexpected)
    if mismatched:
        key, found, expected = mismatched[0]
        raise BadModel(
            f"{folder}: config.json and weights do not belong together: {key} should be {tuple(expected)} by the "
            f"configuration, the weights have {tuple(found)} ({len(mismatched)} such tensors); "
            "restore the config.json that was saved with them"
        )
    if missing:
        raise BadModel(
            f"{folder}: the weights lack {len(missing)} tensors the configuration asks for, {missing[0]} first; "
            "the file is incomplete or of another architecture"
        )
    if unexpected:
        raise BadModel(
            f"{folder}: the weights hold {len(unexpected)} tensors the configuration has no place for, {unexpected[0]} "
            "first; the config.json is of another model"
        )


def check_finite(folder: Path, name: str, values: Float[Tensor, "*shape"]) -> None:
    """Raises BadModel where a tensor of the weights holds NaN or infinity."""
    bad = sum(part.numel() - int(torch.isfinite(part).sum()) for part in values.reshape(-1).split(_LOOKED_AT))
    if bad:
        raise BadModel(
            f"{folder}: {bad} of the {values.numel()} values of {name} are NaN or infinite (read as {values.dtype}); "
            "the weights are damaged or need another --dtype"
        )


def _attention(config: PreTrainedConfig) -> str:
    """The attention to use: PyTorch's fused one, except where the logits of attention are capped, which it cannot."""
    capped = getattr(config, "attn_logit_softcapping", None) is not None
    return "sdpa" if MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]._supports_sdpa and not capped else "eager"


def _alone(tokens: Int[Tensor, "B T"]) -> Batch:
    return _batch(tokens, torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens))


def _batch(tokens: Int[Tensor, "B T"], position: Int[Tensor, "B T"]) -> Batch:
    nowhere = torch.full_like(tokens, -1)
    return Batch(tokens, tokens, torch.ones(tokens.shape, device=tokens.device), position, nowhere, nowhere[:, 0])


def _relative_difference(a: Float[Tensor, "*shape"], b: Float[Tensor, "*shape"]) -> float:
    return float((a - b).double().norm() / b.double().norm().clamp_min(1e-30))


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps Transformers' own log, bars and warnings away: what matters is checked and said by us."""
    level, bar = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(level)
        if bar:
            transformers_logging.enable_progress_bar()
