"""Saves a model as an ordinary Hugging Face folder, rounded to the number format of its file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from limbeck.disk import whole_folder, write_digests
from limbeck.models.language_model import LanguageModel
from limbeck.models.quiet import quiet_transformers
from limbeck.models.sidecar import complete, source_of


def save(
    model: LanguageModel, folder: str | Path, *, card: str | None = None, dtype: torch.dtype | None = None
) -> None:
    """Writes a Hugging Face folder: safetensors, configuration, tokenizer, and lineage and card if there are any.

    With ``dtype`` the weights are rounded to that format in memory too, so that later measurements are of the stored
    weights. The folder is written beside its place and renamed, so it is always complete; an older one is replaced.

    Raises OSError where the folder cannot be written.
    """
    with whole_folder(Path(folder).absolute()) as partial:
        with quiet_transformers():
            with _stored_as(model, dtype):
                model.model.save_pretrained(partial)
            model.tokenizer.save_pretrained(partial)
            complete(partial, model.config, tokenizer_of=source_of(model.tokenizer))
        if model.lineage is not None:
            text = json.dumps(model.lineage, indent=1, sort_keys=True)
            (partial / "lineage.json").write_text(text + "\n", encoding="utf-8")
        if card is not None:
            (partial / "README.md").write_text(card, encoding="utf-8")
        write_digests(partial)


@torch.no_grad()
def round_to(model: LanguageModel, dtype: torch.dtype) -> torch.dtype:
    """Rounds a model's weights in place to the values of a number format, and returns the format.

    The weights stay in the format they are computed in. Where a weight is outside the range of ``dtype``, nothing is
    rounded and the format is float32.
    """
    parameters = [p for p in model.model.parameters() if p.is_floating_point()]
    if any(not torch.isfinite(p.to(dtype)).all() for p in parameters):
        return torch.float32
    for parameter in parameters:
        parameter.copy_(parameter.to(dtype))
    return dtype


@contextmanager
def _stored_as(model: LanguageModel, dtype: torch.dtype | None) -> Iterator[None]:
    """Holds the parameters in a file's format meanwhile; afterwards they have their own format, but stay rounded."""
    parameters = [p for p in model.model.parameters() if p.is_floating_point()]
    computed = [p.dtype for p in parameters]
    stored = None if dtype is None else round_to(model, dtype)
    try:
        for parameter in parameters:
            parameter.data = parameter.data if stored is None else parameter.data.to(stored)
        yield
    finally:
        for parameter, was in zip(parameters, computed, strict=True):
            parameter.data = parameter.data.to(was)
