"""A teacher of other tokens, as its student hears it: how likely it finds each chunk of the student's own rows.

For each token of the student's stream the file says whether a chunk ends there, and if so log p of that chunk, so a row is some
slices of it; and which of the teacher's positions has read the same text as the student before it, which is where the two
distributions of what follows can be compared. A chunk that is cut between two pieces of a document, one that the teacher did not
wholly tell, and one with a position of weight 0 have no target. What the chunks are is `corpora/chunks.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64

from limbeck.disk import Bare, Count, check_sums, fresh_file, read_json, sums, write_json, writing
from limbeck.errors import BadModel
from limbeck.types import Batch, ChunkTargets

MANIFEST = "aligned.json"
_FILES = _ENDS, _LOG_P, _MEETS = "ends.npy", "chunk_log_p.npy", "meets.npy"


class _Facts(TypedDict, total=False):
    """What of the text has a target, as far as it is read; SHA-256 by file, of earlier versions in ``sha256``."""

    documents: Count
    unread: Count
    bytes: Count
    bytes_with_target: Count
    chunks: Count
    student_tokens: Count
    teacher_tokens: Count
    tokens_asked: Count
    coverage: float
    positions_met: Count
    mass_met: float
    files: dict[Bare, str]
    sha256: dict[Bare, str]


class AlignedTeacher:
    """What a teacher told about the chunks of a store's rows."""

    def __init__(
        self,
        folder: Path,
        *,
        name: str,
        read: Callable[[Int64[np.ndarray, " B"]], Int64[np.ndarray, "B T"]],
        largest: Float[np.ndarray, "positions k"] | None = None,
    ) -> None:
        """``read`` tells of some rows of the student which token of its stream is read at each place, -1 of padding.

        ``largest`` are the teacher's probabilities at all positions of its own rows.

        Raises BadModel where the folder is not whole.
        """
        self.folder, self.name, self._read, self._largest = folder, name, read, largest
        self.facts: Mapping[str, Any] = _facts(folder)
        self._ends = np.load(folder / _ENDS, mmap_mode="r", allow_pickle=False)
        self._log_p = np.load(folder / _LOG_P, mmap_mode="r", allow_pickle=False)
        self._meets = np.load(folder / _MEETS, mmap_mode="r", allow_pickle=False)

    def __call__(self, batch: Batch) -> ChunkTargets:
        """Which chunk each position's target belongs to, and log p of each chunk."""
        numbers, values = [], []
        weights = batch.weight.cpu().numpy()
        first = 0
        tokens = self._read(batch.row.cpu().numpy())
        for token, position, weight in zip(tokens, batch.position.cpu().numpy(), weights, strict=True):
            chunk, log_p = self._row(token, position, weight)
            numbers.append(np.where(chunk < 0, -1, chunk + first))
            values.append(log_p)
            first += len(log_p)
        device = batch.tokens.device
        said = ChunkTargets(*(torch.from_numpy(np.concatenate(some)).to(device) for some in (numbers, values)))
        if self._largest is None:
            return said
        largest = np.concatenate([self._largest_of(*row, self._largest) for row in zip(tokens, weights, strict=True)])
        return replace(said, largest=torch.from_numpy(largest).to(device))

    def _largest_of(
        self, token: Int64[np.ndarray, " T"], weight: Float[np.ndarray, " T"], largest: Float[np.ndarray, "positions k"]
    ) -> Float[np.ndarray, "T k"]:
        """The teacher's largest probabilities at each position of a row, 0 where it was asked nothing of the same text."""
        found = np.zeros((len(token), largest.shape[-1]), np.float32)
        follows = np.minimum(token + 1, len(self._meets) - 1)
        meets = np.where((token >= 0) & (weight > 0), self._meets[follows], -1)
        there = np.flatnonzero(meets >= 0)
        found[there] = largest[meets[there]]
        return found

    def _row(
        self, token: Int64[np.ndarray, " T"], position: Int64[np.ndarray, " T"], weight: Float[np.ndarray, " T"]
    ) -> tuple[np.ndarray, np.ndarray]:
        """(chunk of each position, log p of each chunk) of a row, from the token of the stream that is read at each."""
        read = token[token >= 0]
        follows = np.minimum(read + 1, len(self._ends) - 1)
        ends, log_p = self._ends[follows], self._log_p[follows]
        begins = np.append(True, (position[1 : len(read)] == 0) | (np.diff(read) != 1))[: len(read)]
        closed = (
            ends | np.append(begins[1:], True)[: len(read)]
        )  # a chunk that goes on in another piece ends here as well
        number = np.cumsum(closed) - closed  # how many ended before
        count = int(closed.sum())
        told = np.isfinite(log_p[closed]) & ends[closed]
        # the first began in another piece, or with a token that is not predicted
        told[number[begins & ~self._ends[read]]] = False
        least = np.full(count, np.inf)
        np.minimum.at(least, number, weight[: len(read)])
        told &= least > 0
        chunk = np.full(len(token), -1)
        chunk[: len(read)] = np.where(told, np.cumsum(told) - 1, -1)[number]
        return chunk, log_p[closed][told]


def write_aligned(
    folder: Path,
    documents: Iterable[tuple[int, Bool[np.ndarray, " n"], Float[np.ndarray, " n"], Int64[np.ndarray, " n"]]],
    *,
    tokens: int,
    facts: Callable[[], Mapping[str, Any]],
) -> None:
    """Writes where chunks of a stream of ``tokens`` end, their log p, and where the teacher was asked the same.

    By document: (its first token, whether a chunk ends at each, log p of that, the teacher's position that was asked what it is
    after the same text, or -1). What is not given has no target. ``facts`` is asked at the end, and kept beside.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        ends = np.lib.format.open_memmap(fresh_file(folder / _ENDS), mode="w+", dtype=bool, shape=(tokens,))
        log_p = np.lib.format.open_memmap(fresh_file(folder / _LOG_P), mode="w+", dtype=np.float32, shape=(tokens,))
        meets = np.lib.format.open_memmap(fresh_file(folder / _MEETS), mode="w+", dtype=np.int64, shape=(tokens,))
        ends[:], log_p[:], meets[:] = True, np.nan, -1
        for first, *found in documents:
            for stream, some in zip((ends, log_p, meets), found, strict=True):
                stream[first : first + len(some)] = some
        for stream in (ends, log_p, meets):
            stream.flush()
        write_json(folder / MANIFEST, {**facts(), "files": sums(folder, _FILES)})


def _facts(folder: Path) -> Mapping[str, Any]:
    """The manifest, once the files are found to be as it says."""
    remedy = f"remove {folder}, and it is made again"
    facts: dict[str, Any] = read_json(folder / MANIFEST, _Facts, error=BadModel, remedy=remedy)
    files = facts.pop("files", None) or facts.pop("sha256", {})  # as earlier versions had it
    if set(files) != set(_FILES):
        raise BadModel(f"{folder / MANIFEST}: expected checksums of {', '.join(_FILES)}, got {sorted(files)}: {remedy}")
    check_sums(folder, files, error=BadModel, remedy=remedy)
    return facts
