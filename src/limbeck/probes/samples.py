"""Continuations of the same held-out prompts by teacher and student, greedy and sampled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from limbeck.corpora.store import TokenStore
from limbeck.generation.local import decoded_completion, generate
from limbeck.models.language_model import LanguageModel
from limbeck.models.observing import evaluating

PROMPT, NEW = 32, 64


def samples(
    student: LanguageModel,
    teacher: LanguageModel | None,
    store: TokenStore,
    *,
    count: int = 3,
    among: Bool[np.ndarray, " documents"] | None = None,
) -> list[dict[str, Any]]:
    """Rows of samples.json: up to ``count`` held-out documents, of each the first 32 tokens continued by up to 64.

    Each model continues twice: greedily, where a model that repeats itself shows it, and ``_sampled`` at temperature 1 with the
    same random numbers for both models. Documents that are too short are passed over; a model whose context has no room for a
    prompt and 8 tokens gives no samples. ``among``: which documents are taken, None for any.
    """
    context = min(student.context, teacher.context if teacher else student.context)
    new = min(NEW, context - PROMPT)
    if new < 8:
        return []
    documents = list(islice(_long_enough(store, among), count))
    prompts = [store.slice(start, start + PROMPT).tolist() for start in map(int, store.starts[documents])]
    rows = [_row(store, student, document, prompt, new) for document, prompt in zip(documents, prompts, strict=True)]
    uniforms = np.array([np.random.default_rng([0, document]).random(new) for document in documents])
    for name, model in (("student", student), ("teacher", teacher)):
        if model is not None and rows:
            texts = _continuations(model, prompts, uniforms)
            for row, greedy, sampled in zip(rows, texts[: len(rows)], texts[len(rows) :], strict=True):
                row |= {name: greedy, f"{name}_sampled": sampled}
    return rows


def _row(store: TokenStore, student: LanguageModel, document: int, prompt: list[int], new: int) -> dict[str, Any]:
    """The beginning of a document, and how it goes on."""
    after = int(store.starts[document]) + PROMPT
    truth = store.slice(after, min(int(store.starts[document + 1]), after + new)).tolist()
    return {
        "document": store.name_of(document),
        "prompt": student.tokenizer.decode(prompt, skip_special_tokens=True),
        "text": decoded_completion(student.tokenizer, prompt, truth),
    }


def _long_enough(store: TokenStore, among: Bool[np.ndarray, " documents"] | None) -> Iterator[int]:
    long = store.starts[1:] - store.starts[:-1] >= PROMPT + 8
    return iter(np.flatnonzero(long if among is None else long & among).tolist())


def _continuations(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    uniforms: Float[np.ndarray, "prompts new"],
) -> list[str]:
    """What a model adds to all prompts greedily, then what at temperature 1, computed together."""
    count, twice = len(prompts), [*prompts, *prompts]
    temperatures, numbers = [0.0] * count + [1.0] * count, np.concatenate([uniforms, uniforms])
    with evaluating(model.model):
        found = generate(model, twice, max_new_tokens=numbers.shape[1], temperature=temperatures, uniforms=numbers)
    return [decoded_completion(model.tokenizer, p, one.tokens) for p, one in zip(twice, found, strict=True)]
