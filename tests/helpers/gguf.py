"""Tiny GGUF files of random models, written by the package `gguf` with limbeck's table of families."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import quantize
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from limbeck.models.build import build
from limbeck.models.gguf.families import family_of
from tests.helpers import models

CHAT = "{% for m in messages %}<|eos|>{{ m['role'] }}: {{ m['content'] }}{% endfor %}"


def byte_level(
    *, pre: str = "gpt-2", vocab: int = 300, tokenizer: PreTrainedTokenizerFast | None = None
) -> dict[str, object]:
    """The keys of a byte-level tokenizer, behind ``tokenizer.``."""
    tokenizer = tokenizer or models.tokenizer(vocab)
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    ids = state["model"]["vocab"]
    tokens = sorted(ids, key=ids.get)
    special = {token["content"] for token in state["added_tokens"]}
    return {
        "ggml.model": "gpt2",
        "ggml.pre": pre,
        "ggml.tokens": tokens,
        "ggml.token_type": [3 if token in special else 1 for token in tokens],
        "ggml.merges": [" ".join(pair) for pair in state["model"]["merges"]],
        "ggml.bos_token_id": ids["<|bos|>"],
        "ggml.eos_token_id": ids["<|eos|>"],
        "ggml.padding_token_id": ids["<|pad|>"],
        "chat_template": CHAT,
    }


def random_model(config: PreTrainedConfig, *, seed: int = 0) -> PreTrainedModel:
    """A random model in eval mode; its norms and biases are random too, else a wrong change of them would not show."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 1:
                    parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval().requires_grad_(False)


def stored_tensors(model: PreTrainedModel) -> dict[str, np.ndarray]:
    """The tensors of a model as its file holds them, by name."""
    family = family_of(model.config)
    ours = {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}
    names = family.names(ours, layers=model.config.num_hidden_layers)
    _, more = family.stored(model.config)
    return {names[name]: family.write(name, values, model.config) for name, values in ours.items()} | more


def write_gguf(
    path: Path,
    model: PreTrainedModel,
    *,
    words: Mapping[str, object] | None = None,
    keys: Mapping[str, object] | None = None,
    tensors: Mapping[str, np.ndarray | None] | None = None,
    kind: GGMLQuantizationType | None = None,
    architecture: str | None = None,
) -> Path:
    """Writes a model with a byte-level tokenizer, or that of ``words``; ``keys`` and ``tensors`` change some, None leaves out.

    ``kind`` is the number format of matrices whose rows it divides; the rest is F32.
    """
    family = family_of(model.config)
    architecture = architecture or family.architecture
    stored, _ = family.stored(model.config)
    writer = GGUFWriter(path, architecture)
    said = stored | {f"tokenizer.{key}": value for key, value in (words or byte_level()).items()} | dict(keys or {})
    for key, value in said.items():
        if value is not None:
            _add(writer, key, value)
    for name, values in (stored_tensors(model) | dict(tensors or {})).items():
        if values is None:
            continue
        values = np.ascontiguousarray(values, np.float32)
        if kind is not None and values.ndim == 2 and values.shape[-1] % 32 == 0:
            writer.add_tensor(name, quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add(writer: GGUFWriter, key: str, value: object) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)
