"""The subspaces in which adapters of LoRA-XS move, from gradients of the first rows of the data; kept beside a training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from limbeck.disk import replacing
from limbeck.errors import BadFolder, BadModel
from limbeck.models.language_model import LanguageModel
from limbeck.objectives.base import Objective
from limbeck.objectives.fused import fused_backward
from limbeck.run.micro import micro_batches, micro_rows
from limbeck.run.world import World
from limbeck.students.adapters import AdapterPlan, Subspace, check_rank, linear_layers
from limbeck.students.subspaces import OF_DATA, Kind, subspaces
from limbeck.types import Batch, ChunkTeacher, Teacher

ROWS = 64  # of the data, whose gradients are summed; the paper's code takes 50 samples of its instructions
FILE = "subspace.safetensors"  # in the folder of a training, which continues in the same one
_PARTS = ("a", "b", "start")


def subspaces_of(
    model: LanguageModel,
    plan: AdapterPlan,
    rows: Callable[[], Batch],
    *,
    objective: Objective,
    teacher: Teacher | ChunkTeacher | None,
    step: float,
    seed: int,
    folder: Path,
    world: World,
) -> dict[str, Subspace]:
    """The subspaces of a model's linear layers, by their names: from the training's folder, where they are made once.

    ``rows`` gives the rows whose gradients are taken, ``step`` is the size of the training's first step. Raises BadSetting for a
    rank that is too high.
    """
    check_rank(model.model, plan, name=model.name)
    file = folder / FILE
    if world.first and not file.exists():
        kind = cast("Kind", plan.subspace)
        slopes = gradients(model, rows(), objective, teacher) if kind in OF_DATA else {}
        made = subspaces(model, kind, plan.rank, gradients=slopes, step=step / plan.scale, seed=seed)
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(file) as beside:
            save_file({f"{name}.{part}": getattr(one, part) for name, one in made.items() for part in _PARTS}, beside)
    world.barrier()
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise BadFolder(
            f"{file}: expected the adapters' frozen matrices ({error}): remove the folder {folder}; its training then starts "
            "again"
        ) from error
    return {name: Subspace(*(tensors[f"{name}.{part}"] for part in _PARTS)) for name, _ in linear_layers(model.model)}


def gradients(
    model: LanguageModel, batch: Batch, objective: Objective, teacher: Teacher | ChunkTeacher | None
) -> dict[str, Tensor]:
    """The gradient of the mean loss of some rows in each linear layer's weight, by its name; the model keeps none."""
    total = batch.total
    for part in micro_batches(batch, model.device, micro_rows(batch.tokens.shape[1], model.device)):
        with torch.no_grad():
            signal = teacher(part) if teacher is not None and objective.needs_teacher else None
        fused_backward(objective, model(part), signal, part, scale=1 / total)
    found = {}
    for name, layer in linear_layers(model.model):
        if layer.weight.grad is None:
            raise BadModel(
                f"{model.name}: expected a model that computes with all its linear layers, but {name} had no part in the loss of "
                "the data: tune all its weights, or take --subspace weights"
            )
        found[name] = layer.weight.grad.cpu()
    model.model.zero_grad(set_to_none=True)
    return found
