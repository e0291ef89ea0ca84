"""A teacher of other tokens, as its student hears it: how likely it finds each chunk of the student's own rows.

For each token of the student's stream the file says whether a chunk ends there, and if so log p of that chunk, so a row is a
slice of it; and which of the teacher's positions has read the same text as the student before it, which is where the two
distributions of what follows can be compared. A chunk that a row cuts, one that the teacher did not wholly tell, and one with
a position of weight 0 have no target. What the chunks are is `corpora/chunks.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64

from limbeck.disk import Bare, Count, check_sums, fresh_file, read_json, sums, write_json, writing
from limbeck.errors import BadModel
from limbeck.types import Aligned, Batch

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
    """What a teacher told about the chunks of a store's rows of ``length`` tokens."""

    def __init__(
        self, folder: Path, *, name: str, length: int, largest: Float[np.ndarray, "positions k"] | None = None
    ) -> None:
        """``largest``: its probabilities at all positions of its own rows. Raises BadModel where the folder is not whole."""
        self.folder, self.name, self.length, self._largest = folder, name, length, largest
        self.facts: Mapping[str, Any] = _facts(folder)
        self._ends = np.load(folder / _ENDS, mmap_mode="r", allow_pickle=False)
        self._log_p = np.load(folder / _LOG_P, mmap_mode="r", allow_pickle=False)
        self._meets = np.load(folder / _MEETS, mmap_mode="r", allow_pickle=False)

    def __call__(self, batch: Batch) -> Aligned:
        """Which chunk each position's target belongs to, and log p of each chunk."""
        numbers, values = [], []
        weights = batch.weight.cpu().numpy()
        first = 0
        for row, weight in zip(batch.row.tolist(), weights, strict=True):
            chunk, log_p = self._row(row, weight)
            numbers.append(np.where(chunk < 0, -1, chunk + first))
            values.append(log_p)
            first += len(log_p)
        device = batch.tokens.device
        said = Aligned(*(torch.from_numpy(np.concatenate(some)).to(device) for some in (numbers, values)))
        if self._largest is None:
            return said
        largest = np.concatenate([self._largest_of(row, self._largest) for row in batch.row.tolist()])
        return replace(said, largest=torch.from_numpy(largest).to(device))

    def _largest_of(self, row: int, largest: Float[np.ndarray, "positions k"]) -> Float32[np.ndarray, "T k"]:
        """The teacher's largest probabilities at each position of a row, 0 where it was asked nothing of the same text."""
        start = row * self.length
        meets = self._meets[start + 1 : start + self.length + 1]
        found = np.zeros((self.length, largest.shape[-1]), np.float32)
        there = np.flatnonzero(meets >= 0)
        found[there] = largest[meets[there]]
        return found

    def _row(self, row: int, weight: Float[np.ndarray, " T"]) -> tuple[np.ndarray, np.ndarray]:
        """(chunk of each position, log p of each chunk) of a row: its inputs begin at row x length of the stream."""
        start = row * self.length
        stop = min(start + self.length + 1, len(self._ends))
        ends, log_p = np.zeros(self.length, bool), np.full(self.length, np.nan, np.float32)
        ends[: stop - start - 1], log_p[: stop - start - 1] = (
            self._ends[start + 1 : stop],
            self._log_p[start + 1 : stop],
        )
        number = np.cumsum(ends) - ends  # how many ended before
        count = int(ends.sum())
        told = np.isfinite(log_p[ends])
        if count and not self._ends[start]:  # the first began in another row, or with a token that is not predicted
            told[0] = False
        least = np.full(count + 1, np.inf)
        np.minimum.at(least, number, weight)
        told &= least[:count] > 0
        renumbered = np.append(np.where(told, np.cumsum(told) - 1, -1), -1)  # the last: of what goes on in another row
        return renumbered[number], log_p[ends][told]


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
