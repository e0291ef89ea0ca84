"""Which tokens of a vocabulary stay: those that a text uses, with what their segmentation needs."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int64

from limbeck.errors import BadSetting
from limbeck.models.trim.closure import closure_of
from limbeck.models.trim.tokenizer import Kept


@dataclass(frozen=True)
class Asked:
    """How much of a vocabulary is asked for: tokens used at least ``least`` times, and at most ``most`` of them."""

    least: int = 1
    most: int | None = None

    @classmethod
    def of(cls, text: str | int) -> Asked:
        """From a setting: "auto", "auto:5" (used at least 5 times), or the largest number of tokens."""
        if isinstance(text, int):
            return cls(most=text)
        _, _, least = text.partition(":")
        return cls(least=int(least or 1))


def choose(
    state: Mapping[str, Any],
    counts: Int64[np.ndarray, " ids"],
    asked: Asked,
    *,
    needed: Collection[int],
    rows: int,
    name: str,
) -> Kept:
    """The ids that stay, ascending, by how often each occurs in a text; the most frequent ones where not all may.

    ``needed`` are ids that must stay whatever the text, such as those in the configuration. Ids from ``rows`` on, for which the
    model has no row, do not stay. Raises BadSetting where more tokens
    are asked for than there are, or fewer than the bytes and special tokens, and BadModel for a tokenizer that cannot be trimmed.
    """
    closure = closure_of(state, name=name)
    there = {i for i in ids_in(state) if i < rows}
    kept = {token for token in (*closure.base, *needed) if token in there}
    if asked.most is not None:
        _check_size(asked.most, base=len(kept), there=len(there), name=name)
    for token in np.argsort(-counts, kind="stable").tolist():
        if counts[token] < max(1, asked.least):
            break
        more = set() if token in kept else (set(closure.of(token)) & there) - kept
        if asked.most is None or len(kept) + len(more) <= asked.most:
            kept |= more
    return np.array(sorted(kept), dtype=np.int64)


def ids_in(state: Mapping[str, Any]) -> set[int]:
    """All ids of a tokenizer."""
    vocab = state["model"]["vocab"]
    ids = range(len(vocab)) if isinstance(vocab, list) else vocab.values()
    return {*ids, *(int(token["id"]) for token in state["added_tokens"])}


def digest_of(kept: Kept) -> str:
    """SHA-256 of the kept ids, by which a trimmed vocabulary is told from another of the same tokenizer."""
    return hashlib.sha256(kept.astype("<i8").tobytes()).hexdigest()


def _check_size(most: int, *, base: int, there: int, name: str) -> None:
    if most >= there:
        raise BadSetting(
            f"--vocab {most}: the tokenizer of {name} has {there:,} tokens, so nothing would be trimmed: give fewer, auto (those "
            "that the text uses), or leave --vocab out"
        )
    if most < base:
        raise BadSetting(
            f"--vocab {most}: the bytes and special tokens of {name} are {base:,}, which always stay, so that any text can be "
            f"written: give {base} or more, or auto"
        )
