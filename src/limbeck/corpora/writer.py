"""Writes a token store: tokenised documents are collected and written shard by shard, the manifest last."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from limbeck.corpora.store import FORMAT, MANIFEST
from limbeck.disk import replacing, sha256_of, write_json
from limbeck.models.vocabulary import ids_of

SHARD_BYTES = 64 << 20
SHARD_DOCUMENTS = 50_000


@dataclass(frozen=True)
class Item:
    """One tokenised document. ``second``: in a preference pair the place of the rejected side's first token, otherwise 0.

    ``prompt``: of a preference pair the SHA-256 of its prompt, by which it is split.
    """

    name: str
    digest: bytes
    tokens: np.ndarray
    learned: np.ndarray | None
    size: int  # UTF-8 bytes of the text that is learned, of a pair that of its preferred side
    second: int = 0
    prompt: bytes = b""

    @property
    def predictions(self) -> int:
        """The number of its learned tokens, without the first token."""
        return max(0, len(self.tokens) - 1) if self.learned is None else int(self.learned[1:].sum())


@dataclass
class Writer:
    """Collects the documents of one store and writes them shard by shard, in order of their hashes (``mixed``) or of arrival.

    ``overlap``, ``left_out`` and ``duplicates`` are counted by who adds documents. ``sources``: documents and tokens of each
    source that is kept apart.
    """

    folder: Path
    dtype: np.dtype
    mixed: bool = True
    items: list[Item] = field(default_factory=list)
    waiting: int = 0
    documents: int = 0
    tokens: int = 0
    size: int = 0
    predictions: int = 0
    overlap: int = 0
    left_out: int = 0
    duplicates: int = 0
    shards: list[dict[str, Any]] = field(default_factory=list)
    sources: list[dict[str, Any]] = field(default_factory=list)
    digest: Any = field(default_factory=hashlib.sha256)

    def add(self, item: Item) -> None:
        """Adds a document, and writes a shard where enough are collected."""
        self.items.append(item)
        self.waiting += item.tokens.nbytes
        if self.waiting >= SHARD_BYTES or len(self.items) >= SHARD_DOCUMENTS:
            self.flush()

    def flush(self) -> None:
        """Writes the collected documents as one shard."""
        if not self.items:
            return
        items = sorted(self.items, key=lambda item: (item.digest, item.name)) if self.mixed else self.items
        self.shards.append(write_items(self.folder / f"{len(self.shards):05d}.arrow", items))
        self.documents += len(items)
        self.tokens += self.shards[-1]["tokens"]
        self.size += sum(item.size for item in items)
        self.predictions += sum(item.predictions for item in items)
        self.digest.update(b"".join(item.digest for item in items))
        self.items, self.waiting = [], 0

    def close(self, source: str) -> None:
        """Ends the documents of a source: what follows is in other shards."""
        self.flush()
        before = {name: sum(one[name] for one in self.sources) for name in ("documents", "tokens")}
        counts = {name: getattr(self, name) - before[name] for name in before}
        self.sources.append({"source": source} | counts)

    def found(self, *, since: bool) -> int:
        """The number of documents so far; with ``since``, of those of the source that is not closed."""
        closed = sum(one["documents"] for one in self.sources) if since else 0
        return self.documents + len(self.items) - closed

    def finish(self, made_from: dict[str, Any], *, corpus: str | None = None, **facts: Any) -> None:
        """Writes the manifest, which makes the folder a store. ``corpus`` replaces the digest of all documents."""
        self.flush()
        manifest = {
            "format": FORMAT,
            "documents": self.documents,
            "tokens": self.tokens,
            "bytes": self.size,
            "predictions": self.predictions,
            "overlap": self.overlap,
            "left_out": self.left_out,
            "dtype": self.dtype.name,
            "corpus_sha256": corpus or self.digest.hexdigest(),
            "made_from": made_from,
            "shards": self.shards,
            **({"sources": self.sources} if self.sources else {}),
            **facts,
        }
        write_json(self.folder / MANIFEST, manifest)

    def state(self, waiting: str) -> dict[str, Any]:
        """What was written so far, for JSON; documents that wait for their shard are written to the file ``waiting``."""
        counts = {name: getattr(self, name) for name in COUNTS}
        found = counts | {"shards": self.shards, "sources": self.sources}
        return found | {"waiting": write_items(self.folder / waiting, self.items)} if self.items else found

    def load(self, state: dict[str, Any]) -> None:
        """Goes on from an earlier state, whose files are undamaged."""
        for name in COUNTS:
            setattr(self, name, state[name])
        self.shards, self.sources = list(state["shards"]), list(state["sources"])
        for digests in self.digests():
            self.digest.update(b"".join(digests))
        if "waiting" in state:
            self.items = read_items(self.folder / state["waiting"]["file"])
            self.waiting = sum(item.tokens.nbytes for item in self.items)

    def digests(self) -> Iterator[list[bytes]]:
        """The digests of the documents of each shard."""
        for entry in self.shards:
            yield read_batch(self.folder / entry["file"]).column("sha256").to_pylist()


COUNTS = ("documents", "tokens", "size", "predictions", "overlap", "left_out", "duplicates")


def write_items(path: Path, items: list[Item]) -> dict[str, Any]:
    """Writes documents as one shard; gives what a manifest holds of it."""
    batch = record_batch(items)
    with replacing(path) as beside, pa.ipc.new_file(str(beside), batch.schema) as file:
        file.write_batch(batch)
    return {
        "file": path.name,
        "bytes": path.stat().st_size,
        "sha256": sha256_of(path),
        "documents": len(items),
        "tokens": sum(len(item.tokens) for item in items),
    }


def read_items(path: Path) -> list[Item]:
    """The documents of a shard, in memory."""
    batch = read_batch(path)
    tokens, masks = batch.column("tokens"), batch.column("learned") if "learned" in batch.schema.names else None
    names, digests, sizes = (batch.column(name).to_pylist() for name in ("name", "sha256", "bytes"))
    items = []
    for i, (name, digest, size) in enumerate(zip(names, digests, sizes, strict=True)):
        learned = None if masks is None else masks[i].values.to_numpy(zero_copy_only=False)
        second = int(batch.column("second")[i].as_py()) if "second" in batch.schema.names else 0
        prompt = batch.column("prompt")[i].as_py() if "prompt" in batch.schema.names else b""
        items.append(Item(name, digest, np.from_dlpack(tokens[i].values).copy(), learned, size, second, prompt))
    return items


def read_batch(path: Path) -> pa.RecordBatch:
    """The record batch of a shard, mapped."""
    return pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)


def record_batch(items: list[Item]) -> pa.RecordBatch:
    """The record batch of one shard. It has the column ``learned`` only where some document has a mask.

    Its columns are made of buffers, because Arrow's converters load pandas where it is installed, which takes half a second.
    """
    ends = _numbers(np.cumsum([0, *(len(item.tokens) for item in items)], dtype=np.int64))
    names = [item.name.encode() for item in items]
    name_ends = np.cumsum([0, *map(len, names)], dtype=np.int32)
    columns = {
        "name": _column(pa.string(), len(items), name_ends, b"".join(names)),
        "tokens": pa.LargeListArray.from_arrays(ends, _numbers(np.concatenate([item.tokens for item in items]))),
        "bytes": _numbers(np.array([item.size for item in items], np.int64)),
        "sha256": _column(pa.binary(32), len(items), b"".join(item.digest for item in items)),
    }
    if any(item.learned is not None for item in items):
        everything = [np.ones(len(item.tokens), dtype=bool) if item.learned is None else item.learned for item in items]
        columns["learned"] = pa.LargeListArray.from_arrays(ends, pa.array(np.concatenate(everything)))
    if any(item.second for item in items):
        columns["second"] = _numbers(np.array([item.second for item in items], np.int64))
    if all(item.prompt for item in items):
        columns["prompt"] = _column(pa.binary(32), len(items), b"".join(item.prompt for item in items))
    return pa.RecordBatch.from_pydict(columns)


def _numbers(values: np.ndarray) -> pa.Array:
    return _column(pa.from_numpy_dtype(values.dtype), len(values), values)


def _column(kind: pa.DataType, length: int, *buffers: np.ndarray | bytes) -> pa.Array:
    """A column without missing values."""
    return pa.Array.from_buffers(kind, length, [None, *map(pa.py_buffer, buffers)])


def token_dtype(tokenizer: PreTrainedTokenizerBase) -> np.dtype:
    """The smaller of uint16 and uint32 that holds every token id."""
    return np.dtype(np.uint16 if ids_of(tokenizer) <= 2**16 else np.uint32)
