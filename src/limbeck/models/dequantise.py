"""A model with quantised weights in whole numbers, so that students can be cut out of it.

Transformers reads some kinds so at once (FP8, MXFP4, compressed-tensors), and of others (bitsandbytes) de-quantises a loaded
model. Of the rest it has neither; their makers' unquantised models are the way.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from limbeck.errors import BadModel, first_line
from limbeck.models.configuration import attention_of, is_quantised, load_config
from limbeck.models.language_model import LanguageModel
from limbeck.models.load import display_name, load_tokenizer, read_generation
from limbeck.models.quiet import quiet_transformers
from limbeck.models.source import check_tokenizer, check_weights, resolve
from limbeck.models.weights import check_finite

WHILE_READ = ("fp8", "mxfp4", "compressed-tensors")  # kinds that Transformers de-quantises while it reads them
WHEN_READ = ("bitsandbytes",)  # those that it de-quantises in a loaded model
_DTYPE = torch.bfloat16  # in which such models were trained


def quantised_as(config: Any) -> str:
    """The kind of a model's quantisation, by its name in Transformers."""
    stated = config.quantization_config
    found = stated.get("quant_method") if isinstance(stated, dict) else getattr(stated, "quant_method", None)
    return str(getattr(found, "value", found))


def dequantised(name: str | Path) -> LanguageModel:
    """The model of a folder or hub id in bfloat16, de-quantised.

    Raises BadModel where its weights are not quantised, are of a kind that Transformers does not de-quantise, or cannot be read.
    """
    folder = resolve(name)
    config = load_config(folder)
    if not is_quantised(config):
        raise BadModel(f"{name}: its weights are not quantised, so it is an ordinary model already: give it as it is")
    kind = quantised_as(config)
    if kind not in (*WHILE_READ, *WHEN_READ):
        raise BadModel(
            f"{name}: its weights are quantised as {kind}, and Transformers de-quantises {', '.join((*WHILE_READ, *WHEN_READ))}: "
            "give the unquantised model that it was made of"
        )
    check_weights(folder)
    check_tokenizer(folder)
    tokenizer = load_tokenizer(folder)
    if kind in WHILE_READ:
        stated = config.quantization_config
        config.quantization_config = {**(stated if isinstance(stated, dict) else stated.to_dict()), "dequantize": True}
    model = _loaded(folder, config)
    for key, parameter in model.named_parameters():
        if not parameter.is_floating_point() or parameter.dtype.itemsize < 2:
            raise BadModel(
                f"{folder}: {key} is still {parameter.dtype} after de-quantising; give the unquantised model"
            )
        check_finite(folder, key, parameter)
    return LanguageModel(model.eval().requires_grad_(False), tokenizer, display_name(name))


def _loaded(folder: Path, config: Any) -> PreTrainedModel:
    """The de-quantised model as one that was never quantised: built from its configuration, with the numbers that were read."""
    with quiet_transformers():
        try:
            read = AutoModelForCausalLM.from_pretrained(
                folder, config=config, dtype=_DTYPE, use_safetensors=True, trust_remote_code=False
            )
            if quantised_as(config) in WHEN_READ:
                read = read.dequantize()
            plain = type(config).from_dict({k: v for k, v in config.to_dict().items() if k != "quantization_config"})
            model = AutoModelForCausalLM.from_config(
                plain, trust_remote_code=False, dtype=_DTYPE, attn_implementation=attention_of(plain)
            )
            model.load_state_dict(read.state_dict())
        except Exception as error:  # whatever a class, or a package for quantised weights, raises
            raise BadModel(
                f"{folder}: the quantised model cannot be read ({first_line(error)}); install what Transformers asks for, or "
                "give the unquantised model"
            ) from error
    model.tie_weights()
    read_generation(model, folder)
    found: PreTrainedModel = model
    return found
