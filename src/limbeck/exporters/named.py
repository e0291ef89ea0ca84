"""Every format by its name: limbeck's own, marked with ``@exporter("name")`` in this folder, and those of packages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch

from limbeck.errors import BadSetting
from limbeck.models.language_model import LanguageModel
from limbeck.plugins import Marked, Registry
from limbeck.types import CausalLM


class CannotRun(Exception):
    """What was written cannot be run here, for the reason of the message; whoever compares says so and goes on."""


@dataclass(frozen=True)
class Seconds:
    """How long a program took to read a prompt, and to write tokens after it, one by one."""

    prefill: float
    generation: float


@runtime_checkable
class Exporter(Protocol):
    """Writes a model in a format, and reads it again where limbeck can run what was written.

    A class with ``variants``, a tuple of names such as q8_0, is called with one of them, or with None where none is given.
    """

    def write(self, model: LanguageModel, folder: Path, *, dtype: torch.dtype | None) -> Any:
        """Writes files into an empty folder, in a number format if one is given.

        May give notes for the user, a list of sentences. Raises BadSetting where the format has no such numbers, BadModel
        for a model that it cannot hold.
        """

    def read(self, folder: Path, like: LanguageModel) -> CausalLM | None:
        """The model that was written, on the device of ``like``, to be compared with it; None where limbeck cannot run the
        format.

        Raises CannotRun with the reason where it could elsewhere. What is given may have ``seconds(prompt, new, threads)``
        (`Timed`), ``tokenized(text)``, and ``close()``.
        """


@runtime_checkable
class Timed(Protocol):
    """A program that reads prompts and writes tokens, whose time is taken."""

    def seconds(self, prompt: Sequence[int], new: int, threads: int) -> Seconds:
        """How long it takes to read a prompt, and to write ``new`` tokens after it, in so many threads."""


Kind = TypeVar("Kind", bound=Callable[..., Exporter])


def exporter(name: str) -> Callable[[Kind], Kind]:
    """Gives limbeck's own formats their names, ``@exporter("folder")`` above a class. Changes nothing else."""
    return lambda kind: kind


def _wrong(name: str, found: object) -> str:
    whole = callable(found) and all(callable(getattr(found, method, None)) for method in ("write", "read"))
    return "" if whole else "expected a class with write(model, folder, *, dtype) and read(folder, like)"


EXPORTERS: Registry[Callable[..., Exporter]] = Registry("exporter", Marked("exporters", "exporter"), _wrong)


@dataclass(frozen=True)
class Format:
    """A format as a user names it, ``gguf:q8_0``: the exporter's name, and a variant where one is asked for."""

    name: str
    variant: str | None = None

    @classmethod
    def of(cls, text: str) -> Format:
        """From a user's text. Raises BadSetting for a format or a variant that is not there."""
        name, _, variant = text.partition(":")
        if name not in EXPORTERS:
            raise BadSetting(f"--to: {EXPORTERS.unknown(name)}")
        known = tuple(getattr(EXPORTERS[name], "variants", ()))
        if variant and variant not in known:
            there = f"there are {', '.join(known)}" if known else "this format has none"
            raise BadSetting(f"--to {text}: unknown variant {variant!r} of {name}; {there}")
        return cls(name, variant or None)

    def __str__(self) -> str:
        return f"{self.name}:{self.variant}" if self.variant else self.name

    @property
    def folder(self) -> str:
        """Its name in a folder of several formats."""
        return str(self).replace(":", "-")

    def exporter(self) -> Exporter:
        """The exporter of this format and variant."""
        kind = EXPORTERS[self.name]
        return kind(self.variant) if getattr(kind, "variants", ()) else kind()
