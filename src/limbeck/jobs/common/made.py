"""What the card of a model says that was made of another one without training."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch

from limbeck.jobs.common.folder import command
from limbeck.models.language_model import LanguageModel
from limbeck.models.sidecar import licence_of
from limbeck.models.source import resolve_description
from limbeck.students.shape import Shape


def made_of(
    source: str, of: LanguageModel, made: LanguageModel, *, shape: Shape, stored: torch.dtype
) -> dict[str, Any]:
    """The facts for `report.card.model_card`. ``source`` is the folder or hub id of ``of``, ``stored`` the format on disk."""
    return {
        "teacher": {
            "name": of.name,
            "parameters": of.parameters_count,
            "shape": asdict(Shape.of(of.config)),
            "stated": licence_of(resolve_description(source)),
        },
        "student": {
            "parameters": made.parameters_count,
            "shape": asdict(shape),
            "dtype": str(stored).removeprefix("torch."),
        },
        "lineage": made.lineage,
        "command": command(),
    }
