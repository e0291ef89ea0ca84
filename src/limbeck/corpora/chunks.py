"""Aligns two token streams of one text: splits them at common boundaries, into chunks whose likelihoods can be compared.

A chunk lies between two successive byte boundaries that both tokenizers have, so it consists of whole tokens of each
(Minixhofer et al., arXiv 2503.20083, sec. 3). The token that closes a document is a chunk of its own where both have one. With
the same tokenizer on both sides every token is a chunk.

At the beginning of a chunk both models have read the same bytes, so their next-token predictions are for the same place.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int64

from limbeck.corpora.retokenise import text_of, tokens_of
from limbeck.corpora.store import TokenStore
from limbeck.corpora.token_bytes import TokenBytes


@dataclass(frozen=True)
class Side:
    """A token store, and the bytes of its tokens."""

    store: TokenStore
    spelled: TokenBytes


@dataclass(frozen=True)
class DocumentChunks:
    """The chunk of each token of a document, counted from 0 in both streams; -1 for the opening token.

    ``ours`` is the student's stream, ``theirs`` the teacher's. ``count`` chunks are common; the next number is that of a closing
    token which only one side has. ``meets`` holds for each of our tokens which of theirs is predicted from the same text, -1
    where none is.
    """

    ours: Int64[np.ndarray, " n"]
    theirs: Int64[np.ndarray, " m"]
    sizes: Int64[np.ndarray, " n"]  # bytes of each of our tokens
    meets: Int64[np.ndarray, " n"]
    count: int

    @property
    def single(self) -> Bool[np.ndarray, " n"]:
        """Which of our tokens are a common chunk that is a single token on their side too: the same bytes in both."""
        ours, theirs = (np.bincount(side[side >= 0], minlength=self.count + 1) for side in (self.ours, self.theirs))
        alike = (ours == 1) & (theirs == 1)
        return (self.ours >= 0) & (self.ours < self.count) & alike[np.maximum(self.ours, 0)]

    def log_p(self, theirs: Float[np.ndarray, " m"]) -> tuple[Bool[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        """(whether a chunk ends at each of our tokens, its log p there, else NaN), from log p of each of their tokens."""
        inside = (self.theirs >= 0) & (self.theirs < self.count)
        sums = np.bincount(self.theirs[inside], weights=theirs[inside], minlength=self.count)
        ends = np.append(self.ours[1:] != self.ours[:-1], True)
        common = ends & (self.ours >= 0) & (self.ours < self.count)
        log_p = np.full(len(self.ours), np.nan)
        log_p[common] = sums[self.ours[common]]
        return ends, log_p

    def merged(self, unambiguous: Bool[np.ndarray, " m"]) -> DocumentChunks:
        """The chunks, joined to the next one unless they end at one of their ``unambiguous`` tokens."""
        last = np.searchsorted(self.theirs, np.arange(self.count), side="right") - 1
        ends = unambiguous[last]
        ends[-1:] = True
        number = np.append(np.cumsum(ends) - ends, ends.sum())  # how many ended before
        ours, theirs = (np.where(x < 0, -1, number[x]) for x in (self.ours, self.theirs))
        return replace(self, ours=ours, theirs=theirs, count=int(ends.sum()))


def chunks_of(ours: Side, theirs: Side, document: int) -> DocumentChunks | None:
    """The chunks of the document with this number in both stores; None where the two texts differ or cannot be decoded."""
    text = text_of(ours.store, document, ours.spelled)
    if text is None:
        return None
    pair = [_ends(side, document, text) for side in (ours, theirs)]
    if pair[0] is None or pair[1] is None:
        return None
    return cut(pair[0], pair[1], size=len(text))


def cut(ours: Int64[np.ndarray, " n"], theirs: Int64[np.ndarray, " m"], *, size: int) -> DocumentChunks:
    """The chunks of two streams of one text of ``size`` bytes, from the end of each token in it.

    The end of the opening token is -1, that of the closing one is size + 1. A token that ends at 0, the space added before a
    text, belongs to the chunk that follows it.
    """
    common = np.intersect1d(ours, theirs)
    common = common[common > 0]
    first, second = (np.where(ends < 0, -1, np.searchsorted(common, ends)) for ends in (ours, theirs))
    meets = np.full(len(ours), -1)
    bounds = np.concatenate([[0], common[:-1]])[: len(common)]
    ours_next, theirs_next = (np.searchsorted(ends, bounds, side="right") for ends in (ours, theirs))
    meets[ours_next] = theirs_next
    return DocumentChunks(first, second, np.diff(np.clip(ours, 0, size), prepend=0), meets, len(common))


def _ends(side: Side, document: int, text: bytes) -> Int64[np.ndarray, " n"] | None:
    """The end of each token of a document in its text: -1 for the opening token, one past the text for the closing one."""
    tokens, begin, end, read = tokens_of(side.store, document, side.spelled)
    if read is None:
        return None
    ends = side.spelled.ends(tokens[begin : len(tokens) - end].tolist(), text)
    if ends is None or not len(tokens):
        return None
    return np.concatenate([np.full(begin, -1), ends, np.full(end, len(text) + 1)])
