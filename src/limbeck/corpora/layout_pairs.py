"""Assigns preference pairs to rows: both sides of a pair stand in one row, each read without the other.

So every part of a batch that is cut at rows has whole pairs: micro-batches, ranks, the rows between those of other text. Pairs
are packed by best fit decreasing, as documents are (`corpora.layout`). A pair longer than a row is left out and counted: half of
it would have another loss.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Int64

from limbeck.corpora.layout import Layout, LearnedOf, Packed, best_fit, in_mixed_order
from limbeck.errors import BadCorpus


def sizes_of(
    starts: Int64[np.ndarray, " pairs_and_one"], seconds: Int64[np.ndarray, " pairs"]
) -> Int64[np.ndarray, "pairs 2"]:
    """The places in a row that both sides of each pair take: all but a side's last token, which is only predicted."""
    return np.stack([seconds - starts[:-1] - 1, starts[1:] - seconds - 1], 1)


def lay_out_pairs(
    starts: Int64[np.ndarray, " pairs_and_one"],
    seconds: Int64[np.ndarray, " pairs"],
    learned: LearnedOf,
    *,
    length: int,
) -> Layout:
    """The layout of pairs in a stream of tokens: their first tokens (and the stream's end), and those of their rejected sides.

    ``learned(start, stop)`` is the mask of learned tokens of a part of the stream. Raises BadCorpus where all pairs are longer
    than a row.
    """
    sizes = sizes_of(starts, seconds)
    fits = sizes.sum(1) <= length
    if not fits.any():
        raise BadCorpus(
            f"all {len(fits):,} pairs are longer than a row of {length} tokens, which has both sides of a pair: give a --seq-len "
            f"of {int(sizes.sum(1).min())} or more"
        )
    row, rows = best_fit(sizes[fits].sum(1), length)
    row = in_mixed_order(row, rows)
    order = np.lexsort((starts[:-1][fits], row))
    begin = np.stack([starts[:-1], seconds], 1)[fits][order].reshape(-1)
    size = sizes[fits][order].reshape(-1)
    first = np.zeros(rows + 1, np.int64)
    np.cumsum(2 * np.bincount(row, minlength=rows), out=first[1:])
    counts = np.add.reduceat(learned(int(starts[0]), int(starts[-1])), starts[:-1] - starts[0], dtype=np.int64)
    packed = Packed(
        learned=int(counts[fits].sum()),
        read=int(size.sum()),
        left_out=int((~fits).sum()),
        left_out_tokens=int(counts[~fits].sum()),
    )
    return Layout(length, begin, size, np.zeros_like(size), np.ones(len(size), bool), first, packed)
