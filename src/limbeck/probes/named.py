"""Every probe by its name: limbeck's own, marked with ``@probe("name")`` in this folder, and those of packages.

A probe is a function of a model, its teacher or None, and a context, which returns readings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

import numpy as np

from limbeck.corpora import TokenStore
from limbeck.models.language_model import LanguageModel
from limbeck.plugins import PROBES as _PROBES
from limbeck.plugins import Registry
from limbeck.probes.measurements import Measurements
from limbeck.types import Batch, Reading

TEXT = ("data", "columns", "skip_bad", "length", "long_conversations")  # the settings that choose the text
EVERYTHING = (*TEXT, "teacher", "seed", "task", "tasks", "target", "guard", "styles")


class HeldOutText(Protocol):
    """Held-out text in the model's tokens, in rows that fit the model, or a sample of them."""

    store: TokenStore

    def batches(self) -> Iterator[Batch]:
        """The rows, a few at a time, on the model's device."""

    def text_bytes(self, measured: Measurements) -> np.ndarray:
        """Bytes of text of each document's measured tokens, (documents,)."""


class ProbeContext(Protocol):
    """The inputs of a probe besides the models. ``task``, ``tasks``, ``target``, ``guard`` and ``styles`` are the values of
    those flags, None without them.

    ``measured_on`` describes the text that was read, "" before any was.
    """

    seed: int
    task: str | None
    tasks: tuple[str, ...] | None
    target: str | None
    guard: tuple[str, ...] | None
    styles: str | None
    measured_on: str

    def held_out(self) -> HeldOutText:
        """The text of `--data`, or the held-out text of the run that the model belongs to: never its training text."""

    def split(self) -> tuple[TokenStore, str, HeldOutText]:
        """(training part, its name, held-out part) of that text."""

    def note(self, text: str) -> None:
        """Prints a note for the user besides the readings."""


class Probe(Protocol):
    """Measures a model, optionally against a teacher. Names of readings are unique: no two probes share one."""

    def __call__(
        self, model: LanguageModel, teacher: LanguageModel | None, context: ProbeContext
    ) -> Iterable[Reading]: ...


Function = TypeVar("Function", bound=Callable[..., Iterable[Reading]])

PROBES: Registry[Probe] = _PROBES


def probe(name: str, *, reads: tuple[str, ...]) -> Callable[[Function], Function]:
    """Names a probe and declares the settings that it ``reads``; giving any other setting with it is an error."""

    def mark(function: Function) -> Function:
        vars(function)["reads"] = reads
        return function

    return mark


def reads(found: Probe) -> tuple[str, ...]:
    """The settings that a probe declared to read; all of them without a declaration."""
    declared: tuple[str, ...] = getattr(found, "reads", EVERYTHING)
    return declared
