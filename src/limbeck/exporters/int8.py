"""`--to int8`: linear layers in int8 by torchao, one scale a row, as Transformers saves them.

Weights lie in safetensors, as integers and scales; of what kind a tensor is stands in JSON beside them, from which torchao
builds only kinds that it lists. Nothing is pickled. The embedding, and a head that is the same tensor, keep the model's
number format.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from limbeck.errors import BadModel, BadSetting, first_line
from limbeck.exporters.named import CannotRun, exporter
from limbeck.models.language_model import LanguageModel
from limbeck.models.quiet import quiet_transformers
from limbeck.models.save import save
from limbeck.packages import require_packages

_OWN = "limbeck"  # model type of decoders with limbeck's own mixers


@exporter("int8")
class Int8Exporter:
    """A folder that Transformers reads where torchao is installed: weights in int8, activations in the model's format."""

    def write(self, model: LanguageModel, folder: Path, *, dtype: torch.dtype | None) -> list[str]:
        """Writes the folder; ``dtype`` is the number format of what is not quantised.

        Raises BadModel where torchao is missing.
        """
        if dtype == torch.float16:
            raise BadSetting("--dtype float16: int8 keeps the rest in float32 or bfloat16; leave it out")
        require_packages("int8 is written with", "torchao", extra="quant", error=BadModel)
        if model.config.model_type == _OWN:
            raise BadModel(
                f"{model.name}: Transformers quantises no model whose code lies in its folder; export it with --to folder"
            )
        rest = dtype or model.stored or torch.float32
        rest = torch.bfloat16 if rest == torch.float16 else rest
        with tempfile.TemporaryDirectory(dir=folder.parent) as place, quiet_transformers():
            from torchao.quantization import Int8WeightOnlyConfig
            from transformers import TorchAoConfig

            save(model, Path(place) / "whole", dtype=torch.float32)
            try:
                quantised = AutoModelForCausalLM.from_pretrained(
                    Path(place) / "whole",
                    dtype=rest,
                    quantization_config=TorchAoConfig(Int8WeightOnlyConfig()),
                    trust_remote_code=False,
                )
                quantised.save_pretrained(folder)
            except OSError:
                raise
            except Exception as error:  # of whatever kind torchao raises for a layer that it does not take
                raise BadModel(
                    f"{model.name}: torchao cannot quantise it ({first_line(error)}); export gguf:q8_0, which is as small"
                ) from error
            model.tokenizer.save_pretrained(folder)
        _require_no_pickle(folder)
        return ["load it with Transformers, where torchao is installed"]

    def read(self, folder: Path, like: LanguageModel) -> LanguageModel:
        """The model with its integers. Raises CannotRun where Transformers does not read it here."""
        try:
            with quiet_transformers():
                model: Any = AutoModelForCausalLM.from_pretrained(
                    folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
                )
        except Exception as error:  # of whatever kind: versions of torchao and Transformers that do not fit
            raise CannotRun(
                f"Transformers does not read it with the torchao that is installed ({first_line(error)})"
            ) from error
        assert isinstance(model, PreTrainedModel)
        return LanguageModel(model.eval().requires_grad_(False).to(like.device), like.tokenizer, "int8")


def _require_no_pickle(folder: Path) -> None:
    """Raises BadModel where a version of Transformers wrote something else than safetensors."""
    others = [file.name for file in folder.iterdir() if file.suffix in (".bin", ".pt", ".pth", ".pkl")]
    if others:
        raise BadModel(
            f"torchao and Transformers as installed save int8 as {others[0]}, which others would have to unpickle: "
            f"update them, or "
            "export gguf:q8_0"
        )
