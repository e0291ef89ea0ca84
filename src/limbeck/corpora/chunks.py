"""Two token streams of one text, cut where both have a boundary: the chunks whose likelihoods can be compared.

A chunk is what lies between two byte boundaries that both tokenizers have, so it is some whole tokens of each, and none of its
parts would be (Minixhofer et al., arXiv 2503.20083, sec. 3). The token that closes a document is a chunk of its own where both
have one. With one tokenizer on both sides every token is a chunk.

Where a chunk begins both have read the same bytes, so what each thinks of the next token is about the same place.
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
    """A store, and what its tokens stand for."""

    store: TokenStore
    spelled: TokenBytes


@dataclass(frozen=True)
class DocumentChunks:
    """Which chunk of a document each token belongs to, counted from 0 in both streams; -1 of what opens it.

    ``count`` of them are common; the number after those is of a closing token that only one side has. ``meets`` is of each of
    our tokens which of theirs is predicted from the same text, -1 where none is.
    """

    ours: Int64[np.ndarray, " n"]
    theirs: Int64[np.ndarray, " m"]
    sizes: Int64[np.ndarray, " n"]  # bytes of each of our tokens
    meets: Int64[np.ndarray, " n"]
    count: int

    def log_p(self, theirs: Float[np.ndarray, " m"]) -> tuple[Bool[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        """From log p of each of their tokens: whether a chunk ends at each of ours, and there its log p, NaN if not told."""
        inside = (self.theirs >= 0) & (self.theirs < self.count)
        sums = np.bincount(self.theirs[inside], weights=theirs[inside], minlength=self.count)
        ends = np.append(self.ours[1:] != self.ours[:-1], True)
        common = ends & (self.ours >= 0) & (self.ours < self.count)
        log_p = np.full(len(self.ours), np.nan)
        log_p[common] = sums[self.ours[common]]
        return ends, log_p

    def merged(self, unambiguous: Bool[np.ndarray, " m"]) -> DocumentChunks:
        """With each chunk joined to the next, unless it ends at one of their tokens of which this is said; the last one ends."""
        last = np.searchsorted(self.theirs, np.arange(self.count), side="right") - 1
        ends = unambiguous[last]
        ends[-1:] = True
        number = np.append(np.cumsum(ends) - ends, ends.sum())  # how many ended before
        ours, theirs = (np.where(x < 0, -1, number[x]) for x in (self.ours, self.theirs))
        return replace(self, ours=ours, theirs=theirs, count=int(ends.sum()))


def chunks_of(ours: Side, theirs: Side, document: int) -> DocumentChunks | None:
    """The chunks of a document that has the same number in both stores; None where the two are not of one text."""
    text = text_of(ours.store, document, ours.spelled)
    if text is None:
        return None
    pair = [_ends(side, document, text) for side in (ours, theirs)]
    if pair[0] is None or pair[1] is None:
        return None
    return cut(pair[0], pair[1], size=len(text))


def cut(ours: Int64[np.ndarray, " n"], theirs: Int64[np.ndarray, " m"], *, size: int) -> DocumentChunks:
    """The chunks of two streams of one text of ``size`` bytes, by where each token ends in it.

    -1 is what opens the document, size + 1 what closes it. A token that ends at 0, the space put before a text, goes with what
    follows it.
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
    """Where each token of a document ends in its text, -1 of what opens it, one past the text of what closes it."""
    tokens, begin, end, read = tokens_of(side.store, document, side.spelled)
    if read is None:
        return None
    ends = side.spelled.ends(tokens[begin : len(tokens) - end].tolist(), text)
    if ends is None or not len(tokens):
        return None
    return np.concatenate([np.full(begin, -1), ends, np.full(end, len(text) + 1)])
