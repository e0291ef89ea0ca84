"""Completions of many prompts, several samples of each: by a model in memory, or by one on a server.

Samples are numbered: those of the first prompt, then those of the second, and so on. Each has random numbers of its own, which
follow from the seed, its prompt, and which of that prompt's samples it is. A model in memory generates in batches that follow
from all prompts, not from what is left of them, so a run that was killed generates what it would have generated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from limbeck.corpora import Prompt
from limbeck.errors import Mismatch
from limbeck.generation.local import decoded_completion, generate
from limbeck.generation.served import LENGTH, STOP, Completion, Request, ServedCompletions
from limbeck.models.language_model import LanguageModel
from limbeck.models.micro_batch import MICRO_TOKENS
from limbeck.planning.checks.resources import free_memory
from limbeck.planning.cost.size import Size
from limbeck.teachers.remote.http import QueryFailed

_MOST_ROWS = {"cpu": 32, "cuda": 256}  # written to at once
_READ_AT_ONCE = 4  # micro-batches of prompts: a training's holds a graph besides
_HELD_SHARE = 0.5  # of the free memory, for keys and values


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn: ``samples`` of each prompt, of ``max_new_tokens`` at most; ``temperature`` 0 is greedy."""

    max_new_tokens: int
    temperature: float = 1.0
    samples: int = 1
    seed: int = 0

    def random(self, number: int) -> np.random.Generator:
        """The random numbers of a sample, which are those of no other."""
        prompt, sample = divmod(number, self.samples)
        return np.random.default_rng([self.seed, prompt, sample])


class Generator(Protocol):
    """Generates completions of fixed prompts. ``about``: which model, and how it is run, in a sentence."""

    about: str

    def generate(self, wanted: Sequence[int]) -> Iterator[tuple[int, Completion | QueryFailed]]:
        """The completions of the samples of these numbers, in any order, or why there is none."""

    @property
    def repeated(self) -> int:
        """Requests that were sent again."""


@dataclass(frozen=True)
class Batches:
    """How many samples are generated together: at most ``rows``, with ``read`` tokens of prompts, ``held`` of keys and values."""

    rows: int
    read: int
    held: int

    @classmethod
    def of(cls, model: LanguageModel, *, longest: int) -> Batches:
        """What fits this machine's free memory. A power of two, so that a little more or less of it makes no other batches."""
        kind = "cuda" if model.device.type == "cuda" else "cpu"
        token = Size.of(model.config).kv_bytes(model.model.dtype.itemsize)
        held = max(1, int(_HELD_SHARE * free_memory(model.device) / max(1, token)))
        return cls(_MOST_ROWS[kind], _READ_AT_ONCE * MICRO_TOKENS[kind], max(longest, 1 << (held.bit_length() - 1)))

    def groups(self, lengths: Sequence[int], sampling: Sampling) -> Iterator[list[int]]:
        """The numbers of all samples in batches of prompts of similar length, the longest first: what fails, fails early."""
        samples = sampling.samples
        order = sorted(range(len(lengths) * samples), key=lambda number: (-lengths[number // samples], number))
        start = 0
        while start < len(order):
            longest = lengths[order[start] // samples]
            rows = max(1, min(self.rows, self.read // longest, self.held // (longest + sampling.max_new_tokens)))
            yield order[start : start + rows]
            start += rows


class LocalGenerator:
    """A `Generator` that is a model in memory; ``tokens``: those of each prompt."""

    repeated = 0

    def __init__(
        self, model: LanguageModel, tokens: Sequence[Sequence[int]], sampling: Sampling, batches: Batches
    ) -> None:
        self._model, self._tokens, self._sampling, self._batches = model, tokens, sampling, batches
        self.about = (
            f"teacher {model.name}: {model.parameters_count:,} parameters, {model.vocab:,} tokens; up to {batches.rows} samples "
            f"at once; the prompts have {sum(map(len, tokens)):,} tokens"
        )

    def generate(self, wanted: Sequence[int]) -> Iterator[tuple[int, Completion | QueryFailed]]:
        """As `Generator.generate`; a batch of which some are wanted is generated whole, as it was or would have been."""
        missing = set(wanted)
        for group in self._batches.groups([len(ids) for ids in self._tokens], self._sampling):
            if missing.isdisjoint(group):
                continue
            for number, answer in zip(group, self._answers(group), strict=True):
                if number in missing:
                    yield number, answer

    def _answers(self, group: Sequence[int]) -> Iterator[Completion]:
        how = self._sampling
        beginnings = [self._tokens[number // how.samples] for number in group]
        uniforms = np.stack([how.random(number).random(how.max_new_tokens) for number in group])
        found = generate(
            self._model, beginnings, max_new_tokens=how.max_new_tokens, temperature=how.temperature, uniforms=uniforms
        )
        for beginning, continuation in zip(beginnings, found, strict=True):
            yield Completion(
                decoded_completion(self._model.tokenizer, beginning, continuation.tokens),
                STOP if continuation.finished else LENGTH,
                len(continuation.tokens) + continuation.finished,
                len(beginning),
            )


class ServedGenerator:
    """A `Generator` that is a model on a server."""

    def __init__(self, teacher: ServedCompletions, prompts: Sequence[Prompt], sampling: Sampling) -> None:
        self.teacher, self._prompts, self._sampling = teacher, prompts, sampling
        own = "" if teacher.whole else "; if it cuts off unlikely tokens by default, it still does"
        self.about = (
            f"{teacher.client.address} generates text, with at most {teacher.in_flight} requests in flight{own}"
        )

    @property
    def repeated(self) -> int:
        """As `Generator.repeated`."""
        return self.teacher.client.repeated

    def generate(self, wanted: Sequence[int]) -> Iterator[tuple[int, Completion | QueryFailed]]:
        """As `Generator.generate`."""
        yield from self.teacher.completions((number, self._question(number)) for number in wanted)

    def _question(self, number: int) -> Request:
        seed = int(self._sampling.random(number).integers(2**31))
        prompt = self._prompts[number // self._sampling.samples]
        return Request(prompt.asked, seed, prompt.beside)


def check_context(
    model: LanguageModel, prompts: Sequence[Prompt], tokens: Sequence[Sequence[int]], *, most: int
) -> None:
    """Raises Mismatch where prompts leave no room in the model's context for ``most`` tokens more."""
    long = [(prompt, len(ids)) for prompt, ids in zip(prompts, tokens, strict=True) if len(ids) + most > model.context]
    if long:
        first, length = long[0]
        raise Mismatch(
            f"{len(long):,} of {len(prompts):,} prompts have no room for {most} tokens more in the context of {model.name}, "
            f"which is {model.context}; the first, {first.name}, has {length}: shorten them, take them out, or give a smaller "
            "--max-new-tokens"
        )
