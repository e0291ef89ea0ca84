"""Writes a model as a GGUF file, one tensor in memory at a time. Names and layouts are those of `models.gguf.families`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.configuration_utils import PreTrainedConfig

from limbeck.errors import BadModel
from limbeck.exporters.gguf.numbers import stored
from limbeck.exporters.gguf.tokens import Tokens, tokens_of
from limbeck.models.gguf.container import require_gguf
from limbeck.models.gguf.families import family_of
from limbeck.models.gguf.numbers import BLOCK, BLOCKED, EMBEDDING, Numbers, size_of, type_of
from limbeck.models.language_model import LanguageModel

_QUANTISATION_VERSION = 2  # of ggml's blocks


@torch.no_grad()
def write_gguf(model: LanguageModel, file: Path, kind: str, *, facts: Mapping[str, str] | None = None) -> Tokens:
    """Writes the file, and gives what became of the tokenizer. ``facts`` are keys of text, such as general.license.

    Raises BadModel for a model that the format cannot hold, and where the package `gguf` is not installed.
    """
    require_gguf()
    from gguf import GGUFWriter

    config = model.config
    family = family_of(config)
    tensors = dict(model.model.named_parameters())
    places = family.names(tensors, layers=config.num_hidden_layers)
    keys, extra = family.stored(config)
    rows = next(int(tensor.shape[0]) for name, tensor in tensors.items() if places[name] == EMBEDDING)
    numbers = Numbers(kind, tied="output.weight" not in places.values())
    tokens = tokens_of(model, rows)
    writer = GGUFWriter(file, family.architecture)
    about = {
        "general.type": "model",
        "general.name": model.name,
        "general.file_type": numbers.file_type,
        "general.quantization_version": _QUANTISATION_VERSION,
        **(facts or {}),
    }
    for name, value in {**about, **keys, f"{family.architecture}.vocab_size": rows, **tokens.keys}.items():
        _add(writer, name, value)

    def laid_out(name: str) -> np.ndarray:
        return family.write(name, tensors[name].detach().float().cpu().numpy(), config)

    kinds, shapes = {}, {}
    for name, place in places.items():
        shapes[name] = tuple(int(axis) for axis in laid_out(name).shape)
        kinds[name] = numbers.of(place, shapes[name])
        _announce(writer, place, kinds[name], shapes[name])
    for place, values in extra.items():
        _announce(writer, place, "f32", values.shape)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name, place in places.items():
            writer.write_tensor_data(stored(place, laid_out(name), kinds[name]))
        for values in extra.values():
            writer.write_tensor_data(np.ascontiguousarray(values, dtype=np.float32))
    finally:
        writer.close()
    return replace(tokens, notes=(*tokens.notes, *_left_whole(kind, kinds, shapes), *_notes(config)))


def _left_whole(kind: str, kinds: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """What of a quantised file is float16, since its rows do not divide into blocks."""
    whole = {name: math.prod(shapes[name]) for name in kinds if kinds[name] == "f16"}
    if kind not in BLOCKED or not whole:
        return []
    widths = sorted({shapes[name][-1] for name in whole})
    share = sum(whole.values()) / sum(map(math.prod, shapes.values()))
    return [
        f"{share:.0%} of the numbers are float16 and not {kind}: their rows of {', '.join(map(str, widths))} are no multiple "
        f"of the {BLOCK} numbers that share a scale; a student whose widths are has a smaller file"
    ]


def _notes(config: PreTrainedConfig) -> list[str]:
    """What llama.cpp leaves out of a model that the file holds whole."""
    window = getattr(config, "sliding_window", None)
    if config.model_type != "phi3" or window is None or window >= config.max_position_embeddings:
        return []
    return [
        f"llama.cpp reads phi3 without its sliding window of {window} tokens: texts longer than that are read otherwise"
    ]


def _announce(writer: Any, place: str, kind: str, shape: tuple[int, ...]) -> None:
    dtype = np.dtype(np.float32)  # what the writer would conclude from this, type_of says
    writer.add_tensor_info(place, shape, dtype, size_of(kind, shape), raw_dtype=type_of(kind))


def _add(writer: Any, name: str, value: Any) -> None:
    """A key with its value, in the type that llama.cpp's converter gives it."""
    from gguf import GGUFValueType as Type

    if isinstance(value, bool):
        writer.add_key_value(name, value, Type.BOOL)
    elif isinstance(value, int):
        writer.add_key_value(name, value, Type.UINT32)
    elif isinstance(value, float):
        writer.add_key_value(name, value, Type.FLOAT32)
    elif isinstance(value, str):
        writer.add_key_value(name, value, Type.STRING)
    elif isinstance(value, list):
        inner = {str: Type.STRING, float: Type.FLOAT32, int: Type.INT32}[type(value[0])] if value else Type.STRING
        writer.add_key_value(name, value, Type.ARRAY, sub_type=inner)
    else:
        raise BadModel(f"{name} = {value!r} has no type in a GGUF file; export another format")
