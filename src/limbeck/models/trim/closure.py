"""The tokens that must stay beside those that a text uses, so that a smaller tokenizer segments that text as before.

Byte pair encoding reaches a token through others, which must stay with it. A unigram model compares all paths through a piece, so
single characters and the lowest score must stay. WordPiece takes the longest match and needs nothing more. Bytes and added tokens
stay in all of them, so every text can still be written. The proofs are in docs/explain/trimmed-vocabularies.md.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol

from tokenizers import pre_tokenizers

from limbeck.errors import BadModel

KINDS = ("BPE", "Unigram", "WordPiece")


class Closure(Protocol):
    """What a kind of tokenizer needs; ids are those of the whole vocabulary."""

    @property
    def base(self) -> frozenset[int]:
        """Ids that always stay: added tokens, bytes or single characters, the unknown token."""

    def of(self, token: int) -> Collection[int]:
        """The ids that stay with a token, itself among them."""


def closure_of(state: Mapping[str, Any], *, name: str) -> Closure:
    """The closure of a fast tokenizer, from the content of its tokenizer.json.

    Raises BadModel, with ``name``, for a kind of tokenizer that is not in ``KINDS``, and for one that segments at random.
    """
    model = state["model"]
    kind = model.get("type")
    if kind not in KINDS:
        raise BadModel(
            f"{name}: expected a tokenizer of the kind {', '.join(KINDS)} to trim its vocabulary, got {kind}; leave --vocab out"
        )
    if model.get("dropout"):
        raise BadModel(
            f"{name}: its tokenizer drops merges at random (dropout {model['dropout']}), so no smaller one segments text as it "
            "does; set dropout to null in its tokenizer.json, or leave --vocab out"
        )
    added = frozenset(int(token["id"]) for token in state["added_tokens"])
    if kind == "BPE":
        return _Bpe.made(state, added)
    return _Unigram.made(model, added) if kind == "Unigram" else _WordPiece.made(model, added)


@dataclass(frozen=True)
class _Bpe:
    """Byte pair encoding, byte-level or of characters (SentencePiece).

    ``rank`` is the place of each pair among the merges, ``prefix`` and ``suffix`` mark symbols inside and at the end of a word.
    """

    ids: Mapping[str, int]
    rank: Mapping[tuple[str, str], int]
    prefix: str
    suffix: str
    base: frozenset[int]
    names: Mapping[int, str] = field(repr=False)

    @classmethod
    def made(cls, state: Mapping[str, Any], added: frozenset[int]) -> _Bpe:
        model, ids = state["model"], state["model"]["vocab"]
        prefix, suffix = (model.get(key) or "" for key in ("continuing_subword_prefix", "end_of_word_suffix"))
        rank: dict[tuple[str, str], int] = {}
        for number, merge in enumerate(model["merges"]):
            rank[pair_of(merge)] = number  # of a pair that is listed twice the last place counts
        base = {ids[token] for token in _alphabet(state, prefix, suffix) if token in ids}
        return cls(ids, rank, prefix, suffix, added | base, {i: token for token, i in ids.items()})

    def of_token(self, token: str) -> set[str]:
        """Every symbol that appears when a token's own string is segmented, and the token."""
        found = {token}
        for symbols in self._beginnings(token):
            found |= set(symbols)
            while (best := self._first(symbols)) is not None:
                merged = symbols[best] + symbols[best + 1].removeprefix(self.prefix)
                symbols[best : best + 2] = [merged]
                found.add(merged)
        return found

    def of(self, token: int) -> set[int]:
        return {self.ids[symbol] for symbol in self.of_token(self.names[token]) if symbol in self.ids}

    def _beginnings(self, token: str) -> Iterator[list[str]]:
        """The single symbols of a token: as the beginning of a word, and as its inside where it is marked so."""
        body = token
        ends = bool(self.suffix) and token.endswith(self.suffix) and token != self.suffix
        if ends:
            body = token.removesuffix(self.suffix)
        inside = bool(self.prefix) and body.startswith(self.prefix) and body != self.prefix
        for text, first in [(body, ""), *([(body.removeprefix(self.prefix), self.prefix)] if inside else [])]:
            symbols = [(first if i == 0 else self.prefix) + character for i, character in enumerate(text)]
            if ends and symbols:
                symbols[-1] += self.suffix
            yield symbols

    def _first(self, symbols: list[str]) -> int | None:
        """The place of the pair that is merged next: the lowest rank, leftmost; None where none is."""
        ranks = [self.rank.get(pair) for pair in pairwise(symbols)]
        known = [(rank, place) for place, rank in enumerate(ranks) if rank is not None]
        return min(known)[1] if known else None


def pair_of(merge: str | list[str]) -> tuple[str, str]:
    """The two symbols of a merge, which older files write as one text with a space between them."""
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def _alphabet(state: Mapping[str, Any], prefix: str, suffix: str) -> Iterator[str]:
    """The symbols that any text may need: bytes where the tokenizer spells in bytes, else all single characters."""
    model = state["model"]
    if model.get("unk_token"):
        yield model["unk_token"]
    if _is_byte_level(state):
        symbols: Collection[str] = pre_tokenizers.ByteLevel.alphabet()
    elif model.get("byte_fallback"):
        yield from byte_tokens()
        symbols = {character for text in _written(state) for character in text}
    else:
        symbols = {token for token in model["vocab"] if len(token.removesuffix(suffix).removeprefix(prefix)) == 1}
    for symbol in symbols:
        yield from (start + symbol + end for start in {"", prefix} for end in {"", suffix})
        yield symbol


def byte_tokens() -> Iterator[str]:
    """The spellings of the 256 bytes outside the alphabet of a SentencePiece-like tokenizer."""
    return (f"<0x{byte:02X}>" for byte in range(256))


def _is_byte_level(state: Mapping[str, Any]) -> bool:
    """Whether text is spelled in the alphabet of 256 bytes before the model sees it."""
    return any(
        step.get("type") == "ByteLevel" for key in ("pre_tokenizer", "normalizer") for step in _steps(state[key])
    )


def _written(state: Mapping[str, Any]) -> Iterator[str]:
    """What normaliser and pre-tokenizer write into a text, such as the sign for a space: it has no bytes of its own."""
    for key in ("pre_tokenizer", "normalizer"):
        for step in _steps(state[key]):
            yield from (step[name] for name in ("replacement", "content", "prepend") if isinstance(step.get(name), str))


def _steps(step: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    """The steps of a normaliser or pre-tokenizer, those inside sequences too."""
    if step is None:
        return
    yield step
    for inner in (*step.get("pretokenizers", ()), *step.get("normalizers", ())):
        yield from _steps(inner)


@dataclass(frozen=True)
class _Alone:
    """A tokenizer of which every token may stay without others."""

    base: frozenset[int]

    def of(self, token: int) -> Collection[int]:
        return (token,)


class _Unigram(_Alone):
    """The most probable path through a piece, where an unknown character costs 10 nats more than the lowest score.

    A missing single character would open the path through an unknown one, and a missing lowest score would make that cheaper.
    """

    @classmethod
    def made(cls, model: Mapping[str, Any], added: frozenset[int]) -> _Unigram:
        pieces = model["vocab"]
        lowest = min(range(len(pieces)), key=lambda i: pieces[i][1])
        base = {i for i, (piece, _) in enumerate(pieces) if len(piece) == 1} | {lowest}
        if model.get("unk_id") is not None:
            base.add(int(model["unk_id"]))
        if model.get("byte_fallback"):
            spelled = set(byte_tokens())
            base |= {i for i, (piece, _) in enumerate(pieces) if piece in spelled}
        return cls(added | base)


class _WordPiece(_Alone):
    """The longest token that a word begins with, again and again. Single characters stay, so that few words become unknown."""

    @classmethod
    def made(cls, model: Mapping[str, Any], added: frozenset[int]) -> _WordPiece:
        prefix = model.get("continuing_subword_prefix") or ""
        base = {i for token, i in model["vocab"].items() if len(token.removeprefix(prefix)) == 1}
        return cls(added | base | {model["vocab"][model["unk_token"]]})
