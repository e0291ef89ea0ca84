"""A model that runs in memory where it fits there, and layer by layer from disk where it does not."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch

from limbeck.config.defaults import FREE_SHARE
from limbeck.models.configuration import is_quantised, load_config
from limbeck.models.language_model import LanguageModel
from limbeck.models.load import display_name, load
from limbeck.models.source import resolve, stored_tensors
from limbeck.models.streamed import StreamedModel, free_on, load_streamed
from limbeck.models.trim.model import Vocabulary, trim
from limbeck.units import binary_size


def load_within(
    name: str | Path,
    *,
    device: torch.device,
    dtype: torch.dtype,
    length: int,
    spill: Path,
    kept: int = 0,
    say: Callable[[str], None] = print,
) -> LanguageModel | StreamedModel:
    """A frozen model for sequences of ``length`` tokens, as `load` or `load_streamed` gives it.

    It is streamed where its weights in ``dtype`` take more than 80 % of free memory, which ``say`` is told; quantised weights
    never are. ``spill`` and ``kept`` are as for `load_streamed`. Raises as both do.
    """
    folder = resolve(name)
    needed = 0 if is_quantised(load_config(folder)) else bytes_in_memory(folder, dtype)
    free = min(free_on(device), free_on(torch.device("cpu")))  # weights pass through the host's memory in any case
    if needed <= FREE_SHARE * free:
        return load(name, device=device, dtype=dtype)
    say(
        f"{display_name(name)} takes {binary_size(needed, up=True)} in {str(dtype).removeprefix('torch.')}, "
        f"{binary_size(free)} of memory is free: it is read from disk layer by layer"
    )
    return load_streamed(name, device=device, dtype=dtype, length=length, spill=spill, kept=kept)


def kept_tokens(
    model: LanguageModel | StreamedModel, vocabulary: Vocabulary, about: LanguageModel
) -> LanguageModel | StreamedModel:
    """The model with the kept tokens alone, taken over; ``about`` describes it so. Raises BadModel as `trim` does."""
    return trim(model, vocabulary) if isinstance(model, LanguageModel) else model.trimmed(vocabulary, about)


def bytes_in_memory(folder: Path, dtype: torch.dtype) -> int:
    """Bytes of a folder's weights in a number format. Raises BadModel where they are missing or damaged."""
    return sum(math.prod(tensor.shape) for tensor in stored_tensors(folder).values()) * dtype.itemsize
