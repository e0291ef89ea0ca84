"""The folder of shared layers: every weight once, and how the layers share them. Students of any of its depths come of it.

Transformers cannot load it, since its file has fewer tensors than its configuration has layers; `expand` makes ordinary models.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NotRequired, TypedDict

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from limbeck.disk import Count, read_json, whole_folder, write_digests, write_json
from limbeck.errors import BadModel
from limbeck.models.build import build
from limbeck.models.language_model import LanguageModel
from limbeck.models.load import verified_folder
from limbeck.models.weightless import load_without_weights, save_without_weights
from limbeck.students.share import Sharing, share

_MODEL, _TENSORS, _FACTS = "model", "shared.safetensors", "sharing.json"


class _Facts(TypedDict):
    """sharing.json."""

    name: str
    layers: Count
    stages: Count | None
    lineage: NotRequired[dict[str, Any]]


def is_shared(folder: Path) -> bool:
    """Whether a folder holds shared layers."""
    return (folder / _FACTS).is_file()


def described_in(folder: Path) -> Path:
    """The folder of configuration and tokenizer in a folder of shared layers."""
    return folder / _MODEL


def save_shared(model: LanguageModel, sharing: Sharing, folder: Path) -> None:
    """Writes a decoder whose layers `share`: configuration, tokenizer, and its weights without repeats, with checksums.

    Raises OSError where the folder cannot be written.
    """
    with whole_folder(folder.absolute()) as partial:
        save_without_weights(model, partial / _MODEL)
        weights = {name: p.detach().cpu().contiguous() for name, p in model.model.named_parameters()}
        save_file(weights, partial / _TENSORS)
        facts = {"name": model.name, "layers": sharing.layers, "stages": sharing.stages}
        write_json(partial / _FACTS, facts | {"lineage": dict(model.lineage or {})})
        write_digests(partial)


def sharing_in(folder: Path) -> Sharing:
    """How the layers in a folder share their weights. Raises BadModel where that is missing or damaged."""
    facts = _facts_in(folder)
    return Sharing(facts["layers"], facts["stages"])


def _facts_in(folder: Path) -> _Facts:
    facts: _Facts = read_json(folder / _FACTS, _Facts, error=BadModel, remedy="copy the folder again")
    return facts


@torch.no_grad()
def load_shared(folder: Path) -> tuple[LanguageModel, Sharing]:
    """The decoder that `save_shared` wrote, in float32, and how its layers share their weights.

    Raises BadModel where a file is missing or damaged, or its tensors are not those of the model.
    """
    verified_folder(folder)
    facts = _facts_in(folder)
    about = load_without_weights(folder / _MODEL, name=facts["name"])
    with torch.random.fork_rng(devices=[]):  # all of its random weights are overwritten below
        inner = build(about.config)
    inner.generation_config = about.model.generation_config
    model = LanguageModel(inner, about.tokenizer, facts["name"], facts.get("lineage"))
    sharing = Sharing(facts["layers"], facts["stages"])
    share(model, sharing)
    own = dict(inner.named_parameters())
    try:
        tensors = load_file(folder / _TENSORS)
        if own.keys() != tensors.keys():  # a missing weight must not stay random
            raise KeyError(f"its tensors differ in {', '.join(sorted(own.keys() ^ tensors.keys())[:3])}")
        for name, parameter in own.items():
            parameter.copy_(tensors[name])
    except (OSError, SafetensorError, KeyError, RuntimeError) as error:
        raise BadModel(
            f"{folder / _TENSORS}: expected the weights of {sharing.layers} shared layers ({error}); copy the folder again"
        ) from error
    return model, sharing
