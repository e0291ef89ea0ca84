"""Rows of preference pairs: the weight of a pair, which side a position belongs to, and the preferred side alone as a store."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from limbeck.corpora.layout_pairs import sizes_of
from limbeck.corpora.store import TokenStore
from limbeck.corpora.writer import Item, record_batch
from limbeck.host import on_host, sent
from limbeck.types import Batch


def each_counts_once(batch: Batch) -> Batch:
    """The batch with the weight of every pair divided by its number of learned tokens, so that each pair counts 1."""
    pair = sides_of(batch) // 2
    counted = (on_host(batch.weight).reshape(-1) > 0) & (pair >= 0)
    return replace(batch, weight=_shared_out(counted, pair).view_as(batch.weight))


def rows_count_once(batch: Batch) -> Batch:
    """The batch with the weight of every row divided by its number of learned tokens, so that a row of text counts 1."""
    counted = on_host(batch.weight) > 0
    number = torch.arange(len(counted))[:, None].expand_as(counted)
    return replace(batch, weight=_shared_out(counted.reshape(-1), number.reshape(-1)).view_as(batch.weight))


def _shared_out(counted: Tensor, group: Tensor) -> Tensor:
    """1 over the number of counted positions of the group of each, 0 where a position does not count."""
    total = torch.zeros(int(group.max()) + 1 if len(group) else 0).index_add_(
        0, group[counted], counted[counted].float()
    )
    weight = torch.zeros(len(group))
    weight[counted] = 1 / total[group[counted]]
    return weight


def sides_of(batch: Batch) -> Int[Tensor, " n"]:
    """The side of each flat position of rows of pairs: 2 i the preferred one of pair i, 2 i + 1 the rejected one, -1 padding.

    Pairs are numbered in the order of the batch. The positions of padding belong to no side.
    """
    real = on_host(batch.document).reshape(-1) >= 0
    sequence = replace(batch, position=on_host(batch.position)).sequence.reshape(-1)
    number = torch.full_like(sequence, -1)
    number[real] = torch.unique_consecutive(sequence[real], return_inverse=True)[1]
    return number


def by_side(batch: Batch) -> Batch:
    """The batch with 2 d and 2 d + 1 as the documents of both sides of pair d, so that what is summed by document is by side."""
    side = sent(sides_of(batch), batch.document.device).view_as(batch.document)
    return replace(batch, document=torch.where(side >= 0, 2 * batch.document + side % 2, batch.document))


def preferred_of(store: TokenStore, length: int | None) -> TokenStore:
    """The preferred sides of the pairs that fit in a row of ``length`` tokens (None: of all), in order, as a store in memory.

    Pairs that rows leave out are no text either, so that what learns the preferred sides reads the same pairs.
    """
    items = list(_preferred(store, length))
    counts = {
        **store.manifest,
        "documents": len(items),
        "tokens": sum(len(item.tokens) for item in items),
        "bytes": sum(item.size for item in items),
        "predictions": sum(item.predictions for item in items),
    }
    return TokenStore(Path(store.folder), counts, [record_batch(items)], packing=store.packing)


def _preferred(store: TokenStore, length: int | None) -> Iterator[Item]:
    assert store.seconds is not None, "a store of pairs"
    taken = sizes_of(store.starts, store.seconds).sum(1)
    for number in np.flatnonzero(taken <= (taken if length is None else length)).tolist():
        start, stop = int(store.starts[number]), int(store.seconds[number])
        tokens, learned = store.slice(start, stop), store.learned(start, stop)
        yield Item(store.name_of(number), store.sha256_of(number) or b"", tokens, learned, store.bytes_of(number))


def tokens_by_side(store: TokenStore) -> Int[np.ndarray, "pairs 2"]:
    """How many tokens are learned of each side of each pair."""
    assert store.seconds is not None, "a store of pairs"
    edges = np.append(np.stack([store.starts[:-1], store.seconds], 1).reshape(-1), store.starts[-1])
    total = np.concatenate([[0], np.cumsum(store.learned(0, store.tokens))])
    found: np.ndarray = np.diff(total[edges]).reshape(-1, 2)
    return found
