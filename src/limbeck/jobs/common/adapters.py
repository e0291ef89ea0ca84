"""Adapters that are planned, from a configuration, before weights are read."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers.configuration_utils import PreTrainedConfig

from limbeck.jobs.common.environment import Environment
from limbeck.models.build import build
from limbeck.models.language_model import LanguageModel
from limbeck.models.load import load
from limbeck.models.sidecar import stored_dtype
from limbeck.models.source import resolve_description
from limbeck.planning.cost.adapters import AdapterSize
from limbeck.run.mesh import Mesh
from limbeck.students.adapters import (
    AdapterPlan,
    Subspace,
    adapt,
    check_rank,
    hold_in_half,
    linear_layers,
    require_used,
)
from limbeck.students.nf4 import BYTES

ADAPTER = "adapter"  # the folder of a model's adapters, beside it
LINEAGE = "adapters"  # in a model's lineage: what it was trained by


def planned_matrices(config: PreTrainedConfig, plan: AdapterPlan, *, name: str) -> tuple[tuple[int, ...], ...]:
    """The shapes of the weights that get an adapter in a model of this configuration, which ``name`` names in errors.

    Raises BadSetting for a rank above a layer's smaller side, BadModel where there are no linear layers.
    """
    with torch.device("meta"):
        decoder = build(copy.deepcopy(config))
    check_rank(decoder, plan, name=name)
    return tuple(tuple(layer.weight.shape) for _, layer in linear_layers(decoder))


def size_of(plan: AdapterPlan, matrices: Sequence[Sequence[int]], *, half: bool = False) -> AdapterSize:
    """What adapters of weights of these shapes cost; ``half``: whether those weights are held in two bytes (`held_in_half`)."""
    held = BYTES if plan.four_bit else 2.0 if half else None
    return AdapterSize.of(plan.rank, matrices, between=bool(plan.subspace), held=held)


def adapters_in_words(plan: AdapterPlan) -> str:
    """What is trained, as a run announces it."""
    return f"adapters of rank {plan.rank}{' on weights in 4 bits' if plan.four_bit else ''}"


def adapter_facts(plan: AdapterPlan) -> dict[str, Any]:
    """The adapters, as a run and a model's lineage keep them."""
    return {"rank": plan.rank, "alpha": plan.alpha} | held_facts(plan)


def held_facts(plan: AdapterPlan | None) -> dict[str, Any]:
    """That the weights under adapters are held in 4 bits, as run.json keeps it; nothing where they are not."""
    return {"four_bit": True} if held_in_4_bits(plan) else {}


def held_in_4_bits(plan: AdapterPlan | None) -> bool:
    """Whether the weights under adapters, if there are any, are held in 4 bits."""
    return plan is not None and plan.four_bit


def load_to_train(folder: Path, world: Mesh, adapters: AdapterPlan | None) -> LanguageModel:
    """A model of a folder, to be trained: all weights (``adapters`` None) or adapters, which `adapt_to_train` puts there.

    It is where it computes, unless its weights will be held in 4 bits: then it is on the CPU until they are.
    """
    if held_in_4_bits(adapters):
        return load(folder, train=True)
    return world.load(folder, train=True)


def adapt_to_train(
    model: LanguageModel,
    world: Mesh,
    adapters: AdapterPlan,
    *,
    seed: int,
    bf16: bool,
    subspaces: Mapping[str, Subspace] | None = None,
) -> None:
    """Gives a model its adapters (`students.adapters.adapt`, which raises too).

    Frozen weights are held in as few bytes as may be. ``bf16``: whether the training computes in it.
    """
    adapt(model, adapters, seed=seed, subspaces=subspaces)
    if adapters.four_bit:
        world.place(model, train=True)
        require_used(model)  # where it may be computed by other kernels
    hold_in_half(model, bf16=bf16)


def held_in_half(model: str | Path, environment: Environment) -> bool:
    """Whether the weights of a model stay in two bytes under adapters: stored in bfloat16, where that is computed in.

    A student that is pruned from it has its format.
    """
    return environment.bf16 and stored_dtype(resolve_description(model)) == "bfloat16"
