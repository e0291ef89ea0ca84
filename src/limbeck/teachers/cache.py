"""What a teacher said, kept: Arrow files of rows of outcomes, each row with a checksum, and a manifest that binds them.

A row of the corpus is a row here, found by its number, so any order of reading costs the same. The manifest says what the
answers were made from (weights, tokenizer, text, packing, kind, seed); who comes with anything else is told which differs. A
file that is being written has another name and whole rows only: whoever was stopped continues after the last of them.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Int64

from limbeck.disk import read_json, write_json, writing
from limbeck.errors import BadModel, Mismatch
from limbeck.teachers.codec import Coarse, Codec, Drawn
from limbeck.teachers.draw import draw, likeliest
from limbeck.types import Batch, Sparse, Speaker

MANIFEST = "cache.json"
_SHARD_BYTES = 2**28
_AT_ONCE = 2**22  # numbers of a block of logits
_CODECS: dict[str, type[Codec]] = {"drawn": Drawn, "coarse": Coarse}


class Cache:
    """A teacher whose answers lie in a folder. ``made_from`` is what they were made from, ``codec`` how they are packed."""

    def __init__(self, folder: Path, *, expect: Mapping[str, Any] | None = None) -> None:
        """Raises BadModel where the folder is not whole, Mismatch where it was made from something else than expected."""
        if not (folder / MANIFEST).is_file():
            raise BadModel(
                f"{folder}: expected a teacher's answers, found no {MANIFEST}: capture them with limbeck capture, or let the "
                "capture that was stopped go on by its own command"
            )
        manifest = read_json(folder / MANIFEST)
        for key, value in (expect or {}).items():
            if manifest["made_from"].get(key) != value:
                raise Mismatch(
                    f"{folder} holds answers made from another {key}: {manifest['made_from'].get(key)!r} there, {value!r} now. "
                    "Capture anew into another folder, or come with what it was made from."
                )
        self.folder, self.name, self.vocab = folder, manifest["name"], int(manifest["vocab"])
        self.made_from: Mapping[str, Any] = manifest["made_from"]
        self.codec = _CODECS[manifest["kind"]](**manifest["codec"])
        self.rows, self.length = int(manifest["rows"]), int(manifest["length"])
        self._shards = [self._open(shard) for shard in manifest["shards"]]
        self._firsts = np.array([shard["first"] for shard in manifest["shards"]])

    def _open(self, shard: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """(packed answers, checksums) of a file, mapped."""
        path = self.folder / shard["file"]
        try:
            table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
            answers, sums = (table.column(name).chunk(0) for name in ("answers", "crc32"))
        except (OSError, pa.ArrowException, KeyError, IndexError) as error:
            raise BadModel(
                f"{path}: a file of this cache is missing or damaged ({error}): copy it again, or capture the rows "
                f"{shard['first']:,} to {shard['first'] + shard['rows'] - 1:,} anew"
            ) from error
        if len(answers) != shard["rows"]:
            raise BadModel(f"{path}: expected {shard['rows']:,} rows, found {len(answers):,}: copy it again")
        size = self.length * self.codec.bytes
        packed = np.frombuffer(answers.buffers()[1], np.uint8)[: len(answers) * size].reshape(len(answers), size)
        return packed, sums.to_numpy()

    def __call__(self, batch: Batch) -> Sparse:
        """What the teacher said about these rows. Raises BadModel for a row whose bytes are not as they were written."""
        packed = np.concatenate([self._row(int(row)) for row in batch.row.cpu().numpy()])
        told = self.codec.decode(packed.reshape(-1, self.codec.bytes))
        return told.to(batch.tokens.device)

    def _row(self, row: int) -> np.ndarray:
        if not 0 <= row < self.rows:
            raise Mismatch(f"{self.folder} has answers to rows 0 to {self.rows - 1:,}, asked for {row:,}: capture more rows")
        shard = int(np.searchsorted(self._firsts, row, side="right")) - 1
        answers, sums = self._shards[shard]
        at = row - int(self._firsts[shard])
        if zlib.crc32(answers[at]) != sums[at]:
            raise BadModel(f"{self.folder}: the answers to row {row:,} are damaged: copy the folder again, or capture it anew")
        return answers[at]
