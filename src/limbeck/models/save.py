"""Saves a model as an ordinary Hugging Face folder, rounded to the number format of its file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from limbeck.disk import whole_folder, write_digests
from limbeck.models.language_model import LanguageModel
from limbeck.models.parts import write_tensors
from limbeck.models.quiet import quiet_transformers
from limbeck.models.sidecar import complete, source_of
from limbeck.models.skeleton import names_in_files


def save(
    model: LanguageModel, folder: str | Path, *, card: str | None = None, dtype: torch.dtype | None = None
) -> None:
    """Writes a Hugging Face folder: safetensors, configuration, tokenizer, and lineage and card if there are any.

    With ``dtype`` the weights are rounded to that format in memory too, so that later measurements are of the stored
    weights. The folder is written beside its place and renamed, so it is always complete; an older one is replaced.

    Raises OSError where the folder cannot be written.
    """
    with whole_folder(Path(folder).absolute()) as partial:
        with quiet_transformers(), _stored_as(model, dtype):
            model.model.save_pretrained(partial)
        _add_the_rest(model, partial, card)


def save_as_read(
    model: LanguageModel,
    read: Callable[[str], Tensor],
    folder: str | Path,
    *,
    dtype: torch.dtype,
    card: str | None = None,
) -> None:
    """Writes the same folder as `save` for a model without weights; ``read`` gives each of them by name, one is in memory.

    Where a weight is outside the range of ``dtype``, the format of all is float32. Raises OSError where the folder cannot be
    written.
    """
    names = names_in_files(model.model)
    shapes = {written: tuple(model.model.get_parameter(name).shape) for written, name in names.items()}
    with whole_folder(Path(folder).absolute()) as partial:
        weights = partial / "model.safetensors"
        if not write_tensors(weights, shapes, lambda written: read(names[written]), dtype):
            dtype = torch.float32
            write_tensors(weights, shapes, lambda written: read(names[written]), dtype)
        model.config.dtype = str(dtype).removeprefix("torch.")
        model.config.architectures = [type(model.model).__name__]
        with quiet_transformers():
            model.config.save_pretrained(partial)
            if model.model.generation_config is not None:
                model.model.generation_config.save_pretrained(partial)
        _add_the_rest(model, partial, card)


def _add_the_rest(model: LanguageModel, folder: Path, card: str | None) -> None:
    """Writes beside weights and configuration the tokenizer, lineage, card and checksums."""
    with quiet_transformers():
        model.tokenizer.save_pretrained(folder)
        complete(folder, model.config, tokenizer_of=source_of(model.tokenizer))
    if model.lineage is not None:
        text = json.dumps(model.lineage, indent=1, sort_keys=True)
        (folder / "lineage.json").write_text(text + "\n", encoding="utf-8")
    if card is not None:
        (folder / "README.md").write_text(card, encoding="utf-8")
    write_digests(folder)


@torch.no_grad()
def holds(model: LanguageModel, dtype: torch.dtype) -> bool:
    """Whether a number format holds all weights of a model without rounding."""
    return all(torch.equal(p, p.to(dtype).to(p.dtype)) for p in model.model.parameters() if p.is_floating_point())


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
