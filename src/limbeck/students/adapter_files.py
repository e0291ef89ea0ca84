"""Folders of adapters in the form of the package PEFT: ``adapter_config.json`` and ``adapter_model.safetensors``.

What limbeck writes, PEFT loads with no key missing; what PEFT writes of plain LoRA, limbeck reads. Anything in a file that would
change the result and is not computed here (DoRA, adapters of embeddings, weights saved whole) is refused by name.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypedDict

import torch
from msgspec import Meta
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from limbeck.disk import read_plain, require_type, whole_folder, write_digests, write_text
from limbeck.errors import BadModel
from limbeck.models.language_model import LanguageModel
from limbeck.models.source import weights_digest
from limbeck.students.adapters import A as _A
from limbeck.students.adapters import AdapterPlan, adapted_layers, left_of, linear_layers
from limbeck.students.adapters import B as _B
from limbeck.students.nf4 import through_nf4

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."  # of PEFT's names, before that of the module
_BASE = "base_sha256"  # in the weights' metadata: the digest of the model that the adapters belong to
_HELD = "base_held_in"  # there: the format in which its weights were held under them, where they were rounded to it
_NF4 = "nf4"
_MATRIX = re.compile(rf"{re.escape(_PREFIX)}(.+)\.({_A}|{_B})\.weight")
_REMEDY = "copy the adapter's folder again, or save it again with PEFT"

# Fields that say what is computed here: their value, and those that only describe.
_COMPUTED = {"r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "target_modules", "fan_in_fan_out"}
_DESCRIBING = {
    *("peft_type", "task_type", "base_model_name_or_path", "revision", "inference_mode", "init_lora_weights", "peft_version"),
    *("auto_mapping", "lora_dropout", "megatron_core", "ensure_weight_tying", "eva_config", "corda_config", "loftq_config"),
    *("runtime_config", "qalora_group_size", "layers_to_transform", "layers_pattern", "exclude_modules"),
}  # fmt: skip


_SLOW, _REPEATS = re.compile(r"\)[*+{?]"), 3  # repeated groups, and how many repetitions are allowed
_BEGINNINGS = ("gaussian", "eva", "orthogonal")  # of A and B, which leave the base as it is


@dataclass(frozen=True)
class AdapterFile:
    """A folder of adapters: ``base`` names the model they belong to, "" where it is not said, ``digest`` is that of its weights.

    ``layers`` has (A, B, scale) by the name of the layer. ``four_bit``: whether the weights under them were held in 4 bits.
    """

    folder: Path
    base: str
    digest: str
    layers: Mapping[str, tuple[Tensor, Tensor, float]]
    four_bit: bool = False


def write_adapters(model: LanguageModel, plan: AdapterPlan, folder: Path, *, base: str, base_folder: Path) -> None:
    """Writes a model's adapters as a folder that PEFT reads. ``base`` names the model without them, which is in a folder."""
    layers = adapted_layers(model)
    tensors = {
        f"{_PREFIX}{name}.{matrix}.weight": value.detach().cpu().contiguous()
        for name, layer in layers.items()
        for matrix, value in ((_A, layer.lora_A), (_B, left_of(layer)))  # with R in B: a plain LoRA
    }
    config: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "revision": None,
        "inference_mode": True,
        "r": plan.rank,
        "lora_alpha": plan.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": any(isinstance(layer, Conv1D) for layer in layers.values()),
        "target_modules": _targets(model, layers),
        "use_rslora": False,
        "use_dora": False,
        "modules_to_save": None,
        "rank_pattern": {},
        "alpha_pattern": {},
        "init_lora_weights": True,
    }
    with whole_folder(folder) as beside:
        write_text(beside / CONFIG, json.dumps(config, indent=2) + "\n")  # with no field of ours
        metadata = {"format": "pt", _BASE: weights_digest(base_folder)} | ({_HELD: _NF4} if plan.four_bit else {})
        save_file(tensors, beside / WEIGHTS, metadata=metadata)
        write_digests(beside)


def _targets(model: LanguageModel, layers: Mapping[str, Any]) -> list[str]:
    """The shortest endings of names that select these layers and no others, such as q_proj; whole names where none do."""
    short = sorted({name.rpartition(".")[2] for name in layers})
    head = model.model.get_output_embeddings()
    others = [
        name
        for name, module in model.model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and name not in layers and module is not head
    ]
    clash = any(name.rpartition(".")[2] in short for name in others)
    return sorted(layers) if clash else short


def read_adapters(folder: Path) -> AdapterFile:
    """Reads a folder of adapters. Raises BadModel where it is damaged, or holds what is not computed here."""
    config = read_plain(folder / CONFIG, dict[str, Any], error=BadModel, remedy=_REMEDY)
    require_type(folder / CONFIG, config, _Config, error=BadModel, remedy=_REMEDY)
    _refuse_unknown(folder, config)
    try:
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            metadata = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        pickled = sorted(path.name for path in folder.glob("adapter_model.bin"))
        why = f"found {pickled[0]} alone, and unpickling can run any code" if pickled else str(error)
        raise BadModel(f"{folder / WEIGHTS}: expected adapters in safetensors ({why}): {_REMEDY}") from error
    pairs: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if (match := _MATRIX.fullmatch(name)) is None:
            raise BadModel(
                f"{folder / WEIGHTS}: expected matrices A and B of linear layers, found {name}, which is not computed here: "
                "merge it with PEFT (merge_and_unload) and give the merged model"
            )
        _check_matrix(folder, name, tensor)
        pairs.setdefault(match[1], {})[match[2]] = tensor
    layers = {}
    for name, pair in pairs.items():
        if pair.keys() != {_A, _B} or pair[_A].shape[0] != pair[_B].shape[1]:
            raise BadModel(f"{folder / WEIGHTS}: expected A and B of one rank for {name}: {_REMEDY}")
        layers[name] = (pair[_A], pair[_B], _scale(config, name, pair[_A].shape[0]))
    if not layers:
        raise BadModel(f"{folder / WEIGHTS}: expected adapters, found no tensor: {_REMEDY}")
    held = metadata.get(_HELD)
    if held not in (None, _NF4):
        raise BadModel(
            f"{folder / WEIGHTS}: expected adapters on weights as they are or in nf4, found {held!r}: merge them with the "
            "version of limbeck that wrote them"
        )
    base = str(config.get("base_model_name_or_path") or "")
    return AdapterFile(folder, base, metadata.get(_BASE, ""), layers, held == _NF4)


class _Config(TypedDict, total=False):
    """The fields of adapter_config.json that are read."""

    peft_type: str
    base_model_name_or_path: str | None
    r: Annotated[int, Meta(ge=1)]
    lora_alpha: float
    use_rslora: bool
    alpha_pattern: dict[Annotated[str, Meta(max_length=200)], float] | None


def _check_matrix(folder: Path, name: str, tensor: Tensor) -> None:
    """Raises BadModel for a tensor that is no matrix of finite numbers."""
    if tensor.ndim != 2 or not min(tensor.shape) or not tensor.is_floating_point() or not tensor.isfinite().all():
        raise BadModel(
            f"{folder / WEIGHTS}: expected a matrix of finite numbers for {name}, got {tensor.dtype} of {tuple(tensor.shape)}"
            f"{'' if tensor.isfinite().all() else ', not all finite'}: {_REMEDY}"
        )


def _refuse_unknown(folder: Path, config: Mapping[str, Any]) -> None:
    """Raises BadModel for a kind of adapters, or a field with an effect, that is not computed here."""
    if config.get("peft_type") != "LORA":
        raise BadModel(
            f"{folder / CONFIG}: expected adapters of the kind LORA, found {config.get('peft_type')}: merge them with PEFT "
            "(merge_and_unload) and give the merged model"
        )
    begun = config.get("init_lora_weights", True)
    if not isinstance(begun, bool) and begun not in _BEGINNINGS:
        raise BadModel(
            f"{folder / CONFIG}: its adapters began as {begun!r}, which changes the base's weights too: save them with PEFT as "
            "plain LoRA (save_pretrained with path_initial_model_for_weight_conversion), or merge them there"
        )
    harmless = _COMPUTED | _DESCRIBING
    for name, value in config.items():
        if value and name not in harmless and not (name == "bias" and value == "none"):
            raise BadModel(
                f"{folder / CONFIG}: {name} is {value!r}, which is not computed here: merge the adapters with PEFT "
                "(merge_and_unload) and give the merged model"
            )


def _scale(config: Mapping[str, Any], name: str, rank: int) -> float:
    """The factor on B A of a layer, by its own alpha where the file has one for it."""
    alpha = float(config.get("lora_alpha", 8))
    for pattern, own in (config.get("alpha_pattern") or {}).items():
        if _matches(pattern, name):
            alpha = float(own)
            break
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _matches(pattern: str, name: str) -> bool:
    """Whether a pattern of PEFT is of a layer: its whole name, or what follows a dot of it, unless it begins with ^.

    Raises BadModel for a pattern that is none, or that a stranger could have made to take for ever.
    """
    if _SLOW.search(pattern) or pattern.count("*") + pattern.count("+") > _REPEATS:
        raise BadModel(
            f"{CONFIG}: the pattern {pattern!r} of alpha_pattern may take for ever: name the layers themselves in it"
        )
    try:
        return re.fullmatch(pattern[1:] if pattern.startswith("^") else rf"(.*\.)?({pattern})", name) is not None
    except re.error as error:
        raise BadModel(f"{CONFIG}: the pattern {pattern!r} of alpha_pattern is none ({error}): {_REMEDY}") from error


@torch.no_grad()
def merge_file(model: LanguageModel, found: AdapterFile, *, base_folder: Path) -> None:
    """Adds the adapters of a folder to a model's weights, in float64; to those that they were trained on, in 4 bits or not.

    Raises BadModel where they belong to another model: by the digest of its weights, by the names of layers, or by their shapes.
    """
    if found.digest and found.digest != weights_digest(base_folder):
        raise BadModel(
            f"{found.folder}: its adapters belong to other weights than those of {model.name} (their SHA-256 differ): give the "
            "model that they were trained on, with --base"
        )
    layers = dict(linear_layers(model.model, least=1))
    for name, (a, b, scale) in found.layers.items():
        layer = layers.get(name)
        if layer is None and model.model.get_output_embeddings() is dict(model.model.named_modules()).get(name):
            raise BadModel(
                f"{found.folder}: it has an adapter of the head, {name}, which is not merged here: merge it with PEFT "
                "(merge_and_unload) and give the merged model"
            )
        if layer is None:
            raise BadModel(
                f"{found.folder}: {model.name} has no linear layer {name}: give the model that the adapters belong to, with "
                "--base"
            )
        product = scale * (b.double() @ a.double())
        product = product.t() if isinstance(layer, Conv1D) else product
        if product.shape != layer.weight.shape:
            raise BadModel(
                f"{found.folder}: the adapter of {name} makes {tuple(product.shape)}, and {model.name} has "
                f"{tuple(layer.weight.shape)} there: give the model that the adapters belong to, with --base"
            )
        if found.four_bit:
            layer.weight.copy_(through_nf4(layer.weight))
        layer.weight += product.to(layer.weight)
