"""Greedy answers of a tuned model to held-out questions, and how many checks they pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from limbeck.generation.local import decoded_completion, generate
from limbeck.models.language_model import LanguageModel
from limbeck.papers.lab.checks import checks_of

_LONGEST = 192  # tokens of a generated answer
_AT_ONCE = 64  # questions in a batch


def chosen_questions(rows: Sequence[Mapping[str, Any]], questions: int) -> list[int]:
    """The numbers of the conversations whose questions are asked, the same for all models."""
    return sorted(np.random.default_rng(0).permutation(len(rows))[:questions].tolist())


def checks_passed(model: LanguageModel, rows: Sequence[Mapping[str, Any]]) -> Float[np.ndarray, "rows 2"]:
    """How many checks greedy answers to the questions of some conversations pass, and of how many."""
    found: list[tuple[int, int]] = []
    for row, (text, ended) in zip(rows, answers_of(model, rows), strict=True):
        question, right = (message["content"] for message in row["messages"])
        checks = checks_of(question, text, right, ended=ended)
        found.append((sum(checks.values()), len(checks)))
    return np.array(found, dtype=float).reshape(-1, 2)


def answers_of(model: LanguageModel, rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, bool]]:
    """Greedy answers to the questions of some conversations, and whether each came to its end."""
    found: list[tuple[str, bool]] = []
    for start in range(0, len(rows), _AT_ONCE):
        prompts = [prompt_of(model, row["messages"][0]["content"]) for row in rows[start : start + _AT_ONCE]]
        uniforms = np.zeros((len(prompts), _LONGEST))
        made = generate(model, prompts, max_new_tokens=_LONGEST, temperature=0.0, uniforms=uniforms)
        for prompt, answer in zip(prompts, made, strict=True):
            found.append((decoded_completion(model.tokenizer, prompt, answer.tokens), answer.finished))
    return found


def prompt_of(model: LanguageModel, question: str) -> list[int]:
    """The tokens of a question, up to where its answer begins."""
    messages = [{"role": "user", "content": question}]
    text = model.tokenizer.apply_chat_template(messages, tokenize=False)
    ids: list[int] = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids
