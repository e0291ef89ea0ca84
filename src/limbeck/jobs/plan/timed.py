"""Seconds a token of a few shapes, measured on this machine: each is built with random weights, generates, and is forgotten."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import psutil
import torch
from transformers.configuration_utils import PreTrainedConfig

from limbeck.errors import BadSetting
from limbeck.jobs.plan.search import Candidate
from limbeck.models.build import build
from limbeck.models.parts import give_back
from limbeck.probes.cost import token_seconds
from limbeck.run.log import console
from limbeck.students.shape import config_of

_FLOAT32 = 4


def measured(config: PreTrainedConfig, shapes: Sequence[Candidate]) -> tuple[list[float], str]:
    """Median seconds a token of each shape, students of a teacher of this configuration, and how they were measured.

    Raises BadSetting where the largest does not fit the free memory.
    """
    need, free = _FLOAT32 * max(one.parameters for one in shapes), psutil.virtual_memory().available
    if need > free:
        raise BadSetting(
            f"--latency: the shapes are measured on this machine in float32, where the largest takes {need / 2**30:.2f} GiB, and "
            f"{free / 2**30:.2f} GiB of memory are free: give a device with --gpu, from whose bandwidth time is computed"
        )
    how = f"this machine: PyTorch, float32, {torch.get_num_threads()} threads, batch 1, after a short prompt"
    console.print(f"measuring {len(shapes)} shapes on {how}: seconds each, up to half a minute for a large one")
    found: list[float] = []
    for one in shapes:
        found.append(token_seconds(build(_student(config, one)).eval().requires_grad_(False)))
        give_back()
    return found, how


def _student(config: PreTrainedConfig, one: Candidate) -> PreTrainedConfig:
    trimmed = copy.deepcopy(config)
    trimmed.vocab_size = one.vocab
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):  # of tokens that may be trimmed away
        setattr(trimmed, name, None)
    return config_of(one.shape, trimmed)
