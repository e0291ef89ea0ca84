"""Measurements as arrays of one number a document or prompt, kept in a file of safetensors."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

from limbeck.disk import load_arrays, save_arrays, writing
from limbeck.probes.measurements import AGAIN


@dataclass(frozen=True)
class Kept:
    """The base of dataclasses whose fields are such arrays, all of one length."""

    def save(self, path: Path) -> None:
        """Writes the arrays, atomically. Raises BadFolder where the file cannot be written."""
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        save_arrays(path, dict(vars(self)))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads what `save` wrote. Raises BadFolder where it is missing or damaged."""
        names = [field.name for field in fields(cls)]
        return cls(**load_arrays(path, dict.fromkeys(names, 1), needs=tuple(names), remedy=AGAIN).arrays)
