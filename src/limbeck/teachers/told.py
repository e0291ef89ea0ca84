"""How likely a teacher finds each token of a text, in its own tokens: asked once, before a student of other tokens learns.

One float32 a token, in the order of the teacher's rows, whatever its vocabulary. The file is mapped; what was written before a
kill stays, and the checksum of the whole is looked at whenever it is opened.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from limbeck.disk import read_json, sha256_of, write_json, writing
from limbeck.errors import BadModel
from limbeck.teachers.cache import CELLS, check_made_from
from limbeck.types import Batch, Outputs, Sparse, Teacher, each

_VALUES, _DONE, _MANIFEST = "log_p.npy", "done.json", "told.json"
_SAVE_EVERY = 64  # questions
_OTHERWISE = {
    "holds": "what a teacher told of",
    "remedy": "Remove it, and the teacher is asked again",
}


@torch.no_grad()
def tell(
    teacher: Teacher,
    rows_of: Callable[[Int64[np.ndarray, " B"]], Batch],
    folder: Path,
    *,
    rows: int,
    length: int,
    together: int,
    made_from: Mapping[str, Any],
    report: Callable[[int], None] = lambda done: None,
) -> Float32[np.ndarray, "rows T"]:
    """log p of the target at each position of ``rows`` rows, NaN where it has no weight or the teacher did not tell it.

    Continues after the last saved question where it was stopped. ``made_from`` is what decides the numbers, ``report`` is told
    how many rows are done. Raises Mismatch where the folder was made from something else, BadModel where it is damaged.
    """
    bound = {**made_from, "rows": rows, "length": length}
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / _MANIFEST).is_file():
            return _whole(folder, bound)
        done, values = _begun(folder, bound)
        asked = (rows_of(np.arange(start, min(start + together, rows))) for start in range(done, rows, together))
        for number, (batch, said) in enumerate(each(teacher, asked), start=1):
            size = len(batch.tokens)
            values[done : done + size] = log_p_of_targets(batch, said).view(size, length).cpu().numpy()
            del said
            done += size
            if number % _SAVE_EVERY == 0:
                values.flush()
                write_json(folder / _DONE, {"made_from": bound, "rows": done})
            report(done)
        values.flush()
        write_json(folder / _MANIFEST, {"made_from": bound, "sha256": sha256_of(folder / _VALUES)})
    return _whole(folder, bound)


def log_p_of_targets(batch: Batch, said: Outputs | Sparse) -> Float[Tensor, "n"]:
    """log p of what follows each position, where it counts and the teacher told it, NaN elsewhere."""
    flat = batch.flat()
    found = torch.full((flat.targets.numel(),), torch.nan, device=flat.targets.device)
    counted = flat.weight.nonzero().squeeze(-1)
    if isinstance(said, Sparse):
        kept = said.part(counted)
        hit = (kept.ids == flat.targets[counted, None]) & (kept.weight > 0)
        log_p = kept.log_p.masked_fill(~hit, -torch.inf).amax(-1)
        found[counted] = log_p.masked_fill(~hit.any(-1), torch.nan).to(found.dtype)
        return found
    for part in counted.split(max(1, CELLS // said.vocab)):
        log_p = said.logits(part).float().log_softmax(-1)
        found[part] = log_p.gather(-1, flat.targets[part, None]).squeeze(-1)
    return found


def _begun(folder: Path, bound: Mapping[str, Any]) -> tuple[int, np.memmap]:
    """(rows that are done, the file to go on in)."""
    if (folder / _DONE).is_file() and (folder / _VALUES).is_file():
        there = read_json(folder / _DONE)
        check_made_from(folder, there["made_from"], bound, **_OTHERWISE)
        return int(there["rows"]), np.load(folder / _VALUES, mmap_mode="r+", allow_pickle=False)
    shape = (bound["rows"], bound["length"])
    return 0, np.lib.format.open_memmap(folder / _VALUES, mode="w+", dtype=np.float32, shape=shape)


def _whole(folder: Path, bound: Mapping[str, Any]) -> Float32[np.ndarray, "rows T"]:
    manifest = read_json(folder / _MANIFEST)
    check_made_from(folder, manifest["made_from"], bound, **_OTHERWISE)
    file = folder / _VALUES
    if not file.is_file() or sha256_of(file) != manifest["sha256"]:
        raise BadModel(f"{file}: what the teacher told is missing or damaged: remove {folder}, and it is asked again")
    return np.load(file, mmap_mode="r", allow_pickle=False)
