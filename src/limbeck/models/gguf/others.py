"""Families that Transformers reads from a GGUF file and limbeck's own table has not.

Transformers passes over tensors and keys that it does not know without a word. So it is only taken at its word where every
number of the file arrived in the model, and no scaling of rotary positions was stated that its reader leaves out.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES, load_gguf_checkpoint

from limbeck.errors import BadModel, first_line
from limbeck.models.gguf.container import Gguf
from limbeck.models.quiet import quiet_transformers

_NO_DECODERS = {"t5", "t5encoder", "umt5"}
_OWN_SCALING = {"gpt_oss", "gpt-oss"}  # of which Transformers reads the scaling


def others() -> list[str]:
    """The architectures of files that Transformers reads as decoders."""
    return sorted(set(GGUF_SUPPORTED_ARCHITECTURES) - _NO_DECODERS)


def read_other(file: Gguf, dtype: torch.dtype) -> tuple[PreTrainedConfig, dict[str, torch.Tensor]]:
    """The configuration and tensors that Transformers reads. Raises BadModel where some of the file would be lost."""
    scaling = next((key for key in file.metadata if key.startswith(f"{file.architecture}.rope.scaling.")), None)
    if scaling is not None and file.architecture not in _OWN_SCALING:
        raise BadModel(
            f"{file.path}: has {scaling}, which Transformers does not read for {file.architecture}; give the original model's "
            "folder"
        )
    try:
        with quiet_transformers():
            settings: dict[str, Any] = load_gguf_checkpoint(str(file.path))["config"]
            config = AutoConfig.for_model(**settings)
            with torch.device("meta"):
                model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
            found = load_gguf_checkpoint(str(file.path), return_tensors=True, model_to_load=model, torch_dtype=dtype)
    except Exception as error:  # of whatever kind: each family's reader fails in its own way
        raise BadModel(
            f"{file.path}: Transformers cannot read this {file.architecture} file ({first_line(error)}); give the original "
            "model's folder"
        ) from error
    tensors: dict[str, torch.Tensor] = found["tensors"]
    config.architectures = [type(model).__name__]
    there, read = (
        sum(sizes) for sizes in ((int(t.n_elements) for t in file.tensors.values()), map(torch.numel, tensors.values()))
    )
    missing = sorted({name for name, _ in model.named_parameters()} - tensors.keys())
    if there != read or missing:
        lacks = f"; {missing[0]} is missing" if missing else ""
        raise BadModel(
            f"{file.path}: Transformers reads {read:,} of the {there:,} numbers of this {file.architecture} file{lacks}: what is "
            "left out would change the model. Give the original model's folder"
        )
    return config, tensors
