"""Every format by its name: limbeck's own, marked with ``@exporter("name")`` in this folder, and those of packages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

import torch

from limbeck.models.language_model import LanguageModel
from limbeck.plugins import Marked, Registry
from limbeck.types import CausalLM


@runtime_checkable
class Exporter(Protocol):
    """Writes a model in a format, and reads it again where limbeck can run what was written."""

    def write(self, model: LanguageModel, folder: Path, *, dtype: torch.dtype | None) -> None:
        """Writes files into an empty folder, in a number format if one is given.

        Raises BadSetting where the format has no such numbers, BadModel for a model that it cannot hold.
        """

    def read(self, folder: Path, like: LanguageModel) -> CausalLM | None:
        """The model that was written, on the device of ``like``, to be compared with it; None where it cannot be run here."""


Kind = TypeVar("Kind", bound=Callable[[], Exporter])


def exporter(name: str) -> Callable[[Kind], Kind]:
    """Gives limbeck's own formats their names, ``@exporter("folder")`` above a class. Changes nothing else."""
    return lambda kind: kind


def _wrong(name: str, found: object) -> str:
    whole = callable(found) and all(callable(getattr(found, method, None)) for method in ("write", "read"))
    return "" if whole else "expected a class with write(model, folder, *, dtype) and read(folder, like)"


EXPORTERS: Registry[Callable[[], Exporter]] = Registry("exporter", Marked("exporters", "exporter"), _wrong)
