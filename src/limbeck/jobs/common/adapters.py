"""Adapters that are planned, from a configuration, before weights are read."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from transformers.configuration_utils import PreTrainedConfig

from limbeck.models.build import build
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


def size_of(plan: AdapterPlan, matrices: Sequence[Sequence[int]]) -> AdapterSize:
    """What adapters of weights of these shapes cost."""
    return AdapterSize.of(plan.rank, matrices, between=bool(plan.subspace))
