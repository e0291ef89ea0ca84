"""Targets from a teacher with another tokenizer: the teacher's log p of each chunk of text in the student's rows.

The files have one entry for each token of the student's stream: whether a chunk ends there; log p of that chunk; and the
teacher's position that has read the same text, where the two next-token distributions can be compared. A row of the student is a
few slices of these files. A chunk has no target if it is cut between two pieces of a document, if the teacher's log p of it is
incomplete, or if one of its positions has weight 0. `corpora/chunks.py` defines the chunks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64

from limbeck.disk import Bare, Count, check_sums, new_file, read_json, sums, write_json, writing
from limbeck.errors import BadModel
from limbeck.host import on_host, sent
from limbeck.types import Batch, ChunkTargets

MANIFEST = "aligned.json"
_FILES = _ENDS, _LOG_P, _MEETS = "ends.npy", "chunk_log_p.npy", "meets.npy"


class _Facts(TypedDict, total=False):
    """Which part of the text has a target, and its ``kind`` where that is no likelihood of a chunk; SHA-256 of each file.

    Earlier versions wrote the latter as ``sha256``.
    """

    documents: Count
    unread: Count
    bytes: Count
    bytes_with_target: Count
    chunks: Count
    predictions: Count
    student_tokens: Count
    teacher_tokens: Count
    tokens_asked: Count
    coverage: float
    positions_met: Count
    mass_met: float
    kind: str
    files: dict[Bare, str]
    sha256: dict[Bare, str]


class AlignedTeacher:
    """A `limbeck.types.ChunkTeacher` that reads its targets from a folder written by `write_aligned`."""

    def __init__(
        self,
        folder: Path,
        *,
        name: str,
        read: Callable[[Int64[np.ndarray, " B"]], Int64[np.ndarray, "B T"]],
        largest: Float[np.ndarray, "positions k"] | None = None,
    ) -> None:
        """``read`` maps row numbers (B,) to the index in the student's stream of the token at each place (B, T), -1 for padding.

        ``largest`` (positions, k) are the teacher's k largest probabilities at every position of its own rows, largest first.

        Raises BadModel if a file is missing or damaged.
        """
        self.folder, self.name, self._read, self._largest = folder, name, read, largest
        self.facts: Mapping[str, Any] = _facts(folder)
        self._ends = np.load(folder / _ENDS, mmap_mode="r", allow_pickle=False)
        self._log_p = np.load(folder / _LOG_P, mmap_mode="r", allow_pickle=False)
        self._meets = np.load(folder / _MEETS, mmap_mode="r", allow_pickle=False)

    def __call__(self, batch: Batch) -> ChunkTargets:
        """The chunk of each position's target, and the teacher's log p of each chunk, in nats.

        ``largest`` of the result is set if the teacher was opened with it.
        """
        numbers, values = [], []
        weights = on_host(batch.weight).numpy()
        first = 0
        tokens = self._read(on_host(batch.row).numpy())
        for token, position, weight in zip(tokens, on_host(batch.position).numpy(), weights, strict=True):
            chunk, log_p = self._row(token, position, weight)
            numbers.append(np.where(chunk < 0, -1, chunk + first))
            values.append(log_p)
            first += len(log_p)
        device = batch.tokens.device
        targets = ChunkTargets(*(sent(torch.from_numpy(np.concatenate(some)), device) for some in (numbers, values)))
        if self._largest is None:
            return targets
        positions = self.positions(batch)
        largest = np.zeros((len(positions), self._largest.shape[-1]), np.float32)
        there = np.flatnonzero(positions >= 0)
        largest[there] = self._largest[positions[there]]
        return replace(targets, largest=sent(torch.from_numpy(largest), device))

    def positions(self, batch: Batch) -> Int64[np.ndarray, " n"]:
        """The teacher's position that has read the same text as each of the B x T positions; -1 where none has."""
        token = self._read(on_host(batch.row).numpy()).reshape(-1)
        weight = on_host(batch.weight).numpy().reshape(-1)
        follows = np.minimum(token + 1, len(self._meets) - 1)
        return np.where((token >= 0) & (weight > 0), self._meets[follows], -1)

    def _row(
        self, token: Int64[np.ndarray, " T"], position: Int64[np.ndarray, " T"], weight: Float[np.ndarray, " T"]
    ) -> tuple[np.ndarray, np.ndarray]:
        """(chunk of each position, log p of each chunk) of a row, from the stream index of the token at each position."""
        read = token[token >= 0]
        follows = np.minimum(read + 1, len(self._ends) - 1)
        ends, log_p = self._ends[follows], self._log_p[follows]
        begins = np.append(True, (position[1 : len(read)] == 0) | (np.diff(read) != 1))[: len(read)]
        # a chunk that continues in another piece ends here as well
        closed = ends | np.append(begins[1:], True)[: len(read)]
        number = np.cumsum(closed) - closed  # how many ended before
        count = int(closed.sum())
        known = np.isfinite(log_p[closed]) & ends[closed]
        # the first began in another piece, or with a token that is not predicted
        known[number[begins & ~self._ends[read]]] = False
        least = np.full(count, np.inf)
        np.minimum.at(least, number, weight[: len(read)])
        known &= least > 0
        chunk = np.full(len(token), -1)
        chunk[: len(read)] = np.where(known, np.cumsum(known) - 1, -1)[number]
        return chunk, log_p[closed][known]


def write_aligned(
    folder: Path,
    documents: Iterable[tuple[int, Bool[np.ndarray, " n"], Float[np.ndarray, " n"], Int64[np.ndarray, " n"]]],
    *,
    tokens: int,
    facts: Callable[[], Mapping[str, Any]],
) -> None:
    """Writes the alignment of a stream of ``tokens`` tokens into ``folder``, for `AlignedTeacher`.

    ``documents`` yields (index of the document's first token; whether a chunk ends at each of its n tokens; log p of that chunk,
    in nats; the teacher's position that has read the same text, -1 for none). Tokens of documents that are not given have no
    target. ``facts`` is called after the last document; its result goes into the manifest.

    Raises BadFolder if the disk is full or the folder cannot be written.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        ends = np.lib.format.open_memmap(new_file(folder / _ENDS), mode="w+", dtype=bool, shape=(tokens,))
        log_p = np.lib.format.open_memmap(new_file(folder / _LOG_P), mode="w+", dtype=np.float32, shape=(tokens,))
        meets = np.lib.format.open_memmap(new_file(folder / _MEETS), mode="w+", dtype=np.int64, shape=(tokens,))
        ends[:], log_p[:], meets[:] = True, np.nan, -1
        for first, *found in documents:
            for stream, some in zip((ends, log_p, meets), found, strict=True):
                stream[first : first + len(some)] = some
        for stream in (ends, log_p, meets):
            stream.flush()
        write_json(folder / MANIFEST, {**facts(), "files": sums(folder, _FILES)})


def _facts(folder: Path) -> Mapping[str, Any]:
    """The manifest, after its files were compared with their checksums. Raises BadModel if one is missing or damaged."""
    remedy = f"remove {folder}; the next run makes it again"
    facts: dict[str, Any] = read_json(folder / MANIFEST, _Facts, error=BadModel, remedy=remedy)
    files = facts.pop("files", None) or facts.pop("sha256", {})  # as earlier versions had it
    if set(files) != set(_FILES):
        raise BadModel(f"{folder / MANIFEST}: expected checksums of {', '.join(_FILES)}, got {sorted(files)}: {remedy}")
    check_sums(folder, files, error=BadModel, remedy=remedy)
    return facts
