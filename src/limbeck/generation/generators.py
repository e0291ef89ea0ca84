"""Generates several completions of each of many prompts, with a model in memory or one on a server.

Samples are numbered: those of the first prompt, then those of the second, and so on. Each sample has its own random numbers,
which depend on the seed, its prompt and its index among that prompt's samples. A model in memory uses batches that depend on all
prompts, not on the unfinished ones, so a killed and continued run generates the same text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from limbeck.corpora import Prompt
from limbeck.errors import Mismatch
from limbeck.generation.local import decoded_completion, generate
from limbeck.generation.served import LENGTH, STOP, Completion, Request, ServedCompletions
from limbeck.models.language_model import LanguageModel
from limbeck.models.micro_batch import MICRO_TOKENS
from limbeck.models.vocabulary import require_rows_of
from limbeck.planning.checks.resources import free_memory
from limbeck.planning.cost.size import Size
from limbeck.teachers.remote.http import QueryFailed

_MOST_ROWS = {"cpu": 32, "cuda": 256}  # rows of a batch
_READ_AT_ONCE = 4  # a prompt's batch may be so many times a training's, which also holds a graph
_HELD_SHARE = 0.5  # of the free memory, for keys and values


@dataclass(frozen=True)
class Sampling:
    """How completions are sampled: ``samples`` of each prompt, at most ``max_new_tokens`` each; ``temperature`` 0 is greedy."""

    max_new_tokens: int
    temperature: float = 1.0
    samples: int = 1
    seed: int = 0

    def random(self, number: int) -> np.random.Generator:
        """The random generator of a sample, independent of all others."""
        prompt, sample = divmod(number, self.samples)
        return np.random.default_rng([self.seed, prompt, sample])

    def apart(self, name: str) -> Sampling:
        """The same sampling with other random numbers, so that samples of two models are independent."""
        digest = hashlib.sha256(f"limbeck:{name}:{self.seed}".encode()).digest()
        return replace(self, seed=int.from_bytes(digest[:8], "big"))


class Generator(Protocol):
    """Generates completions of fixed prompts. ``about``: a sentence on the model and how it is run."""

    about: str

    def generate(self, wanted: Sequence[int]) -> Iterator[tuple[int, Completion | QueryFailed]]:
        """Yields (sample number, completion or its failure) for the ``wanted`` samples, in any order."""

    @property
    def repeated(self) -> int:
        """The number of requests that were sent again after a failure."""


@dataclass(frozen=True)
class Batches:
    """Limits of a batch: ``rows`` samples, ``read`` prompt tokens, and ``held`` tokens of keys and values."""

    rows: int
    read: int
    held: int

    @classmethod
    def of(cls, model: LanguageModel, *, longest: int) -> Batches:
        """The limits that fit the free memory. Powers of two, so that small changes of free memory give the same batches."""
        kind = "cuda" if model.device.type == "cuda" else "cpu"
        token = Size.of(model.config).kv_bytes(model.model.dtype.itemsize)
        held = max(1, int(_HELD_SHARE * free_memory(model.device) / max(1, token)))
        return cls(_MOST_ROWS[kind], _READ_AT_ONCE * MICRO_TOKENS[kind], max(longest, 1 << (held.bit_length() - 1)))

    def groups(self, lengths: Sequence[int], sampling: Sampling) -> Iterator[list[int]]:
        """The numbers of all samples in batches of similar prompt lengths, longest first, so that lack of memory shows early."""
        samples = sampling.samples
        order = sorted(range(len(lengths) * samples), key=lambda number: (-lengths[number // samples], number))
        start = 0
        while start < len(order):
            longest = lengths[order[start] // samples]
            rows = max(1, min(self.rows, self.read // longest, self.held // (longest + sampling.max_new_tokens)))
            yield order[start : start + rows]
            start += rows


class LocalGenerator:
    """A `Generator` with a model in memory. ``tokens``: the token ids of each prompt; ``role``: what the model is here."""

    repeated = 0

    def __init__(
        self,
        model: LanguageModel,
        tokens: Sequence[Sequence[int]],
        sampling: Sampling,
        batches: Batches,
        *,
        role: str = "teacher",
    ) -> None:
        self._model, self._tokens, self._sampling, self._batches = model, tokens, sampling, batches
        self.about = (
            f"{role} {model.name}: {model.parameters_count:,} parameters, {model.vocab:,} tokens; up to {batches.rows} samples "
            f"at once; the prompts have {sum(map(len, tokens)):,} tokens"
        )

    def generate(self, wanted: Sequence[int]) -> Iterator[tuple[int, Completion | QueryFailed]]:
        """As `Generator.generate`. A batch with some wanted samples is generated whole, so that its tokens are the same."""
        missing = set(wanted)
        for group in self._batches.groups([len(ids) for ids in self._tokens], self._sampling):
            if missing.isdisjoint(group):
                continue
            for number, completion in zip(group, self._completions(group), strict=True):
                if number in missing:
                    yield number, completion

    def _completions(self, group: Sequence[int]) -> Iterator[Completion]:
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
    """A `Generator` with a model on a server."""

    def __init__(self, teacher: ServedCompletions, prompts: Sequence[Prompt], sampling: Sampling) -> None:
        self.teacher, self._prompts, self._sampling = teacher, prompts, sampling
        own = "" if teacher.whole else "; a default of the server that cuts off unlikely tokens stays in force"
        self.about = (
            f"{teacher.client.address} generates text, with at most {teacher.in_flight} requests in flight{own}"
        )

    @property
    def repeated(self) -> int:
        """As `Generator.repeated`."""
        return self.teacher.client.repeated

    def generate(self, wanted: Sequence[int]) -> Iterator[tuple[int, Completion | QueryFailed]]:
        """As `Generator.generate`."""
        yield from self.teacher.completions((number, self._request(number)) for number in wanted)

    def _request(self, number: int) -> Request:
        seed = int(self._sampling.random(number).integers(2**31))
        prompt = self._prompts[number // self._sampling.samples]
        return Request(prompt.asked, seed, prompt.beside)


def prompt_tokens(model: LanguageModel, prompts: Sequence[Prompt], *, most: int) -> list[list[int]]:
    """The tokens of prompts, for a model that continues each by up to ``most``; its weights are not read.

    Raises BadCorpus for messages without a chat template, Mismatch for tokens without a row and prompts without room.
    """
    tokens = [prompt.tokens(model.tokenizer) for prompt in prompts]
    for prompt, ids in zip(prompts, tokens, strict=True):
        require_rows_of(model.tokenizer, ids, model.vocab, where=prompt.name)
    _check_context(model, prompts, tokens, most=most)
    return tokens


def _check_context(
    model: LanguageModel, prompts: Sequence[Prompt], tokens: Sequence[Sequence[int]], *, most: int
) -> None:
    """Raises Mismatch if prompts leave no room in the model's context for ``most`` further tokens."""
    long = [(prompt, len(ids)) for prompt, ids in zip(prompts, tokens, strict=True) if len(ids) + most > model.context]
    if long:
        first, length = long[0]
        raise Mismatch(
            f"{len(long):,} of {len(prompts):,} prompts have no room for {most} tokens more in the context of {model.name}, "
            f"which is {model.context}; the first, {first.name}, has {length}: shorten them, remove them, or give a smaller "
            "--max-new-tokens"
        )
