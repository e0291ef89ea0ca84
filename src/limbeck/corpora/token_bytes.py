"""The bytes of a text that each token stands for, exactly, read off the decoder of a fast tokenizer.

Two families write almost all models' tokens. Byte-level ones spell each byte as one character of an alphabet of 256 (Radford et
al. 2019, sec. 2.2); SentencePiece-like ones spell text, with ``▁`` for a space and ``<0x0A>`` for a byte that is no character of
theirs (Kudo & Richardson, arXiv 1808.06226). Both may put a space before a text that had none. Whatever else a tokenizer does to
a text (normalising, folding case, unknown tokens) shows as other bytes than the text's, document by document.
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
    """The bytes of every token of one tokenizer, by its id. Added tokens stand for the text they are spelled with."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, name: str) -> None:
        """Raises Mismatch, by name, where the tokenizer is of a kind whose bytes cannot be told."""
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
        """The bytes of some tokens one after the other; None where one stands for no known bytes."""
        parts = [self._bytes[token] for token in tokens]
        return None if None in parts else b"".join(part for part in parts if part is not None)

    def text(self, tokens: Sequence[int], size: int) -> bytes | None:
        """A text of ``size`` bytes out of its tokens, without a space that was put before it; None where it is not whole."""
        found = self.of(tokens)
        if found is None or len(found) == size:
            return found
        return found[1:] if len(found) == size + 1 and found[:1] == b" " else None

    def begin_words(self, vocab: int) -> Bool[np.ndarray, " V"]:
        """Which tokens begin with a blank or are special: where one follows, no longer word could have been meant."""
        found = np.zeros(max(vocab, len(self._bytes)), dtype=bool)
        found[[i for i, spelling in enumerate(self._bytes) if spelling and spelling[:1] in _BLANKS]] = True
        found[self._special] = True
        return found[:vocab]

    def ends(self, tokens: Sequence[int], text: bytes) -> Int64[np.ndarray, " n"] | None:
        """Where in its text each token ends, in bytes; None where the tokens are not those of this text.

        A token that is nothing but the space put before a text ends at 0.
        """
        if self.text(tokens, len(text)) != text:
            return None
        ends = self._sizes[np.asarray(tokens, dtype=np.int64)].cumsum()
        return ends - (ends[-1] - len(text)) if len(ends) else ends


def _steps(tokenizer: PreTrainedTokenizerBase, name: str) -> list[Mapping[str, Any]]:
    """The steps of a tokenizer's decoder, if they are those of one of the two families."""
    kind = type(tokenizer).__name__
    if tokenizer.is_fast:
        decoder = json.loads(tokenizer.backend_tokenizer.to_str())["decoder"]
        steps = [] if decoder is None else list(_flat(decoder))
        kinds = {step["type"] for step in steps}
        if kinds == {"ByteLevel"} or (steps and kinds <= _TEXT_STEPS):
            return steps
        kind = " and ".join(sorted(kinds)) or "no decoder"
    raise Mismatch(
        f"{name}: its tokenizer is of a kind ({kind}) whose tokens cannot be told in bytes; byte-level (ByteLevel) and "
        "SentencePiece-like (Metaspace, Replace, ByteFallback) fast tokenizers can. Take a model with one of those, or a "
        "student with the teacher's tokenizer"
    )


def _flat(decoder: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    if decoder["type"] == "Sequence":
        for step in decoder["decoders"]:
            yield from _flat(step)
    else:
        yield decoder


def _byte_level() -> Callable[[str], bytes | None]:
    """The bytes of a token that is spelled in the alphabet of bytes; None of one that is not."""
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]  # bytes that are spelled as themselves
    hidden = [byte for byte in range(256) if byte not in seen]
    alphabet = {chr(byte): byte for byte in seen} | {chr(256 + i): byte for i, byte in enumerate(hidden)}

    def spelled(token: str) -> bytes | None:
        return bytes(alphabet[c] for c in token) if all(c in alphabet for c in token) else None

    return spelled


def _text(steps: Sequence[Mapping[str, Any]]) -> Callable[[str], bytes | None]:
    """The bytes of a token that is spelled as text, as the decoder would write it in the middle of one."""
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
