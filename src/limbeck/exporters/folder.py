"""An ordinary Transformers folder: safetensors, configuration, tokenizer."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import torch

from limbeck.exporters.named import exporter
from limbeck.models.language_model import LanguageModel
from limbeck.models.load import load
from limbeck.models.save import save


@exporter("folder")
class FolderExporter:
    """A folder that Transformers, vLLM and others read, in the model's number format or another."""

    def write(self, model: LanguageModel, folder: Path, *, dtype: torch.dtype | None) -> None:
        """Writes the folder."""
        dtype = dtype or model.stored or torch.float32
        if dtype not in (model.stored, torch.float32):  # saving rounds in memory, and others are compared with this one
            model = replace(model, model=copy.deepcopy(model.model))
        save(model, folder, dtype=dtype)

    def read(self, folder: Path, like: LanguageModel) -> LanguageModel:
        """The folder's model, in the number format that ``like`` is computed in."""
        weight = next(like.model.parameters())
        return load(str(folder), device=weight.device, dtype=weight.dtype)
