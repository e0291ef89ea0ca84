"""An ordinary Transformers folder: safetensors, configuration, tokenizer."""

from __future__ import annotations

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
        """Writes the folder. The weights in memory are rounded with it."""
        save(model, folder, dtype=dtype)

    def read(self, folder: Path, like: LanguageModel) -> LanguageModel:
        """The folder's model, in the number format that ``like`` is computed in."""
        weight = next(like.model.parameters())
        return load(str(folder), device=weight.device, dtype=weight.dtype)
