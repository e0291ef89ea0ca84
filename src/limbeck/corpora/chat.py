"""Converts conversations to tokens with the tokenizer's chat template. Only the assistant's turns are learned.

Templates may mark these turns with ``{% generation %}``. Otherwise a turn is the difference between the text up to its end and
the text of the prompt before it. This requires that the template writes each turn independently of later ones, which is
checked; templates that drop earlier reasoning do not.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from limbeck.corpora.document import Document, Message
from limbeck.corpora.records import LEARNED, learned
from limbeck.errors import BadCorpus, BadRecord

_MARKED = re.compile(r"\{%-?\s*generation\s*-?%\}")
_PLACE = "limbeck-0f3a"  # stands for the text of a turn
# Templates that recognise tool calls by null content, as DeepSeek's does. Others would write "None" there.
_ASKS_FOR_NULL = re.compile(r"content['\"]?\]?\s*(is\s+(not\s+)?|[!=]=\s*)none", re.IGNORECASE)


@dataclass(frozen=True)
class Conversation:
    """The tokens of a conversation, a mask of learned ones, and the number of UTF-8 bytes of the learned text."""

    tokens: list[int]
    learned: Bool[np.ndarray, " tokens"]
    bytes: int


def conversation(tokenizer: PreTrainedTokenizerBase, document: Document) -> Conversation:
    """The tokens of a document with messages. Assistant turns are learned with their end tokens, except turns of weight 0.

    ``bytes`` counts the learned text without special tokens. Raises BadCorpus where the tokenizer has no chat template or no
    offsets, and BadRecord where its template rejects this conversation.
    """
    messages = document.messages
    assert messages is not None
    check_tokenizer(tokenizer, document)
    wanted = [learned(message, i, document.name) for i, message in enumerate(messages)]
    _check_wanted(document, messages, wanted)
    text = written(tokenizer, document, messages)
    turns = _turns(tokenizer, document, messages, wanted, text)
    tokens, offsets = _encoded(tokenizer, text, [start for start, _ in turns])
    mask = np.zeros(len(tokens), dtype=bool)
    for start, stop in turns:
        mask |= _inside(tokenizer, tokens, offsets, text, start, stop)
    if not mask.any():
        raise BadRecord(
            f"{document.name}: expected the chat template to write the assistant's turns, got no token of theirs: "
            "repair the template or remove the conversation"
        )
    text_tokens = mask & ~np.isin(tokens, _special(tokenizer))
    return Conversation(tokens, mask, _bytes(text, offsets[text_tokens]))


def completion(tokenizer: PreTrainedTokenizerBase, document: Document) -> Conversation:
    """The tokens of a document with prompt and completion, without its frame. The prompt is not learned.

    Raises BadCorpus where the tokenizer has no offsets.
    """
    text = document.text
    assert text is not None
    _require_offsets(tokenizer, document)
    tokens, offsets = _encoded(tokenizer, text, [document.prompt])
    mask = offsets[:, 1] > document.prompt
    first = min([document.prompt, *offsets[mask][:1, 0].tolist()])
    return Conversation(tokens, mask, len(text[first:].encode()))


def conversation_so_far(tokenizer: PreTrainedTokenizerBase, document: Document) -> list[int]:
    """The tokens of a document with messages, up to the beginning of the next assistant turn: a prompt for generation.

    Of a template without a generation prompt it is what the template writes before the text of such a turn.

    Raises BadCorpus where the tokenizer has no chat template, and BadRecord where that rejects the messages.
    """
    messages = document.messages
    assert messages is not None
    _check_template(tokenizer, document)
    text = written(tokenizer, document, messages, prompt=True)
    if text == written(tokenizer, document, messages):
        text += _header(tokenizer, document, text)
    tokens: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return tokens


def opens_turns(tokenizer: PreTrainedTokenizerBase, document: Document) -> bool:
    """Whether the chat template writes anything before an assistant's turn, by which a model knows that one begins."""
    messages = document.messages
    assert messages is not None
    text = written(tokenizer, document, messages)
    return written(tokenizer, document, messages, prompt=True) != text or bool(_header(tokenizer, document, text))


def _header(tokenizer: PreTrainedTokenizerBase, document: Document, text: str) -> str:
    """What the template writes between the ``text`` of a document and that of an assistant's turn after it; "" for space alone.

    A space alone is left to the turn: many tokenizers join it to its first word.
    """
    assert document.messages is not None
    turn: Message = {"role": "assistant", "content": _PLACE}
    try:
        longer = written(tokenizer, document, [*document.messages, turn])
    except BadRecord:  # another turn of the assistant after one
        return ""
    header = longer[len(text) : longer.find(_PLACE)] if longer.startswith(text) and _PLACE in longer else ""
    return header if header.strip() else ""


def _encoded(
    tokenizer: PreTrainedTokenizerBase, text: str, cuts: Sequence[int]
) -> tuple[list[int], Int64[np.ndarray, "tokens 2"]]:
    """(tokens of a text, start and end of each in it), split at the given cuts, where a model's completion begins.

    At generation a model has read only the tokens of its prompt, so no token should contain both the end of a prompt and the
    beginning of a completion. Where one does, the parts are encoded separately. Tokenizers that add a space before each text
    would then decode another text; in this case the text stays whole.
    """
    tokens, offsets = _with_offsets(tokenizer, text, 0)
    across = sorted({cut for cut in cuts if ((offsets[:, 0] < cut) & (cut < offsets[:, 1])).any()})
    if not across:
        return tokens, offsets
    pieces = [(text[start:stop], start) for start, stop in pairwise([0, *across, len(text)])]
    parts = [_with_offsets(tokenizer, piece, start) for piece, start in pieces]
    apart = [token for part, _ in parts for token in part]
    whole, joined = (tokenizer.decode(ids, clean_up_tokenization_spaces=False) for ids in (tokens, apart))
    if joined != whole:
        return tokens, offsets
    return apart, np.concatenate([part for _, part in parts])


def _with_offsets(
    tokenizer: PreTrainedTokenizerBase, text: str, start: int
) -> tuple[list[int], Int64[np.ndarray, "tokens 2"]]:
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return encoded["input_ids"], np.array(encoded["offset_mapping"], dtype=np.int64).reshape(-1, 2) + start


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, document: Document) -> None:
    """Raises BadCorpus where a tokenizer has no chat template or no offsets. ``document`` is the first conversation."""
    _check_template(tokenizer, document)
    _require_offsets(tokenizer, document)


def _check_template(tokenizer: PreTrainedTokenizerBase, document: Document) -> None:
    if tokenizer.chat_template is None:
        raise BadCorpus(
            f"{document.name}: expected a tokenizer with a chat template for {document.form or 'messages'!r}, got one without "
            f"({tokenizer.name_or_path or 'trained here'}): use a tokenizer that has one, or give the data as 'text'"
        )


def _require_offsets(tokenizer: PreTrainedTokenizerBase, document: Document) -> None:
    if not tokenizer.is_fast:
        raise BadCorpus(
            f"{document.name}: expected a tokenizer with offsets of its tokens in the text, got a slow one "
            f"({type(tokenizer).__name__}): save it with a tokenizer.json, or give the data as 'text'"
        )


def _check_wanted(document: Document, messages: Sequence[Message], wanted: Sequence[bool]) -> None:
    if any(wanted):
        return
    if any(message["role"] == "assistant" for message in messages):
        raise BadRecord(f"{document.name}: expected an assistant turn of weight 1, all have weight 0: remove it")
    raise BadRecord(f"{document.name}: expected a turn of the assistant to learn from, got none: remove it")


def written(
    tokenizer: PreTrainedTokenizerBase, document: Document, messages: Sequence[Message], *, prompt: bool = False
) -> str:
    """The text of messages from the chat template; with ``prompt``, up to the beginning of the next assistant turn.

    Raises BadRecord with the template's reason where it rejects them.
    """
    try:
        return _rendered(tokenizer, document, messages, prompt=prompt)[0]
    except Exception as error:  # a template is a program, and raises what programs raise
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        roles = ", ".join(message["role"] for message in messages)
        raise BadRecord(
            f"{document.name}: expected a conversation that the chat template accepts, got its refusal ({reason}) of messages by "
            f"{roles}: repair or remove the conversation"
        ) from None


def _rendered(
    tokenizer: PreTrainedTokenizerBase,
    document: Document,
    messages: Sequence[Message],
    *,
    prompt: bool = False,
    marks: bool = False,
) -> tuple[str, list[tuple[int, int]]]:
    """(text, with ``marks`` start and end of each assistant turn that the template marks).

    apply_chat_template is not used. It drops every null, also where the template tests for it, and its token mask misses turns
    that begin with a space which the tokenizer excludes from its offsets, as GPT-NeoX's does (transformers 5.23).
    """
    template = tokenizer.get_chat_template(None, document.tools)
    null = _ASKS_FOR_NULL.search(template) is not None
    shown = [
        {k: v for k, v in message.items() if k not in LEARNED and (v is not None or (null and k == "content"))}
        for message in messages
    ]
    further: dict[str, Any] = {**tokenizer.special_tokens_map, **(document.template or {})}
    texts, turns = render_jinja_template(
        [shown],
        tools=document.tools,
        chat_template=template,
        add_generation_prompt=prompt,
        return_assistant_tokens_mask=marks,
        **further,
    )
    return texts[0], turns[0] if marks else []


def _turns(
    tokenizer: PreTrainedTokenizerBase,
    document: Document,
    messages: Sequence[Message],
    wanted: Sequence[bool],
    text: str,
) -> list[tuple[int, int]]:
    """Start and end of each learned turn in the text, in characters."""
    if _MARKED.search(tokenizer.get_chat_template(None, document.tools)) is None:
        return [_turn(tokenizer, document, messages, i, text) for i, learn in enumerate(wanted) if learn]
    turns = _rendered(tokenizer, document, messages, marks=True)[1]
    assistant = [learn for learn, message in zip(wanted, messages, strict=True) if message["role"] == "assistant"]
    if all(assistant):
        return turns
    if len(turns) != len(assistant):
        raise BadRecord(
            f"{document.name}: its template marks {len(turns)} turns of {len(assistant)}, so the turn of "
            "weight 0 cannot be identified: repair the template or remove the conversation"
        )
    return [turn for turn, learn in zip(turns, assistant, strict=True) if learn]


def _turn(
    tokenizer: PreTrainedTokenizerBase, document: Document, messages: Sequence[Message], i: int, text: str
) -> tuple[int, int]:
    """Start and end in the text of message i, an assistant turn."""
    until = text if i + 1 == len(messages) else written(tokenizer, document, messages[: i + 1])
    if text.startswith(until):
        start = _opening(tokenizer, document, until) if i == 0 else None
        if start is None:
            before = written(tokenizer, document, messages[:i], prompt=True)
            start = len(before) if until.startswith(before) else None
        if start is not None:
            return start, len(until)
    raise BadRecord(
        f"{document.name}: expected a chat template that writes message {i} the same whatever follows, got one "
        "that rewrites it, so the assistant's turns cannot be separated from the rest: mark the assistant's turns "
        "in the template with {% generation %}, or keep one turn a conversation"
    )


def _opening(tokenizer: PreTrainedTokenizerBase, document: Document, until: str) -> int | None:
    """The start of the assistant's text in a conversation that begins with it; None where it cannot be found.

    Many templates need a first message. So the marker of an assistant turn is taken from another conversation: the text that
    a generation prompt adds to a question.
    """
    question: list[Message] = [{"role": "user", "content": "?"}]
    alone, prompted = (written(tokenizer, document, question, prompt=prompt) for prompt in (False, True))
    marker = prompted.removeprefix(alone)
    place = until.find(marker) if marker and prompted.startswith(alone) else -1
    return None if place < 0 else place + len(marker)


def _inside(
    tokenizer: PreTrainedTokenizerBase, tokens: list[int], offsets: np.ndarray, text: str, start: int, stop: int
) -> Bool[np.ndarray, " tokens"]:
    """The tokens that end inside a turn, up to its end token where it has one.

    The end token is the last eos, or else a token added to the vocabulary with only whitespace after it: many models end a turn
    with another token than a text. The model never has to predict what a template writes after it (a line break). Ends count,
    not starts, because some tokenizers report tokens of spaces as empty spans at their ends.
    """
    inside: np.ndarray = (offsets[:, 1] > start) & (offsets[:, 1] <= stop)
    ends = np.flatnonzero(inside & (np.array(tokens) == tokenizer.eos_token_id))
    if not len(ends):
        added = np.flatnonzero(inside & np.isin(tokens, list(tokenizer.added_tokens_decoder)))
        ends = added[-1:] if len(added) and not text[offsets[added[-1], 1] : stop].strip() else ends
    if len(ends):
        inside[ends[-1] + 1 :] = False
    return inside


def _special(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of tokens without text: named special tokens, and tokens added as special."""
    added = tokenizer.added_tokens_decoder.items()
    return sorted({*tokenizer.all_special_ids, *(i for i, token in added if token.special)})


def _bytes(text: str, offsets: np.ndarray) -> int:
    """UTF-8 bytes of the characters that at least one token covers. Several tokens may share one character."""
    covered = np.zeros(len(text) + 1, dtype=np.int64)
    np.add.at(covered, offsets[:, 0], 1)
    np.add.at(covered, offsets[:, 1], -1)
    characters = np.flatnonzero(np.cumsum(covered[:-1]) > 0)
    return len("".join(text[i] for i in characters).encode())
