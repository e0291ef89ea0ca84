"""Prompts for generation: documents up to the place where a teacher continues.

The prompt of a conversation is everything before its last assistant turns; that of a record with a prompt is the prompt. A plain
text is a prompt as a whole.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from transformers import PreTrainedTokenizerBase

from limbeck.corpora.chat import conversation_so_far
from limbeck.corpora.document import Document, Message
from limbeck.corpora.faults import BadRecords
from limbeck.corpora.preference import unlearned
from limbeck.corpora.records import LEARNED, SPLIT, Columns
from limbeck.corpora.source import read
from limbeck.corpora.tokenizer import Frame, document_tokens
from limbeck.errors import BadCorpus, BadRecord

_REPEATED = 8  # words in a row that an answer has from a system message, and not by chance


class Written(Protocol):
    """A completion that a model generated: its text, and calls of functions besides."""

    @property
    def text(self) -> str: ...
    @property
    def calls(self) -> list[Any] | None: ...


@dataclass(frozen=True)
class Prompt:
    """A document that a teacher continues. ``name`` is its place in the source.

    ``known`` is the completion that its record has, a text; None without one.
    """

    document: Document
    known: str | None = None

    @property
    def name(self) -> str:
        """The document's name."""
        return self.document.name

    @property
    def group(self) -> str:
        """What its completions have in common, so that all are on one side of the split: what its record says, else a digest."""
        return self.document.question or self.document.split_digest().hex()[:16]

    @property
    def bytes(self) -> int:
        """UTF-8 bytes of its content."""
        return len(self.document.content.encode())

    @property
    def asked(self) -> list[Message] | str:
        """The messages of a conversation, or a text."""
        if self.document.messages is not None:
            return self.document.messages
        assert self.document.text is not None, "a document has one of the two"
        return self.document.text

    @property
    def beside(self) -> dict[str, Any]:
        """Tools and template arguments of a conversation, by the field names of a record."""
        found = {"tools": self.document.tools, "chat_template_kwargs": self.document.template}
        return {name: value for name, value in found.items() if value is not None}

    def tokens(self, tokenizer: PreTrainedTokenizerBase) -> list[int]:
        """The prompt's tokens: from the chat template up to the next assistant turn, or a text with its opening token.

        Raises BadCorpus where the tokenizer has no chat template, and BadRecord where that rejects the messages.
        """
        if isinstance(self.asked, list):
            return conversation_so_far(tokenizer, self.document)
        return document_tokens(tokenizer, [self.asked], frame=Frame(tokenizer.bos_token_id, None))[0]

    def answered(self, text: str, calls: list[Any] | None = None) -> dict[str, Any]:
        """The record of the document with a teacher's completion: another assistant turn, or a longer text.

        ``calls`` are the tool calls of the turn. Tools and template arguments are kept. In a record with a prompt only the
        completion is learned.
        """
        if isinstance(self.asked, str):
            if self.document.prompt:
                return {"prompt": self.asked, "completion": text}
            return {"text": self.asked + text}
        return {"messages": [*self.asked, _turn(text, calls)], **self.beside}

    def paired(self, chosen: Written, rejected: Written) -> dict[str, Any]:
        """The preference pair of the document with two completions, in TRL's format with the prompt apart."""
        group = {} if self.document.question is None else {SPLIT: self.document.question}
        if isinstance(self.asked, str):
            return {"prompt": self.asked, "chosen": chosen.text, "rejected": rejected.text, **group}
        sides = {"chosen": [_turn(chosen.text, chosen.calls)], "rejected": [_turn(rejected.text, rejected.calls)]}
        asked = [{key: value for key, value in turn.items() if key not in LEARNED} for turn in self.asked]
        return {"prompt": asked, **sides, **self.beside, **group}

    def completed(self, text: str) -> Document:
        """The document with a completion, of which that alone is learned."""
        if isinstance(self.asked, str):
            return replace(self.document, text=self.asked + text, prompt=len(self.asked))
        return replace(self.document, messages=[*unlearned(self.asked), _turn(text)])


def prompts_of(
    source: str, *, most: int | None = None, columns: Columns | None = None, bad: BadRecords | None = None
) -> list[Prompt]:
    """The first ``most`` prompts of a source, in its order.

    Records that cannot be read, or have no turn to answer, are added to ``bad``. Raises BadCorpus where there are more of them
    than may be skipped, without ``bad`` for the first, and for a wrong source.
    """
    bad = bad or BadRecords()
    found: list[Prompt] = []
    for document in read(source, columns, bad):
        if most is not None and len(found) == most:
            break
        try:
            found.append(prompt_of(document))
        except BadRecord as error:
            bad.add(error)
    bad.check()
    return found


def under(prompts: Sequence[Prompt], systems: Sequence[str]) -> list[Prompt]:
    """The prompts with a system message before each, as a teacher reads them; before their own one, if they have one.

    Raises BadCorpus for a prompt that is no conversation, since only those have system messages.
    """
    found = []
    for prompt, system in zip(prompts, systems, strict=True):
        messages = prompt.document.messages
        if messages is None:
            raise BadCorpus(
                f"{prompt.name}: expected a conversation ('messages'), which a system message can be put before, got a text: "
                "give conversations, or leave --system out and write the text as the teacher is to read it"
            )
        first, rest = (messages[0], messages[1:]) if messages[0]["role"] == "system" else (None, messages)
        whole = system if first is None else f"{system}\n\n{first['content']}"
        messages = [{"role": "system", "content": whole}, *rest]
        found.append(replace(prompt, document=replace(prompt.document, messages=messages)))
    return found


def repeats(answer: str, system: str) -> bool:
    """Whether an answer has `_REPEATED` words of a system message in a row, or all of a shorter one of at least four.

    Case, punctuation and white space do not count.
    """
    said, given = (re.findall(r"\w+", text.lower()) for text in (answer, system))
    run = min(_REPEATED, len(given))
    if run < 4:
        return False
    runs = {tuple(given[i : i + run]) for i in range(len(given) - run + 1)}
    return any(tuple(said[i : i + run]) in runs for i in range(len(said) - run + 1))


def digest(prompts: Iterable[Prompt]) -> str:
    """SHA-256 of the contents of prompts, in order."""
    found = hashlib.sha256()
    for prompt in prompts:
        found.update(prompt.document.digest())
    return found.hexdigest()


def prompt_of(document: Document) -> Prompt:
    """The prompt of a document. Raises BadRecord for a conversation without a turn before the assistant's."""
    if document.prompt:
        assert document.text is not None
        rest = document.text[document.prompt :]
        return Prompt(replace(document, text=document.text[: document.prompt]), rest or None)
    if document.messages is None:
        return Prompt(document)
    stop = len(document.messages)
    while stop and document.messages[stop - 1]["role"] == "assistant":
        stop -= 1
    if not stop:
        raise BadRecord(
            f"{document.name}: expected a turn before the assistant's, got only turns of the assistant: give the "
            "question to answer, or remove it"
        )
    return Prompt(replace(document, messages=document.messages[:stop]), _text_of(document.messages[stop:]))


def _text_of(turns: Sequence[Message]) -> str | None:
    """The text of a single turn; None for several, or one with calls of functions."""
    if len(turns) != 1 or turns[0].get("tool_calls"):
        return None
    content = turns[0].get("content")
    return content if isinstance(content, str) and content.strip() else None


def _turn(text: str, calls: list[Any] | None = None) -> Message:
    """A turn of the assistant; ``calls`` are its calls of functions."""
    if calls:
        return {"role": "assistant", "content": text or None, "tool_calls": calls}
    return {"role": "assistant", "content": text}
