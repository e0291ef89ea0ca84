"""The answer of one model to the conversation so far, as it grows."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from limbeck.corpora.document import Document, Message
from limbeck.corpora.prompt import Prompt
from limbeck.generation.growing import GrowingText
from limbeck.generation.local import decoded_completion
from limbeck.generation.streamed import streamed
from limbeck.models.language_model import LanguageModel


@dataclass
class Answer:
    """What a model has written: its text, tokens, the seconds these took, and whether it ended by itself."""

    model: str
    text: str = ""
    tokens: int = 0
    read: int = 0
    seconds: float = 0.0
    finished: bool = False

    @property
    def rate(self) -> float:
        """Tokens a second, the reading of the prompt included."""
        return self.tokens / self.seconds if self.seconds else 0.0

    def row(self) -> dict[str, Any]:
        """As JSON."""
        return {**vars(self), "tokens_per_second": self.rate}


@dataclass
class ChatModel:
    """A model in a conversation. One without a chat template completes the last text alone."""

    name: str
    model: LanguageModel
    bytes: int
    temperature: float
    seed: int
    longest: int
    turns: list[Message] = field(default_factory=list)

    @property
    def chats(self) -> bool:
        """Whether it has a chat template."""
        return bool(self.model.tokenizer.chat_template)

    def answer(self, text: str) -> Iterator[Answer]:
        """The answer to a text, once after each token and once at the end. It and the text are remembered then."""
        question: Message = {"role": "user", "content": text}
        prompt = self._prompt([*self.turns, question])
        room = self.model.context - len(prompt)
        found, tokens = Answer(self.name, read=len(prompt)), list[int]()
        random = np.random.default_rng([self.seed, len(self.turns)])
        growing = GrowingText(self.model.tokenizer, prompt)
        start = time.perf_counter()
        source = streamed(self.model, prompt, temperature=self.temperature, random=random)
        while len(tokens) < min(self.longest, room):
            token = next(source, None)
            found.seconds += time.perf_counter() - start
            if token is None:
                found.finished = True
                break
            tokens.append(token)
            found.tokens = len(tokens)
            found.text = growing.add(token)
            yield found
            start = time.perf_counter()
        found.text = decoded_completion(self.model.tokenizer, prompt, tokens)
        if self.chats:
            self.turns += [question, {"role": "assistant", "content": found.text}]
        yield found

    def _prompt(self, messages: Sequence[Message]) -> list[int]:
        """The tokens to continue. What does not fit the context with an answer loses its beginning: the earliest turns."""
        room = max(1, self.model.context - min(self.longest, self.model.context // 2))
        if not self.chats:
            tokens = Prompt(Document("the text", text=messages[-1]["content"])).tokens(self.model.tokenizer)
            return tokens[-room:] or [self.model.end or 0]
        turns = list(messages)
        tokens = self._rendered(turns)
        while len(tokens) > room and len(turns) > 1:
            del turns[:2]
            tokens = self._rendered(turns)
        return tokens[-room:]

    def _rendered(self, turns: list[Message]) -> list[int]:
        return Prompt(Document("the conversation", messages=turns)).tokens(self.model.tokenizer)
