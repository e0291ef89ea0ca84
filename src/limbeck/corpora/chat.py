"""Conversations to tokens: the tokenizer's own template writes them, and only what the assistant says is learned.

A template that marks the assistant's turns with ``{% generation %}`` is believed. For the others a turn is what a
conversation gains by it: the text up to its end less the text of the prompt before it. That only holds if the template
writes each turn without looking at those after it; it is checked, and templates that drop earlier reasoning do not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from limbeck.corpora.document import Document, Message
from limbeck.errors import BadCorpus

_MARKED = re.compile(r"\{%-?\s*generation\s*-?%\}")


@dataclass(frozen=True)
class Conversation:
    """The tokens of a conversation, which of them are learned, and how many UTF-8 bytes of text those stand for."""

    tokens: list[int]
    learned: Bool[np.ndarray, " tokens"]
    bytes: int


def conversation(tokenizer: PreTrainedTokenizerBase, document: Document) -> Conversation:
    """A document with messages, in tokens. Learned are the assistant's turns with the token that ends each.

    ``bytes`` counts the assistant's text alone, not the special tokens around it.
    """
    messages = document.messages
    assert messages is not None
    _check(tokenizer, document, messages)
    text = _render(tokenizer, document, messages, prompt=False)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    tokens = encoded["input_ids"]
    offsets = np.array(encoded["offset_mapping"], dtype=np.int64).reshape(-1, 2)
    marked = _MARKED.search(tokenizer.get_chat_template()) is not None
    turns = _marked_turns(tokenizer, messages) if marked else _turns(tokenizer, document, messages, text)
    learned = np.zeros(len(tokens), dtype=bool)
    for start, stop in turns:
        learned |= _inside(tokens, offsets, start, stop, tokenizer.eos_token_id)
    if not learned.any():
        raise BadCorpus(
            f"{document.name}: expected the chat template to write the assistant's turns, got no token of theirs: "
            "repair the template or remove the conversation"
        )
    spoken = learned & ~np.isin(tokens, tokenizer.all_special_ids)
    return Conversation(tokens, learned, _bytes(text, offsets[spoken]))


def conversation_so_far(tokenizer: PreTrainedTokenizerBase, document: Document) -> list[int]:
    """The tokens of a document with messages, up to where the assistant begins to speak after the last of them."""
    messages = document.messages
    assert messages is not None
    _check_template(tokenizer, document)
    text = _render(tokenizer, document, messages, prompt=True)
    tokens: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return tokens


def _check_template(tokenizer: PreTrainedTokenizerBase, document: Document) -> None:
    if tokenizer.chat_template is None:
        raise BadCorpus(
            f"{document.name}: expected a tokenizer with a chat template for 'messages', got one without "
            f"({tokenizer.name_or_path or 'trained here'}): use a tokenizer that has one, or give the data as 'text'"
        )


def _check(tokenizer: PreTrainedTokenizerBase, document: Document, messages: list[Message]) -> None:
    _check_template(tokenizer, document)
    if not tokenizer.is_fast:
        raise BadCorpus(
            f"{document.name}: expected a tokenizer that can say where its tokens stand in the text, got a slow one "
            f"({type(tokenizer).__name__}): save it with a tokenizer.json, or give the data as 'text'"
        )
    if not any(message["role"] == "assistant" for message in messages):
        raise BadCorpus(f"{document.name}: expected a turn of the assistant to learn from, got none: remove it")


def _render(tokenizer: PreTrainedTokenizerBase, document: Document, messages: list[Message], *, prompt: bool) -> str:
    """A conversation as its template writes it; with ``prompt``, up to where the assistant begins to speak."""
    import jinja2

    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
    except (jinja2.TemplateError, ValueError, TypeError, KeyError) as error:
        raise BadCorpus(
            f"{document.name}: expected a conversation that the chat template accepts, got its refusal ({error}): "
            "repair or remove the conversation"
        ) from None


def _marked_turns(tokenizer: PreTrainedTokenizerBase, messages: list[Message]) -> list[tuple[int, int]]:
    """Where the template itself says that the assistant speaks, in characters.

    Not by apply_chat_template's own mask of tokens: that one forgets this and all later turns where a turn begins with
    a space that the tokenizer leaves out of its offsets, as GPT-NeoX's does (transformers 5.23).
    """
    template = tokenizer.get_chat_template()
    _, turns = render_jinja_template(
        [messages], chat_template=template, return_assistant_tokens_mask=True, **tokenizer.special_tokens_map
    )
    return turns[0]


def _turns(
    tokenizer: PreTrainedTokenizerBase, document: Document, messages: list[Message], text: str
) -> list[tuple[int, int]]:
    """Where in the text each turn of the assistant begins and ends, in characters."""
    turns = []
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = _render(tokenizer, document, messages[:i], prompt=True)
        until = _render(tokenizer, document, messages[: i + 1], prompt=False)
        if not (until.startswith(before) and text.startswith(until)):
            raise BadCorpus(
                f"{document.name}: expected a chat template that writes message {i} the same whatever follows, got one "
                "that rewrites it, so what the assistant said cannot be told from the rest: mark the assistant's turns "
                "in the template with {% generation %}, or keep one turn a conversation"
            )
        turns.append((len(before), len(until)))
    return turns


def _inside(
    tokens: list[int], offsets: np.ndarray, start: int, stop: int, end_of_turn: int | None
) -> Bool[np.ndarray, " tokens"]:
    """The tokens that end inside a turn, up to its end token where it has one.

    What a template writes after that token (a line break) is never asked of the model. Ends, not beginnings, because
    some tokenizers report a token of spaces as nothing at its end.
    """
    inside: np.ndarray = (offsets[:, 1] > start) & (offsets[:, 1] <= stop)
    if end_of_turn is not None:
        ends = np.flatnonzero(inside & (np.array(tokens) == end_of_turn))
        if len(ends):
            inside[ends[-1] + 1 :] = False
    return inside


def _bytes(text: str, offsets: np.ndarray) -> int:
    """UTF-8 bytes of the characters that some token covers; several tokens may share one character."""
    covered = np.zeros(len(text) + 1, dtype=np.int64)
    np.add.at(covered, offsets[:, 0], 1)
    np.add.at(covered, offsets[:, 1], -1)
    characters = np.flatnonzero(np.cumsum(covered[:-1]) > 0)
    return len("".join(text[i] for i in characters).encode())
