"""Adapters that are planned, from a configuration, before weights are read."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers.configuration_utils import PreTrainedConfig

from limbeck.jobs.common.environment import Environment
from limbeck.models.build import build
from limbeck.models.sidecar import stored_dtype
from limbeck.models.source import resolve_description
from limbeck.planning.cost.adapters import AdapterSize
from limbeck.students.adapters import AdapterPlan, check_rank, linear_layers

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
    return AdapterSize.of(plan.rank, matrices, between=bool(plan.subspace), half=half)


def held_in_half(model: str | Path, environment: Environment) -> bool:
    """Whether the weights of a model stay in two bytes under adapters: stored in bfloat16, where that is computed in.

    A student that is pruned from it has its format.
    """
    return environment.bf16 and stored_dtype(resolve_description(model)) == "bfloat16"
