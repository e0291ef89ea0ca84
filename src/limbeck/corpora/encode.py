"""Converts texts to token ids. Long texts are encoded in pieces, because a tokenizer needs a hundred times a text's memory.

A text is split only where no token can cross the split. No entry of the vocabulary contains the two characters beside it, so
that no merge and no path of a model joins them. A window around it gives the same tokens in two pieces as in one, so that
normaliser and pre-tokeniser have no effect across it. Without such a place the text is encoded whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import islice

import numpy as np
from jaxtyping import UInt32
from transformers import PreTrainedTokenizerBase

PIECE = 1 << 16  # the smallest size of a piece in characters; texts of two pieces or more are split
TOGETHER = 1 << 20  # characters encoded in one call: enough for the threads of the tokenizer
_WINDOW = 256  # characters compared on both sides of a split
_TRIES = 16  # places tried before the rest stays one piece

# Places where a text may be split (between two words, after a single line break), and what no token may then contain. A space
# is spelled " ", "▁" or "Ġ" in a vocabulary, a line break as itself or "Ċ"; NUL separates the entries.
_PLACES = (
    (re.compile(r"(?<=[A-Za-z]) (?=[A-Za-z])"), re.compile(r"[A-Za-z][ ▁Ġ]")),
    (re.compile(r"(?<=\S\n)(?=\S)"), re.compile(r"[\nĊ][^\x00\s▁ĠĊĉč]")),
)

Ids = UInt32[np.ndarray, " n"]


def encoded(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[Ids]:
    """The ids of each text without its frame. Special tokens spelled out in a text are read as special tokens."""
    pieces = [pieces_of(tokenizer, text) for text in texts]
    flat = _encoded_pieces(tokenizer, [piece for some in pieces for piece in some])
    return [np.concatenate([np.zeros(0, np.uint32), *islice(flat, len(some))]) for some in pieces]


def pieces_of(tokenizer: PreTrainedTokenizerBase, text: str) -> list[str]:
    """The pieces of a text whose concatenated tokens are those of the text; one piece where it is short."""
    if len(text) < 2 * PIECE or not tokenizer.is_fast:
        return [text]
    pieces, start = [], 0
    places = _places(tokenizer, len(tokenizer))
    while len(text) - start >= 2 * PIECE:
        cut = _cut(tokenizer, text, start, places)
        if cut is None:
            break
        pieces.append(text[start : cut[0]])
        start = cut[1]
    return [*pieces, text[start:]]


@lru_cache(maxsize=8)
def _places(tokenizer: PreTrainedTokenizerBase, size: int) -> tuple[re.Pattern[str], ...]:
    """Patterns of the places where the vocabulary, of this size, permits a split."""
    entries = "\0".join(tokenizer.get_vocab())
    return tuple(place for place, joined in _PLACES if not joined.search(entries))


def _cut(
    tokenizer: PreTrainedTokenizerBase, text: str, start: int, places: Sequence[re.Pattern[str]]
) -> tuple[int, int] | None:
    """(end of a piece, beginning of the next) at the first safe place; None where there is none.

    A tokenizer may add a space before every text. Then the space between two words is in neither piece.
    """
    for place in places:
        for found in islice(place.finditer(text, start + PIECE, len(text) - _WINDOW), _TRIES):
            before, after = max(start, found.start() - _WINDOW), found.end() + _WINDOW
            for begin in dict.fromkeys((found.start(), found.end())):
                window, left, right = _encoded_pieces(
                    tokenizer, [text[before:after], text[before : found.start()], text[begin:after]]
                )
                if np.array_equal(window, np.concatenate([left, right])):
                    return found.start(), begin
    return None


def _encoded_pieces(tokenizer: PreTrainedTokenizerBase, pieces: Sequence[str]) -> Iterator[Ids]:
    """The ids of each piece, computed for several at once."""
    block: list[str] = []
    held = 0
    for piece in pieces:
        block.append(piece)
        held += len(piece)
        if held >= TOGETHER:
            yield from _call(tokenizer, block)
            block, held = [], 0
    yield from _call(tokenizer, block)


def _call(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> Iterator[Ids]:
    if not texts:
        return
    if not tokenizer.is_fast:
        for ids in tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]:
            yield np.array(ids, dtype=np.uint32)
        return
    tokenizer("", add_special_tokens=False)  # resets the truncation and padding of the last caller
    for encoding in tokenizer.backend_tokenizer.encode_batch_fast(texts, add_special_tokens=False):
        yield np.array(encoding.ids, dtype=np.uint32)
