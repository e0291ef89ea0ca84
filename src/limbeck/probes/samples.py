"""Greedy completions of the same held-out prompts by teacher and student, side by side."""

from __future__ import annotations

from itertools import islice, takewhile
from typing import Any

from limbeck.corpora.store import TokenStore
from limbeck.generation.greedy import generate_greedy
from limbeck.generation.local import decoded_completion, stop_tokens
from limbeck.models.language_model import LanguageModel

PROMPT, NEW = 32, 64


def samples(
    student: LanguageModel, teacher: LanguageModel | None, store: TokenStore, *, count: int = 3
) -> list[dict[str, Any]]:
    """Rows of samples.json: up to ``count`` held-out documents, each a prompt of 32 tokens continued by up to 64.

    Generation is greedy, so repetition shows. Documents that are too short are skipped; there are no samples if a model's context
    is too short for a prompt and 8 more tokens.
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
            "student": _continuation(student, prompt, new),
        }
        rows.append(row | ({"teacher": _continuation(teacher, prompt, new)} if teacher else {}))
    return rows


def _long_enough(store: TokenStore) -> Any:
    lengths = store.starts[1:] - store.starts[:-1]
    return (document for document, length in enumerate(lengths) if length >= PROMPT + 8)


def _continuation(model: LanguageModel, prompt: list[int], new: int) -> str:
    training = model.model.training
    model.model.eval()
    try:
        stops = stop_tokens(model)
        tokens = takewhile(lambda token: token not in stops, islice(generate_greedy(model, prompt), new))
        return decoded_completion(model.tokenizer, prompt, list(tokens))
    finally:
        model.model.train(training)
