"""Text tasks as rows of tokens: one question and its answer in each row, encoded by a tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from limbeck.corpora.tasks.synthetic import Drawing
from limbeck.errors import BadTask
from limbeck.models.vocabulary import ids_of


@dataclass(frozen=True)
class Question:
    """A prompt, and the answer that should continue it."""

    prompt: str
    answer: str


class TextTask(Protocol):
    """The protocol of tasks that sample questions as text. ``name`` is the name of the task's file."""

    @property
    def name(self) -> str: ...
    def questions(self, generator: np.random.Generator, n: int) -> list[Question]: ...


class Spelled:
    """A text task as rows of ``length`` tokens: question, answer, the token ``end`` if given, padding.

    The targets are the tokens of the answer and ``end``. Raises BadTask if decoding does not restore a text, or if a question
    does not fit a row.
    """

    def __init__(self, task: TextTask, tokenizer: Any, *, length: int, end: int | None = None) -> None:
        self.task, self.tokenizer, self.length, self._end = task, tokenizer, length, end
        self.vocab = ids_of(tokenizer)
        require_spelling(tokenizer, task.questions(np.random.default_rng(0), 16), task.name)

    def draw(self, generator: np.random.Generator, rows: int) -> Drawing:
        """Samples rows with their questions. Raises BadTask if a question with its answer does not fit a row."""
        questions = self.task.questions(generator, rows)
        prompts = self._tokens([question.prompt for question in questions])
        answers = self._tokens([question.answer for question in questions])
        row = np.zeros((rows, self.length + 1), dtype=np.int64)
        asked = np.zeros((rows, self.length + 1), dtype=bool)
        for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            target = answer if self._end is None else [*answer, self._end]
            stop = len(prompt) + len(target)
            if stop > self.length + 1:
                raise BadTask(
                    f"{self.task.name}: a question takes {stop} tokens with its answer, and a row has {self.length} + 1: take "
                    "longer rows or an easier task"
                )
            row[i, :stop] = [*prompt, *target]
            asked[i, len(prompt) : stop] = True
        return Drawing(row[:, :-1].copy(), row[:, 1:].copy(), asked[:, 1:].copy())

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        found: list[list[int]] = self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        return found


def require_spelling(tokenizer: Any, questions: Sequence[Question], name: str) -> None:
    """Raises BadTask if decoding the encoded questions does not restore their text. An added leading space is allowed."""
    for question in questions:
        text = question.prompt + question.answer
        tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
        back = tokenizer.decode(tokens, clean_up_tokenization_spaces=False)
        if text not in (back, back.removeprefix(" ")):
            raise BadTask(
                f"{name}: this tokenizer cannot spell the task: {text[-60:]!r} comes back as {back[-60:]!r}; take one of bytes, "
                "or one that has tokens for all its signs"
            )
