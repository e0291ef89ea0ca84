"""A model's folder without weights: configuration, generation settings and tokenizer.

A logit cache keeps such a folder of its teacher, so that a training can check vocabulary and tokenizer without the teacher.
"""

from __future__ import annotations

from pathlib import Path

import torch

from limbeck.disk import whole_folder, write_digests
from limbeck.models.build import build
from limbeck.models.configuration import load_config
from limbeck.models.language_model import LanguageModel
from limbeck.models.load import load_tokenizer, read_generation, verified_folder
from limbeck.models.quiet import quiet_transformers
from limbeck.models.sidecar import describe_source, source_of
from limbeck.models.source import check_tokenizer


def save_without_weights(model: LanguageModel, folder: Path) -> None:
    """Writes a model's configuration, generation settings and tokenizer. Raises OSError where the folder cannot be written."""
    with whole_folder(folder) as partial, quiet_transformers():
        model.config.save_pretrained(partial)
        if model.model.generation_config is not None:  # it may name the token that closes a document
            model.model.generation_config.save_pretrained(partial)
        model.tokenizer.save_pretrained(partial)
        if source := source_of(model.tokenizer):
            describe_source(source, partial)
        write_digests(partial)


def load_without_weights(folder: Path, *, name: str) -> LanguageModel:
    """The model that `save_without_weights` wrote. It has a shape and a tokenizer, but cannot compute.

    Raises BadModel where a part of it is missing or damaged.
    """
    config = load_config(verified_folder(folder))
    check_tokenizer(folder)
    with torch.device("meta"):
        model = build(config).eval().requires_grad_(False)
    read_generation(model, folder)
    return LanguageModel(model, load_tokenizer(folder), name)
