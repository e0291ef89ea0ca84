"""Loads a causal language model with its tokenizer from a folder, and checks both."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel
from transformers.configuration_utils import PreTrainedConfig
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from limbeck.disk import check_digests, existing, read_plain
from limbeck.errors import BadModel, first_line
from limbeck.models.bounds import check_generation
from limbeck.models.configuration import attention_of, is_quantised, load_config, set_tied
from limbeck.models.language_model import LanguageModel
from limbeck.models.quiet import quiet_transformers
from limbeck.models.source import (
    check_tokenizer,
    check_weights,
    is_old_buffer,
    resolve,
    stored_tensors,
)
from limbeck.models.text_half import RENAMED, has_text_half, text_name
from limbeck.models.verify import verify
from limbeck.models.weights import check_finite, check_match, check_shapes


def load(
    name: str | Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32, train: bool = False
) -> LanguageModel:
    """A model from a local folder, a hub id or `builtin:NAME`.

    It is frozen and in eval mode, unless ``train`` is true. Missing weights are an error; they are never filled with random
    numbers.

    Raises BadModel where the folder, its weights or its architecture cannot be used, and Mismatch where ordinary text
    contains tokens for which the head has no row.
    """
    folder = resolve(name)
    config = load_config(folder)
    if train and is_quantised(config):
        raise BadModel(
            f"{folder}: expected full-precision weights, because the model is trained, got quantised ones; "
            "de-quantise it first (limbeck import MODEL --out FOLDER), or give the unquantised model"
        )
    check_weights(folder)
    check_tokenizer(folder)
    check_generation(folder)
    tokenizer = load_tokenizer(folder)
    stored = config.dtype  # which loading sets to that of the arithmetic
    model = _load_weights(folder, config, dtype, device=torch.device(device))
    for key, parameter in model.named_parameters():
        if parameter.is_floating_point() and parameter.dtype.itemsize > 1:  # quantised weights have no infinities
            check_finite(folder, key, parameter)
    lineage_file = folder / "lineage.json"
    lineage = lineage_in(lineage_file) if lineage_file.is_file() else None
    there = all(parameter.device.type == torch.device(device).type for parameter in model.parameters())
    loaded = LanguageModel(model if there else model.to(device), tokenizer, display_name(name), lineage, stored)
    loaded.model.requires_grad_(train)
    loaded.model.train(train)
    verify(loaded)
    return loaded


def lineage_in(file: Path) -> dict[str, Any]:
    """What a model's lineage.json says. Raises BadModel where it is damaged."""
    lineage: dict[str, Any] = read_plain(file, dict[str, Any], error=BadModel, remedy="copy the model's folder again")
    return lineage


def verified_folder(folder: Path) -> Path:
    """The same folder of a model that limbeck wrote, after its files were compared with their checksums.

    Raises BadModel where a file differs. A folder without checksums passes.
    """
    remedy = "copy the folder again; if it belongs to a run, remove it and repeat the command of the run"
    check_digests(folder, error=BadModel, remedy=remedy)
    return folder


def display_name(name: str | Path) -> str:
    """The name of a model in reports: the last part of its folder or file, or its hub id."""
    given = existing(name)
    return given.resolve().name if given is not None else str(name)


def read_generation(model: PreTrainedModel, folder: Path) -> None:
    """Sets the generation settings of a built model from its folder. They may name the token that closes a document.

    Raises BadModel where the file is damaged. A folder without one leaves the model as it is.
    """
    check_generation(folder)
    with quiet_transformers(), suppress(OSError):  # not every model has them
        model.generation_config = GenerationConfig.from_pretrained(folder)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model's folder. Raises BadModel where it cannot be read or has no tokens."""
    with quiet_transformers():
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        except Exception as error:
            # Whatever a damaged tokenizer file raises (the Rust side raises bare Exception), the remedy is the same.
            raise BadModel(f"{folder}: its tokenizer cannot be read ({first_line(error)}); save it again") from error
    if len(tokenizer) == 0:
        raise BadModel(f"{folder}: its tokenizer has no tokens; save the model's tokenizer into the folder")
    return tokenizer


def _load_weights(
    folder: Path, config: PreTrainedConfig, dtype: torch.dtype, *, device: torch.device
) -> PreTrainedModel:
    quantised = is_quantised(config)
    if not quantised:
        check_shapes(folder, config)
    # Some quantised formats can only be read onto their device, which Transformers leaves to accelerate.
    renamed = {"key_mapping": RENAMED} if has_text_half(folder) else {}
    placed = {"device_map": {"": device}} if quantised and device.type != "cpu" and find_spec("accelerate") else {}
    with quiet_transformers():
        try:
            model, report = AutoModelForCausalLM.from_pretrained(
                folder,
                config=config,
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=False,
                attn_implementation=attention_of(config),
                ignore_mismatched_sizes=True,  # reported below with a remedy, instead of a traceback
                output_loading_info=True,
                **renamed,
                **placed,
            )
        except Exception as error:  # whatever a class, or a package for quantised weights, raises
            remedy = (
                "it is quantised: install what Transformers asks for, or give the unquantised model"
                if quantised
                else "copy the folder again"
            )
            raise BadModel(f"{folder}: the model cannot be loaded ({first_line(error)}); {remedy}") from error
    stored = stored_tensors(folder)
    check_match(
        folder,
        mismatched=report["mismatched_keys"],
        missing=report["missing_keys"],
        unexpected=[key for key in _unexpected(report, folder) if not is_old_buffer(key, stored[key].shape)],
    )
    set_tied(model.config, model.get_output_embeddings().weight is model.get_input_embeddings().weight)
    return model


def _unexpected(report: Mapping[str, Any], folder: Path) -> list[str]:
    """The stored tensors for which a model has no place; those of a multimodal model's other half are left out."""
    unexpected: list[str] = list(report["unexpected_keys"])
    return [key for key in unexpected if text_name(key) is not None] if has_text_half(folder) else unexpected
