"""Checks of stored weights: they must be those of the configuration, and finite."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from transformers.configuration_utils import PreTrainedConfig

from limbeck.errors import BadModel
from limbeck.models.build import build
from limbeck.models.source import stored_tensors

_CHECKED_AT_ONCE = 2**18  # numbers of a tensor checked together; a test for NaN makes several tensors of this size


def check_shapes(folder: Path, config: PreTrainedConfig) -> None:
    """Compares the shapes of stored tensors with the configuration, before memory for the latter is allocated.

    Raises BadModel where a shape differs, or the configuration cannot be built.
    """
    try:
        with torch.device("meta"):
            model = build(config)
    except BadModel as error:
        raise BadModel(f"{folder}: {error}") from error
    stored = stored_tensors(folder)
    expected = ((name, stored[name].shape, p.shape) for name, p in model.named_parameters() if name in stored)
    check_match(folder, mismatched=[(n, s, e) for n, s, e in expected if s != tuple(e)], missing=(), unexpected=())


def check_match(
    folder: Path,
    *,
    mismatched: Iterable[tuple[str, Sequence[int], Sequence[int]]],
    missing: Iterable[str],
    unexpected: Iterable[str],
) -> None:
    """Raises BadModel where stored tensors are not those of the configuration.

    ``mismatched`` holds (name, stored shape, expected shape); ``missing`` and ``unexpected`` hold names. Each may be empty.
    """
    mismatched, missing, unexpected = sorted(mismatched, key=str), sorted(missing), sorted(unexpected)
    if mismatched:
        key, found, expected = mismatched[0]
        raise BadModel(
            f"{folder}: config.json and weights do not belong together: {key} should be {tuple(expected)} by the "
            f"configuration, the weights have {tuple(found)} ({len(mismatched)} such tensors); "
            "restore the config.json that was saved with them"
        )
    if missing:
        raise BadModel(
            f"{folder}: the weights lack {len(missing)} tensors the configuration asks for, {missing[0]} first; "
            "the file is incomplete or of another architecture: copy the folder again"
        )
    if unexpected:
        raise BadModel(
            f"{folder}: the weights hold {len(unexpected)} tensors the configuration has no place for, {unexpected[0]} "
            "first; the config.json is of another model: restore the one that was saved with the weights"
        )


def check_finite(folder: Path, name: str, values: Float[Tensor, "*shape"]) -> None:
    """Raises BadModel where a tensor of the weights holds NaN or infinity."""
    bad = sum(part.numel() - int(torch.isfinite(part).sum()) for part in values.reshape(-1).split(_CHECKED_AT_ONCE))
    if bad:
        raise BadModel(
            f"{folder}: {bad} of the {values.numel()} values of {name} are NaN or infinite (read as {values.dtype}); "
            "the weights are damaged, or need another --dtype: copy the folder again, or choose one"
        )
