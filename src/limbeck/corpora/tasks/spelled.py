"""Tasks of text: questions and answers spelled with a tokenizer, one to a row."""

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
    """A text to go on from, and how it goes on."""

    prompt: str
    answer: str


class TextTask(Protocol):
    """What draws questions; ``name`` is that of its file."""

    @property
    def name(self) -> str: ...
    def questions(self, generator: np.random.Generator, n: int) -> list[Question]: ...


class Spelled:
    """A task of text as rows of ``length`` tokens: a question, its answer, which is asked, the end token if any, padding.

    Raises BadTask where the tokenizer does not give a text back as it was, or a question is longer than the row.
    """

    def __init__(self, task: TextTask, tokenizer: Any, *, length: int, end: int | None = None) -> None:
        self.task, self.tokenizer, self.length, self._end = task, tokenizer, length, end
        self.vocab = ids_of(tokenizer)
        require_spelling(tokenizer, task.questions(np.random.default_rng(0), 16), task.name)

    def draw(self, generator: np.random.Generator, rows: int) -> Drawing:
        """Rows with their questions."""
        questions = self.task.questions(generator, rows)
        prompts = self._tokens([question.prompt for question in questions])
        answers = self._tokens([question.answer for question in questions])
        row = np.zeros((rows, self.length + 1), dtype=np.int64)
        asked = np.zeros((rows, self.length + 1), dtype=bool)
        for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            said = answer if self._end is None else [*answer, self._end]
            stop = len(prompt) + len(said)
            if stop > self.length + 1:
                raise BadTask(
                    f"{self.task.name}: a question takes {stop} tokens with its answer, and a row has {self.length} + 1: take "
                    "longer rows or an easier task"
                )
            row[i, :stop] = [*prompt, *said]
            asked[i, len(prompt) : stop] = True
        return Drawing(row[:, :-1].copy(), row[:, 1:].copy(), asked[:, 1:].copy())

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        found: list[list[int]] = self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        return found


def require_spelling(tokenizer: Any, questions: Sequence[Question], name: str) -> None:
    """Raises BadTask where a tokenizer loses something of the texts of a task, but for a space that it puts in front."""
    for question in questions:
        text = question.prompt + question.answer
        tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
        back = tokenizer.decode(tokens, clean_up_tokenization_spaces=False)
        if text not in (back, back.removeprefix(" ")):
            raise BadTask(
                f"{name}: this tokenizer cannot spell the task: {text[-60:]!r} comes back as {back[-60:]!r}; take one of bytes, "
                "or one that knows all its signs"
            )
