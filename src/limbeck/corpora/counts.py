"""How often each token occurs in a training text, and some documents that stand for the whole."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from limbeck.corpora.document import Document
from limbeck.corpora.reading import Reader
from limbeck.corpora.tokenised import in_tokens


@dataclass(frozen=True)
class TokenCounts:
    """``counts``: how often each id occurs in the training text; ``samples``: documents of each side, drawn by digest."""

    counts: Int64[np.ndarray, " ids"]
    samples: Mapping[str, Sequence[Document]]

    @property
    def tokens(self) -> int:
        """Tokens of the training text."""
        return int(self.counts.sum())


def count_tokens(documents: Iterable[tuple[str, Document]], reader: Reader, *, most: int = 256) -> TokenCounts:
    """The tokens of training documents, each with its side ("train" or "held_out"), and ``most`` documents of each side.

    ``reader`` says how many ids there are. Documents that cannot be tokenised are left out.
    """
    assert reader.vocab is not None, "the number of ids"
    counts = np.zeros(reader.vocab, dtype=np.int64)
    samples: dict[str, list[tuple[int, int, Document]]] = {"train": [], "held_out": []}
    training = (document for side, document in _seen(documents, samples, most) if side == "train")
    for item in in_tokens(training, reader):
        counts += np.bincount(item.tokens, minlength=reader.vocab)
    ordered = {side: [document for *_, document in sorted(some, reverse=True)] for side, some in samples.items()}
    return TokenCounts(counts, ordered)


def _seen(
    documents: Iterable[tuple[str, Document]], samples: dict[str, list[tuple[int, int, Document]]], most: int
) -> Iterator[tuple[str, Document]]:
    """The documents again; those of the lowest digests of each side are kept, whatever the order in which they come."""
    for number, (side, document) in enumerate(documents):
        entry = (-int.from_bytes(document.digest()[8:16], "big"), -number, document)
        heap = samples[side]
        if len(heap) < most:
            heapq.heappush(heap, entry)
        elif entry[0] > heap[0][0]:
            heapq.heapreplace(heap, entry)
        yield side, document
