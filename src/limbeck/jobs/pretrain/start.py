"""The model from which `limbeck pretrain --start` goes on: what does not go with it, and what a run keeps of it."""

from __future__ import annotations

from typing import Any

import torch

from limbeck.config import PretrainSettings
from limbeck.errors import BadSetting
from limbeck.models.language_model import LanguageModel
from limbeck.models.sidecar import licence_of
from limbeck.models.source import require, resolve, resolve_description, weights_digest

_OF_NEW_MODELS = ("params", "shape", "mixers", "width", "layers", "vocab")


def check_start(settings: PretrainSettings) -> None:
    """Raises BadSetting for settings of a new model, which does not go on from one, and BadModel where there is none."""
    given = [
        name for name in _OF_NEW_MODELS if name in settings.model_fields_set and getattr(settings, name) is not None
    ]
    if given:
        flags = ", ".join(f"--{name}" for name in given)
        raise BadSetting(
            f"--start {settings.start} goes on from a model, whose shape, layers and tokenizer stay, and {flags} describe a new "
            "one: leave them out, or --start; limbeck grow makes a larger model of it, limbeck shrink a smaller one"
        )
    require(settings.start)


def start_signature(settings: PretrainSettings) -> dict[str, str]:
    """What a run's signature has of the start besides its name: the SHA-256 of its weights; empty for new weights."""
    return {} if settings.start is None else {"start_weights": weights_digest(resolve(settings.start))}


def start_facts(settings: PretrainSettings, model: LanguageModel, stored: torch.dtype) -> dict[str, Any]:
    """What run.json has of the start for report and card; empty for new weights. ``stored``: the saved number format."""
    if settings.start is None:
        return {}
    start = {"name": model.name, "weights": start_signature(settings)["start_weights"]}
    facts = {"start": start, "dtype": str(stored).removeprefix("torch."), "lineage": model.lineage}
    found = licence_of(resolve_description(settings.start))
    return facts | ({"stated": found} if found else {})
