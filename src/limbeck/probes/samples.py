"""Continuations of the same held-out prompts by teacher and student, greedy and sampled."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice, takewhile
from typing import Any

import numpy as np

from limbeck.corpora.store import TokenStore
from limbeck.generation.greedy import generate_greedy
from limbeck.generation.local import decoded_completion, generate, stop_tokens
from limbeck.models.language_model import LanguageModel

PROMPT, NEW = 32, 64


def samples(
    student: LanguageModel, teacher: LanguageModel | None, store: TokenStore, *, count: int = 3
) -> list[dict[str, Any]]:
    """Rows of samples.json: up to ``count`` held-out documents, of each the first 32 tokens continued by up to 64.

    Each model continues twice: greedily, where a model that repeats itself shows it, and ``_sampled`` at temperature 1 with the
    same random numbers for both models. Documents that are too short are passed over; a model whose context has no room for a
    prompt and 8 tokens gives no samples.
    """
    context = min(student.context, teacher.context if teacher else student.context)
    new = min(NEW, context - PROMPT)
    if new < 8:
        return []
    rows = []
    for document in islice(_long_enough(store), count):
        start, end = int(store.starts[document]), int(store.starts[document + 1])
        prompt = store.slice(start, start + PROMPT).tolist()
        truth = store.slice(start + PROMPT, min(end, start + PROMPT + new)).tolist()
        row = {
            "document": store.name_of(document),
            "prompt": student.tokenizer.decode(prompt, skip_special_tokens=True),
            "text": decoded_completion(student.tokenizer, prompt, truth),
        }
        uniforms = np.random.default_rng([0, document]).random((1, new))
        for name, model in (("student", student), ("teacher", teacher)):
            if model is not None:
                row |= {name: _continuation(model, prompt, new), f"{name}_sampled": _sampled(model, prompt, uniforms)}
        rows.append(row)
    return rows


def _long_enough(store: TokenStore) -> Any:
    lengths = store.starts[1:] - store.starts[:-1]
    return (document for document, length in enumerate(lengths) if length >= PROMPT + 8)


def _continuation(model: LanguageModel, prompt: list[int], new: int) -> str:
    with _evaluated(model):
        stops = stop_tokens(model)
        tokens = takewhile(lambda token: token not in stops, islice(generate_greedy(model, prompt), new))
        return decoded_completion(model.tokenizer, prompt, list(tokens))


def _sampled(model: LanguageModel, prompt: list[int], uniforms: np.ndarray) -> str:
    with _evaluated(model):
        (found,) = generate(model, [prompt], max_new_tokens=uniforms.shape[1], uniforms=uniforms)
        return decoded_completion(model.tokenizer, prompt, found.tokens)


@contextmanager
def _evaluated(model: LanguageModel) -> Iterator[None]:
    """A model without dropout for a while."""
    training = model.model.training
    model.model.eval()
    try:
        yield
    finally:
        model.model.train(training)
