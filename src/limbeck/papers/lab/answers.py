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
    for start in range(0, len(rows), _AT_ONCE):
        part = [[message["content"] for message in row["messages"]] for row in rows[start : start + _AT_ONCE]]
        prompts = [_prompt(model, question) for question, _ in part]
        uniforms = np.zeros((len(part), _LONGEST))
        made = generate(model, prompts, max_new_tokens=_LONGEST, temperature=0.0, uniforms=uniforms)
        for (question, right), prompt, answer in zip(part, prompts, made, strict=True):
            text = decoded_completion(model.tokenizer, prompt, answer.tokens)
            checks = checks_of(question, text, right, ended=answer.finished)
            found.append((sum(checks.values()), len(checks)))
    return np.array(found, dtype=float).reshape(-1, 2)


def _prompt(model: LanguageModel, question: str) -> list[int]:
    """The tokens of a question, up to where its answer begins."""
    messages = [{"role": "user", "content": question}]
    text = model.tokenizer.apply_chat_template(messages, tokenize=False)
    ids: list[int] = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids
