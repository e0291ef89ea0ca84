"""The exact bytes of each token of a fast tokenizer, from its decoder.

Almost all models use one of two families. Byte-level tokenizers spell each byte as one character of an alphabet of 256 (Radford
et al. 2019, sec. 2.2). SentencePiece-like tokenizers spell text, with ``▁`` for a space and ``<0x0A>`` for bytes outside their
alphabet (Kudo & Richardson, arXiv 1808.06226). Both may add a space before a text. Other changes of a text (normalisation, case
folding, unknown tokens) show as different bytes, and are detected document by document.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64
from transformers import PreTrainedTokenizerBase

from limbeck.errors import Mismatch

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_BLANKS = (b" ", b"\t", b"\n", b"\r")
_TEXT_STEPS = {"Metaspace", "Replace", "ByteFallback", "Fuse", "Strip"}


class TokenBytes:
    """The bytes of every token of a tokenizer, by id. The bytes of added tokens are those of their spelling."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, name: str) -> None:
        """Raises Mismatch, with ``name``, where the tokenizer belongs to neither family."""
        steps = _steps(tokenizer, name)
        added = {i: token.content for i, token in tokenizer.added_tokens_decoder.items()}
        vocabulary = tokenizer.get_vocab()
        self._bytes: list[bytes | None] = [None] * (max(vocabulary.values()) + 1)
        spelled = _byte_level() if steps[0]["type"] == "ByteLevel" else _text(steps)
        for token, i in vocabulary.items():
            self._bytes[i] = added[i].encode() if i in added and steps[0]["type"] == "ByteLevel" else spelled(token)
        self._special = tokenizer.all_special_ids
        self._sizes = np.array([len(spelling or b"") for spelling in self._bytes], dtype=np.int64)

    def of(self, tokens: Sequence[int]) -> bytes | None:
        """The concatenated bytes of some tokens; None where those of one are unknown."""
        parts = [self._bytes[token] for token in tokens]
        return None if None in parts else b"".join(part for part in parts if part is not None)

    def text(self, tokens: Sequence[int], size: int) -> bytes | None:
        """The text of ``size`` bytes that tokens spell, without a space added before it; None where the size differs."""
        found = self.of(tokens)
        if found is None or len(found) == size:
            return found
        return found[1:] if len(found) == size + 1 and found[:1] == b" " else None

    def same_in(self, other: TokenBytes, *, ends: tuple[int | None, int | None]) -> Int64[np.ndarray, " V"]:
        """For each token the one of another tokenizer that spells the same bytes; -1 where there is none.

        Of several with one spelling it is the last, on both sides: tokens for single bytes come first and are rarely used where
        there is another. Special tokens are those of the same name, and the ``ends`` of a document each other.
        """
        found = np.full(len(self._bytes), -1)
        theirs = other._by_spelling()
        for spelling, token in self._by_spelling().items():
            found[token] = theirs.get(spelling, -1)
        end, its = ends
        if end is not None and its is not None:
            found[found == its] = -1
            found[end] = its
        return found

    def _by_spelling(self) -> dict[tuple[bool, bytes], int]:
        """The last token of each spelling, apart for special ones, whose spelling is no text."""
        special = set(self._special)
        return {
            (token in special, spelling): token for token, spelling in enumerate(self._bytes) if spelling is not None
        }

    def begin_words(self, vocab: int) -> Bool[np.ndarray, " V"]:
        """Which tokens begin with whitespace or are special, (V,). Before such a token a word is certainly complete."""
        found = np.zeros(max(vocab, len(self._bytes)), dtype=bool)
        found[[i for i, spelling in enumerate(self._bytes) if spelling and spelling[:1] in _BLANKS]] = True
        found[self._special] = True
        return found[:vocab]

    def ends(self, tokens: Sequence[int], text: bytes) -> Int64[np.ndarray, " n"] | None:
        """The end of each token in its text, in bytes; None where the tokens do not spell this text.

        A token that consists of the added space ends at 0.
        """
        if self.text(tokens, len(text)) != text:
            return None
        ends = self._sizes[np.asarray(tokens, dtype=np.int64)].cumsum()
        return ends - (ends[-1] - len(text)) if len(ends) else ends


def _steps(tokenizer: PreTrainedTokenizerBase, name: str) -> list[Mapping[str, Any]]:
    """The steps of a tokenizer's decoder. Raises Mismatch where they are those of neither family."""
    kind = type(tokenizer).__name__
    if tokenizer.is_fast:
        decoder = json.loads(tokenizer.backend_tokenizer.to_str())["decoder"]
        steps = [] if decoder is None else list(_flat(decoder))
        kinds = {step["type"] for step in steps}
        if kinds == {"ByteLevel"} or (steps and kinds <= _TEXT_STEPS):
            return steps
        kind = " and ".join(sorted(kinds)) or "no decoder"
    raise Mismatch(
        f"{name}: expected a byte-level (ByteLevel) or SentencePiece-like (Metaspace, Replace, ByteFallback) fast tokenizer, "
        f"whose tokens have known bytes, got {kind}; give a model with one of those, or a student with the teacher's tokenizer"
    )


def _flat(decoder: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    if decoder["type"] == "Sequence":
        for step in decoder["decoders"]:
            yield from _flat(step)
    else:
        yield decoder


def _byte_level() -> Callable[[str], bytes | None]:
    """A function from a token in the alphabet of bytes to its bytes; None for other tokens."""
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]  # bytes that are spelled as themselves
    hidden = [byte for byte in range(256) if byte not in seen]
    alphabet = {chr(byte): byte for byte in seen} | {chr(256 + i): byte for i, byte in enumerate(hidden)}

    def spelled(token: str) -> bytes | None:
        return bytes(alphabet[c] for c in token) if all(c in alphabet for c in token) else None

    return spelled


def _text(steps: Sequence[Mapping[str, Any]]) -> Callable[[str], bytes | None]:
    """A function from a token spelled as text to its bytes in the middle of a text."""
    replaced = [(step["replacement"], " ") for step in steps if step["type"] == "Metaspace"]
    for step in steps:
        if step["type"] == "Replace" and "String" in step["pattern"]:
            replaced.append((step["pattern"]["String"], step["content"]))
    falls_back = any(step["type"] == "ByteFallback" for step in steps)

    def spelled(token: str) -> bytes | None:
        if falls_back and (found := _BYTE.fullmatch(token)):
            return bytes([int(found[1], 16)])
        for old, new in replaced:
            token = token.replace(old, new)
        return token.encode()

    return spelled
