"""A model as judge of answers, admitted first: it has to prefer the library's answers to corrupted ones.

The mark of an answer is its log-probability after the question by the judge, per token, with the end of the answer where it came
to one. Answers are marked alone, so their order cannot matter. What such a mark is worth is seen on answers that are known to be
worse: those to another question, the right ones with their words in another order, cut in half, and no answer at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float

from limbeck.corpora.tasks.synthetic import Drawing, as_batch
from limbeck.models.language_model import LanguageModel
from limbeck.models.load import load
from limbeck.papers.lab.answers import answers_of, chosen_questions, prompt_of
from limbeck.papers.lab.conversations import chat_tokenizer, held_out_conversations
from limbeck.papers.lab.measured import Measured
from limbeck.run.samples import position_scores

RIGHT = "right"
CORRUPTED = ("of another question", "words in another order", "cut in half", "empty")
_AT_ONCE = 64  # answers that are marked at once


@dataclass(frozen=True)
class Marks(Measured):
    """The mark of each answer of a model to some held-out questions by a judge, or of known ones of a kind, in nats per token.

    ``answers`` is the model's folder, or the name of a kind of known answers. ``tuning`` has the text.
    """

    what: ClassVar[str] = "marks"
    answers: str
    judge: Path
    tuning: Path
    tokenizer: Path
    questions: int
    device: str

    def measure(self) -> Float[np.ndarray, " questions"]:
        """The marks."""
        judge = self._loaded(self.judge)
        rows = held_out_conversations(self.tuning)
        asked = [rows[line] for line in chosen_questions(rows, self.questions)]
        if self.answers in (RIGHT, *CORRUPTED):
            answers = known_answers(asked, self.answers)
        else:
            answers = answers_of(self._loaded(Path(self.answers)), asked)
        return marks(judge, [row["messages"][0]["content"] for row in asked], answers)

    def _loaded(self, folder: Path) -> LanguageModel:
        model = load(folder, device=self.device)
        model.tokenizer = chat_tokenizer(self.tokenizer)
        return model


def known_answers(rows: Sequence[Mapping[str, Any]], kind: str) -> list[tuple[str, bool]]:
    """The library's answers to the questions of some conversations, right or corrupted in a way, all with their end."""
    right = [row["messages"][1]["content"] for row in rows]
    if kind == "of another question":
        return [(text, True) for text in _of_others(rows, right)]
    changed = {
        RIGHT: lambda text: text,
        "words in another order": _mixed,
        "cut in half": lambda text: text[: len(text) // 2],
        "empty": lambda text: "",
    }[kind]
    return [(changed(text), True) for text in right]


def _of_others(rows: Sequence[Mapping[str, Any]], right: Sequence[str]) -> list[str]:
    """For each question the answer to the next one of its form that has another answer; its own where there is none."""
    forms = [row["messages"][0]["content"].partition(" ")[0] for row in rows]
    found = []
    for i, own in enumerate(right):
        others = (right[j % len(right)] for j in range(i + 1, i + len(right)) if forms[j % len(right)] == forms[i])
        found.append(next((other for other in others if other != own), own))
    return found


def _mixed(text: str) -> str:
    """The words of a text in another order, always the same."""
    words = text.split(" ")
    order = np.random.default_rng(len(text)).permutation(len(words))
    return " ".join(words[i] for i in order)


@torch.no_grad()
def marks(
    judge: LanguageModel, questions: Sequence[str], answers: Sequence[tuple[str, bool]]
) -> Float[np.ndarray, " questions"]:
    """Log-probability per token, in nats, of each answer after its question, with its end where it came to one.

    An answer of no token, which did not end either, has -inf.
    """
    end = judge.end
    found: list[float] = []
    for start in range(0, len(questions), _AT_ONCE):
        part = zip(questions[start : start + _AT_ONCE], answers[start : start + _AT_ONCE], strict=True)
        rows = [(prompt_of(judge, question), _tokens(judge, *answer, end=end)) for question, answer in part]
        length = max(len(prompt) + len(answer) for prompt, answer in rows)
        tokens, own = np.zeros((len(rows), length), np.int64), np.zeros((len(rows), length), bool)
        for i, (prompt, answer) in enumerate(rows):
            tokens[i, : len(prompt) + len(answer)] = [*prompt, *answer]
            own[i, len(prompt) : len(prompt) + len(answer)] = True
        batch = as_batch(Drawing(tokens[:, :-1].copy(), tokens[:, 1:].copy(), own[:, 1:].copy()))
        log_q, _ = position_scores(judge, batch, bf16=False)
        sums_of, counts = (log_q.double() * batch.weight).sum(-1).numpy(), batch.weight.sum(-1).numpy()
        found += np.where(counts > 0, sums_of / np.maximum(counts, 1), -np.inf).tolist()
    return np.array(found)


def _tokens(judge: LanguageModel, text: str, ended: bool, *, end: int | None) -> list[int]:
    """The tokens of an answer as the template writes it, after a space."""
    ids: list[int] = judge.tokenizer(f" {text}", add_special_tokens=False)["input_ids"] if text else []
    return [*ids, end] if ended and end is not None else ids
