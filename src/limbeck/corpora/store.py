"""Tokenised documents on disk: memory-mapped Arrow shards and a manifest.

All documents form one stream of tokens across shards; a slice within one shard is not copied. A shard is one Arrow file with one
record batch, which any Arrow reader can open. Its columns are ``name``, ``tokens``, ``bytes`` (UTF-8 bytes of the learned text),
``sha256`` (of the document's content), ``learned`` where some tokens are not learned, and ``second`` where documents are
preference pairs: the place of the rejected side's first token in its document; these have ``prompt`` too, the SHA-256 of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Int64, Integer

from limbeck.corpora.layout import BEST_FIT, Layout, lay_out
from limbeck.corpora.layout_pairs import lay_out_pairs
from limbeck.disk import Bare, Count, read_json, sha256_of
from limbeck.errors import BadCorpus

FORMAT = 1
MANIFEST = "manifest.json"


class Shard(TypedDict):
    """One shard in a manifest."""

    file: Bare
    bytes: Count
    sha256: str
    documents: Count
    tokens: Count


class SourceOf(TypedDict):
    """One source of a mixture in a manifest."""

    source: str
    documents: Count
    tokens: Count


class _Manifest(TypedDict):
    """The entries of a store's manifest that are read."""

    format: Literal[1]
    documents: Count
    tokens: Count
    bytes: Count
    predictions: Count
    corpus_sha256: str
    made_from: dict[str, Any]
    shards: list[Shard]
    sources: NotRequired[list[SourceOf]]


class TokenStore:
    """A dataset as tokens, in a fixed order. ``documents``, ``tokens`` and ``bytes`` are its sizes.

    ``predictions`` is the number of tokens learned in an epoch: all except the first of each document, which nothing precedes,
    and those that are not learned. ``starts`` is the first position of each document in the stream of tokens, and the end of
    the stream. ``packing`` names the method that assigns documents to rows (`corpora.layout`).
    """

    def __init__(
        self, folder: Path, manifest: dict[str, Any], shards: list[pa.RecordBatch], *, packing: str = BEST_FIT
    ) -> None:
        self.folder = folder
        self.packing = packing
        self.manifest = manifest
        self.documents: int = manifest["documents"]
        self.tokens: int = manifest["tokens"]
        self.bytes: int = manifest["bytes"]
        self.predictions: int = manifest["predictions"]
        self._shards = shards
        self._values = [np.from_dlpack(shard.column("tokens").flatten()) for shard in shards]
        self._first_token = np.cumsum([0, *map(len, self._values)])
        self._first_document = np.cumsum([0, *(shard.num_rows for shard in shards)])
        offsets = [np.from_dlpack(shard.column("tokens").offsets)[:-1] for shard in shards]
        starts = [part + first for part, first in zip(offsets, self._first_token, strict=False)]
        self.starts: Int64[np.ndarray, " documents_and_one"] = np.concatenate([*starts, [self.tokens]]).astype(np.int64)
        self._layouts: dict[int, Layout] = {}
        self._new: Integer[np.ndarray, " ids"] | None = None  # the id that a token has instead of its own

    def packed(self, packing: str) -> TokenStore:
        """The same store with another packing."""
        return self._with(TokenStore(self.folder, self.manifest, self._shards, packing=packing))

    def _with(self, other: TokenStore) -> TokenStore:
        other._new = self._new
        return other

    def renumbered(self, kept: Int64[np.ndarray, " kept"]) -> TokenStore:
        """The same store with the place of each token among the ``kept`` ids instead of its id. All of its tokens are kept."""
        other = TokenStore(self.folder, self.manifest, self._shards, packing=self.packing)
        other._new = np.zeros(int(kept[-1]) + 1, dtype=np.uint32)
        other._new[kept] = np.arange(len(kept), dtype=np.uint32)
        return other

    def layout(self, length: int) -> Layout:
        """The layout of its tokens in rows of ``length``, computed once for each length. Raises what `lay_out` raises."""
        if length not in self._layouts and self.seconds is not None:
            self._layouts[length] = lay_out_pairs(self.starts, self.seconds, self.learned, length=length)
        elif length not in self._layouts:
            self._layouts[length] = lay_out(
                self.starts,
                None if self.learns_all else self.learned,
                length=length,
                packing=self.packing,
                apart=self._begins,
            )
        return self._layouts[length]

    def rows_by_source(self, length: int) -> Int64[np.ndarray, " sources_and_one"]:
        """The first row of each source in rows of ``length``, and the number of all rows."""
        layout = self.layout(length)
        token = layout.begin[layout.first[:-1]]  # the first of each row
        document = np.searchsorted(self.starts, token, side="right") - 1
        source = np.searchsorted(self._begins, document, side="right") - 1
        return np.searchsorted(source, np.arange(len(self._begins) + 1))

    @property
    def _begins(self) -> Int64[np.ndarray, " sources"]:
        """The first document of each source."""
        counts = [one["documents"] for one in self.manifest.get("sources", ())]
        return np.cumsum([0, *counts[:-1]])

    def source_of(self, documents: Integer[np.ndarray, "*shape"]) -> Integer[np.ndarray, "*shape"]:
        """The number of the source that each of these documents is from; 0 in a store of sources that are not kept apart."""
        found: np.ndarray = np.searchsorted(self._begins, documents, side="right") - 1
        return np.maximum(found, 0)

    def documents_in(self, rows: int, *, length: int) -> Bool[np.ndarray, " documents"]:
        """Which documents have tokens in the first ``rows`` rows of ``length``."""
        layout = self.layout(length)
        begin = layout.begin[: layout.first[min(rows, layout.rows)]]
        found = np.zeros(self.documents, dtype=bool)
        found[np.searchsorted(self.starts, begin, side="right") - 1] = True
        return found

    @classmethod
    def open(cls, folder: str | Path) -> TokenStore:
        """The store in a folder. Raises BadCorpus where files are missing or have the wrong size; `verify` finds other damage."""
        folder = Path(folder)
        manifest = read_manifest(folder)
        shards = []
        for entry in manifest["shards"]:
            path = folder / entry["file"]
            size = path.stat().st_size if path.exists() else None
            if size != entry["bytes"]:
                raise _damaged(path, f"{entry['bytes']} bytes", "no file" if size is None else f"{size} bytes")
            try:
                shards.append(pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0))
                shards[-1].validate()
                if (rows := shards[-1].num_rows) != entry["documents"]:
                    raise _damaged(path, f"{entry['documents']:,} documents", f"{rows:,}")
            except (pa.ArrowException, OSError, IndexError) as error:
                raise _damaged(path, "an Arrow file", str(error)) from None
        try:
            return cls(folder, manifest, shards)
        except (KeyError, AttributeError, ValueError) as error:
            raise _damaged(folder / MANIFEST, "shards of tokens of documents", repr(error)) from None

    def beginning(self, tokens: int) -> TokenStore:
        """A store of the documents that begin within the first ``tokens`` tokens; the same store where these are all."""
        return self._only([self._within(0, self.documents, tokens)])

    def beginnings(self, tokens: Sequence[int]) -> TokenStore:
        """The same of each source of a mixture, within its first ``tokens``."""
        edges = [*self._begins.tolist(), self.documents]
        kept = [self._within(*both) for both in zip(edges[:-1], edges[1:], tokens, strict=True)]
        store = self._only(kept)
        if store is not self:
            read = [int(self.starts[part.stop] - self.starts[part.start]) for part in kept]
            store.manifest["sources"] = [
                one | {"documents": len(part), "tokens": some}
                for one, part, some in zip(self.manifest["sources"], kept, read, strict=True)
            ]
        return store

    def _within(self, first: int, end: int, tokens: int) -> range:
        """The documents from ``first`` to ``end`` that begin within the first ``tokens`` tokens of ``first`` and later ones."""
        return range(first, min(end, int(np.searchsorted(self.starts[:-1], self.starts[first] + tokens))))

    def _only(self, kept: Sequence[range]) -> TokenStore:
        """A store of some documents, each range of which begins with a shard, as each source of a mixture does."""
        if sum(map(len, kept)) == self.documents:
            return self
        shards = [
            shard.slice(0, min(shard.num_rows, part.stop - first))
            for part in kept
            for shard, first in zip(self._shards, self._first_document.tolist(), strict=False)
            if part.start <= first < part.stop
        ]
        spans = [(int(self.starts[part.start]), int(self.starts[part.stop])) for part in kept]
        learned = sum(int(self.learned(*span).sum()) for span in spans)
        starts = np.concatenate([self.starts[part.start : part.stop] for part in kept])
        corpus = " ".join(map(str, (self.manifest["corpus_sha256"], *map(len, kept))))
        counts = {
            "documents": len(starts),
            "tokens": sum(stop - start for start, stop in spans),
            "bytes": sum(self.bytes_of(document) for part in kept for document in part),
            "predictions": learned - int(self.learned_at(starts).sum()),
            "corpus_sha256": hashlib.sha256(corpus.encode()).hexdigest(),
        }
        return self._with(TokenStore(self.folder, self.manifest | counts, shards, packing=self.packing))

    def verify(self, *, remedy: str = "") -> None:
        """Compares every shard with its checksum in the manifest. Raises BadCorpus, with the file's name, where one differs."""
        for entry in self.manifest["shards"]:
            path = self.folder / entry["file"]
            checksum = sha256_of(path)
            if checksum != entry["sha256"]:
                raise _damaged(path, f"SHA-256 {entry['sha256'][:12]}…", f"{checksum[:12]}…", remedy)

    def slice(self, start: int, stop: int) -> Integer[np.ndarray, " n"]:
        """The tokens from ``start`` to ``stop`` of the stream (uint16 or uint32), read-only, and not copied within a shard."""
        parts = [self._values[shard][low:high] for shard, low, high in self._pieces(start, stop)]
        found = parts[0] if len(parts) == 1 else np.concatenate([self._values[0][:0], *parts])
        return found if self._new is None else self._new[found]

    def learned(self, start: int, stop: int) -> Bool[np.ndarray, " n"]:
        """Which tokens from ``start`` to ``stop`` are learned: all of a text, the assistant's of a conversation."""
        parts = [self._learned(shard, low, high) for shard, low, high in self._pieces(start, stop)]
        return np.concatenate([np.zeros(0, dtype=bool), *parts])

    def tokens_at(self, places: Int64[np.ndarray, "*shape"]) -> Int64[np.ndarray, "*shape"]:
        """The tokens at these places of the stream."""
        found = self._gathered(places, np.int64, lambda shard, inside: self._values[shard][inside])
        return found if self._new is None else self._new[found].astype(np.int64)

    def learned_at(self, places: Int64[np.ndarray, "*shape"]) -> Bool[np.ndarray, "*shape"]:
        """Which of the tokens at these places of the stream are learned."""
        return self._gathered(places, np.bool_, self._learned_in)

    @cached_property
    def seconds(self) -> Int64[np.ndarray, " documents"] | None:
        """The place in the stream of each pair's first rejected token; None where documents are no preference pairs."""
        if any("second" not in shard.schema.names for shard in self._shards):
            return None
        return np.concatenate([np.from_dlpack(shard.column("second")) for shard in self._shards]) + self.starts[:-1]

    @cached_property
    def prompts(self) -> Int64[np.ndarray, " documents"]:
        """The number of each pair's prompt, which several pairs may share; in a store without prompts each has its own."""
        if any("prompt" not in shard.schema.names for shard in self._shards):
            return np.arange(self.documents)
        digests = [digest for shard in self._shards for digest in shard.column("prompt").to_pylist()]
        numbers = {digest: number for number, digest in enumerate(dict.fromkeys(digests))}
        return np.array([numbers[digest] for digest in digests], np.int64)

    @property
    def learns_all(self) -> bool:
        """Whether every token is learned, as of plain texts."""
        return all("learned" not in shard.schema.names for shard in self._shards)

    def name_of(self, document: int) -> str:
        """The place of a document in its source, as `Document.name`."""
        return self._cell(document, "name")

    def bytes_of(self, document: int) -> int:
        """UTF-8 bytes of a document's learned text."""
        return self._cell(document, "bytes")

    def sha256_of(self, document: int) -> bytes | None:
        """SHA-256 of a document's content; None in a store of an earlier version without it."""
        return self._cell(document, "sha256") if "sha256" in self._shards[0].schema.names else None

    def digests(self) -> frozenset[bytes]:
        """SHA-256 of all documents' contents; empty for a store of an earlier version without them."""
        return frozenset(self._digests())

    def digests_of(self, documents: Int64[np.ndarray, " n"]) -> frozenset[bytes]:
        """SHA-256 of the contents of some documents; empty for a store of an earlier version without them."""
        found = self._digests()
        return frozenset(found[number] for number in documents.tolist()) if found else frozenset()

    def _digests(self) -> list[bytes]:
        kept = [shard.column("sha256") for shard in self._shards if "sha256" in shard.schema.names]
        return [digest for column in kept for digest in column.to_pylist()]

    def _pieces(self, start: int, stop: int) -> list[tuple[int, int, int]]:
        """(shard, start, stop in it) for each shard with a part of the stream."""
        first = self._first_token
        low = int(np.searchsorted(first, start, side="right")) - 1
        high = int(np.searchsorted(first, stop, side="left"))
        return [
            (shard, max(0, start - int(first[shard])), min(stop, int(first[shard + 1])) - int(first[shard]))
            for shard in range(low, high)
        ]

    def _learned(self, shard: int, low: int, high: int) -> Bool[np.ndarray, " n"]:
        batch = self._shards[shard]
        if "learned" not in batch.schema.names:
            return np.ones(high - low, dtype=bool)
        values = batch.column("learned").values.slice(low, high - low)
        return values.to_numpy(zero_copy_only=False)

    def _learned_in(self, shard: int, inside: Int64[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        batch = self._shards[shard]
        if "learned" not in batch.schema.names:
            return np.ones(len(inside), dtype=bool)
        values = batch.column("learned").values
        bits, inside = np.frombuffer(values.buffers()[1], np.uint8), inside + values.offset
        return (bits[inside >> 3] >> (inside & 7)) & 1 > 0

    def _gathered(self, places: np.ndarray, dtype: Any, taken: Callable[[int, np.ndarray], np.ndarray]) -> Any:
        """The results of ``taken`` on each shard and the places in it, in the order of ``places``."""
        flat = places.reshape(-1)
        shard = np.searchsorted(self._first_token, flat, side="right") - 1
        found = np.empty(len(flat), dtype)
        for number in np.unique(shard).tolist():
            here = slice(None) if number == shard[0] == shard[-1] and (shard == number).all() else shard == number
            found[here] = taken(number, flat[here] - self._first_token[number])
        return found.reshape(places.shape)

    def _cell(self, document: int, column: str) -> Any:
        shard = int(np.searchsorted(self._first_document, document, side="right")) - 1
        return self._shards[shard].column(column)[document - int(self._first_document[shard])].as_py()


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a store. Raises BadCorpus where it is missing or damaged."""
    path = folder / MANIFEST
    manifest: dict[str, Any] = read_json(
        path, _Manifest, error=BadCorpus, remedy=f"the token store is damaged, remove {folder} to rebuild it"
    )
    return manifest


def _damaged(path: Path, expected: str, came: str, remedy: str = "") -> BadCorpus:
    remedy = remedy or f"remove {path.parent} to rebuild it"
    return BadCorpus(f"{path}: expected {expected}, got {came}: the token store is damaged, {remedy}")
