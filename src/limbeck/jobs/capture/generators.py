"""Who writes to prompts: a model in memory, or one on a server.

Samples are numbered: those of the first prompt, then those of the second, and so on. Each has random numbers of its own, named
by the seed, its prompt, and which of that prompt's samples it is. A model in memory writes in batches that follow from all
prompts, not from what is left of them, so that a run that was killed writes what it would have written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from limbeck.config import CaptureSettings
from limbeck.corpora import Prompt
from limbeck.errors import Mismatch
from limbeck.generation.local import decoded_completion, generate
from limbeck.generation.served import LENGTH, STOP, Completion, Request, ServedGenerator
from limbeck.models.language_model import LanguageModel
from limbeck.models.micro_batch import MICRO_TOKENS
from limbeck.planning.checks.resources import free_memory
from limbeck.planning.cost.size import Size
from limbeck.teachers.remote.http import QueryFailed

_MOST_ROWS = {"cpu": 32, "cuda": 256}  # written to at once
_READ_AT_ONCE = 4  # micro-batches of prompts: a training's holds a graph besides
_HELD_SHARE = 0.5  # of the free memory, for keys and values


class TextGenerator(Protocol):
    """Who writes. ``about`` says who that is and what is special about it."""

    about: str

    def generate(self, wanted: Sequence[int]) -> Iterator[tuple[int, Completion | QueryFailed]]:
        """What is written to the samples of these numbers, in any order."""

    @property
    def repeated(self) -> int:
        """Requests that were made again."""


@dataclass(frozen=True)
class Batches:
    """How many are written to at once: at most ``rows``, with ``read`` tokens of prompts, and ``held`` of keys and values."""

    rows: int
    read: int
    held: int

    @classmethod
    def of(cls, model: LanguageModel, *, longest: int) -> Batches:
        """What this machine has memory for now. A power of two, so that a little more or less of it makes no other batches."""
        kind = "cuda" if model.device.type == "cuda" else "cpu"
        token = Size.of(model.config).kv_bytes(model.model.dtype.itemsize)
        held = max(1, int(_HELD_SHARE * free_memory(model.device) / max(1, token)))
        return cls(_MOST_ROWS[kind], _READ_AT_ONCE * MICRO_TOKENS[kind], max(longest, 1 << (held.bit_length() - 1)))

    def groups(self, lengths: Sequence[int], *, samples: int, most: int) -> Iterator[list[int]]:
        """The numbers of all samples in batches of prompts of similar length, the longest first: what fails, fails early."""
        order = sorted(range(len(lengths) * samples), key=lambda number: (-lengths[number // samples], number))
        start = 0
        while start < len(order):
            longest = lengths[order[start] // samples]
            rows = max(1, min(self.rows, self.read // longest, self.held // (longest + most)))
            yield order[start : start + rows]
            start += rows


class Resident:
    """A model in memory that writes."""

    repeated = 0

    def __init__(
        self, model: LanguageModel, tokens: Sequence[Sequence[int]], settings: CaptureSettings, batches: Batches
    ) -> None:
        self._model, self._tokens, self._batches = model, tokens, batches
        self._samples, self._most = settings.samples, settings.max_new_tokens
        self._temperature, self._seed = settings.temperature, settings.seed
        self.about = (
            f"teacher {model.name}: {model.parameters_count:,} parameters, {model.vocab:,} tokens; up to {batches.rows} samples "
            f"at once; the prompts have {sum(map(len, tokens)):,} tokens"
        )

    def generate(self, wanted: Sequence[int]) -> Iterator[tuple[int, Completion | QueryFailed]]:
        """As `TextGenerator.generate`; a batch of which some are wanted is written whole, as it was or would have been."""
        missing = set(wanted)
        for group in self._batches.groups([len(ids) for ids in self._tokens], samples=self._samples, most=self._most):
            if missing.isdisjoint(group):
                continue
            for number, answer in zip(group, self._answers(group), strict=True):
                if number in missing:
                    yield number, answer

    def _answers(self, group: Sequence[int]) -> Iterator[Completion]:
        beginnings = [self._tokens[number // self._samples] for number in group]
        uniforms = np.stack([_generator(self._seed, number, self._samples).random(self._most) for number in group])
        found = generate(
            self._model, beginnings, max_new_tokens=self._most, temperature=self._temperature, uniforms=uniforms
        )
        for beginning, continuation in zip(beginnings, found, strict=True):
            yield Completion(
                decoded_completion(self._model.tokenizer, beginning, continuation.tokens),
                STOP if continuation.finished else LENGTH,
                len(continuation.tokens) + continuation.finished,
                len(beginning),
            )


class Served:
    """A model on a server that writes."""

    def __init__(self, teacher: ServedGenerator, prompts: Sequence[Prompt], *, samples: int, seed: int) -> None:
        self.teacher, self._prompts, self._samples, self._seed = teacher, prompts, samples, seed
        own = "" if teacher.whole else "; where it leaves out unlikely tokens of itself, it is not told otherwise"
        self.about = f"{teacher.client.address} is asked for text, {teacher.in_flight} questions at once{own}"

    @property
    def repeated(self) -> int:
        """As `TextGenerator.repeated`."""
        return self.teacher.client.repeated

    def generate(self, wanted: Sequence[int]) -> Iterator[tuple[int, Completion | QueryFailed]]:
        """As `TextGenerator.generate`."""
        yield from self.teacher.completions((number, self._question(number)) for number in wanted)

    def _question(self, number: int) -> Request:
        seed = int(_generator(self._seed, number, self._samples).integers(2**31))
        prompt = self._prompts[number // self._samples]
        return Request(prompt.asked, seed, prompt.beside)


def _generator(seed: int, number: int, samples: int) -> np.random.Generator:
    """The random numbers of a sample, which are those of no other."""
    prompt, sample = divmod(number, samples)
    return np.random.default_rng([seed, prompt, sample])


def check_room(model: LanguageModel, prompts: Sequence[Prompt], tokens: Sequence[Sequence[int]], *, most: int) -> None:
    """Raises Mismatch where prompts leave no room in the model's context for ``most`` tokens more."""
    long = [(prompt, len(ids)) for prompt, ids in zip(prompts, tokens, strict=True) if len(ids) + most > model.context]
    if long:
        first, length = long[0]
        raise Mismatch(
            f"{len(long):,} of {len(prompts):,} prompts have no room for {most} tokens more in the context of {model.name}, "
            f"which is {model.context}; the first, {first.name}, has {length}: shorten them, take them out, or give a smaller "
            "--max-new-tokens"
        )
