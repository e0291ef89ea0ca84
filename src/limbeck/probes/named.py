"""Every probe by its name: limbeck's own, marked with ``@probe("name")`` in this folder, and those of packages.

A probe is a function of a model, its teacher or None, and what else it may use, which gives readings.
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

TEXT = ("data", "columns", "skip_bad", "length", "long_conversations")  # the settings that say which text is read
EVERYTHING = (*TEXT, "teacher", "seed", "task")


class HeldOutText(Protocol):
    """Held-out text in the model's tokens, in rows that fit the model, or a sample of them."""

    store: TokenStore

    def batches(self) -> Iterator[Batch]:
        """The rows, a few at a time, on the model's device."""

    def text_bytes(self, measured: Measurements) -> np.ndarray:
        """Bytes of text of each document's measured tokens, (documents,)."""


class ProbeContext(Protocol):
    """What a probe may use beside the models. ``task`` is that of `--task`, None where none was given.

    ``measured_on`` says which text was read, "" before any was.
    """

    seed: int
    task: str | None
    measured_on: str

    def held_out(self) -> HeldOutText:
        """The text of `--data`, or of the run that the model is in: never what the run trained on."""

    def split(self) -> tuple[TokenStore, str, HeldOutText]:
        """The training part of that text, how it is called, and the held-out part."""

    def note(self, text: str) -> None:
        """Says something to the user beside readings."""


class Probe(Protocol):
    """Measures a model, perhaps against a teacher. Names of readings are its own: no two probes give one name."""

    def __call__(
        self, model: LanguageModel, teacher: LanguageModel | None, context: ProbeContext
    ) -> Iterable[Reading]: ...


Function = TypeVar("Function", bound=Callable[..., Iterable[Reading]])

PROBES: Registry[Probe] = _PROBES


def probe(name: str, *, reads: tuple[str, ...]) -> Callable[[Function], Function]:
    """Gives a probe its name, and says which settings it ``reads``: others that are given with it are refused."""

    def mark(function: Function) -> Function:
        vars(function)["reads"] = reads
        return function

    return mark


def reads(found: Probe) -> tuple[str, ...]:
    """The settings that a probe reads; one that does not say may read any."""
    said: tuple[str, ...] = getattr(found, "reads", EVERYTHING)
    return said
