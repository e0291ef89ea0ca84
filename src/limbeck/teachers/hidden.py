"""A teacher's last hidden states, computed once and read by every student that listens to it.

The head multiplies them out again where they are used (`objectives/fused.py` does so by the chunk), which costs a small
part of the teacher: so nothing of its distribution is lost but the rounding to float16, and a token costs 2 D bytes on
disk whatever the vocabulary. Rows are found by their number, so the corpus must be packed as it was when they were made;
the manifest says how that was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float16, Int64
from safetensors.torch import load_file, save_file

from limbeck.disk import fresh_file, read_json, replacing, write_json, writing
from limbeck.errors import BadModel, Mismatch
from limbeck.types import Batch, Head, Outputs, Speaker

MANIFEST = "manifest.json"
_STATES, _HEAD, _DONE = "states.npy", "head.safetensors", "done.json"
_LARGEST = float(np.finfo(np.float16).max)


class HiddenStates:
    """A teacher whose hidden states lie in a folder: memory-mapped, (rows, T, D) in float16, and its head beside them."""

    def __init__(self, folder: Path, *, expect: Mapping[str, Any] | None = None) -> None:
        """Raises BadModel where the folder is not whole, Mismatch where it was made from something else than expected."""
        if not (folder / MANIFEST).is_file():
            raise BadModel(f"{folder}: expected a teacher's hidden states, found no {MANIFEST}: capture them first")
        manifest = read_json(folder / MANIFEST)
        for key, value in (expect or {}).items():
            if manifest["made_from"].get(key) != value:
                raise Mismatch(
                    f"{folder} holds hidden states made from another {key}: {manifest['made_from'].get(key)!r} there, "
                    f"{value!r} now. Remove it, and they are computed again."
                )
        self.name: str = manifest["name"]
        self.vocab: int = manifest["vocab"]
        head = load_file(folder / _HEAD)
        self.head = Head(head["weight"], head.get("bias"), manifest["head"]["scale"], manifest["head"]["softcap"])
        self._states: Float16[np.ndarray, "rows T D"] = np.load(folder / _STATES, mmap_mode="r", allow_pickle=False)

    def __call__(self, batch: Batch) -> Outputs:
        """What the teacher said about these rows."""
        states = torch.from_numpy(self._states[batch.row.cpu().numpy()]).to(batch.tokens.device, torch.float32)
        return Outputs(states, self.head, self.vocab)


@torch.no_grad()
def capture(
    teacher: Speaker,
    rows_of: Callable[[Int64[np.ndarray, " B"]], Batch],
    folder: Path,
    *,
    rows: int,
    together: int,
    made_from: Mapping[str, Any],
) -> HiddenStates:
    """Asks a teacher about rows 0 to ``rows`` - 1, ``together`` at a time, and keeps what it says in ``folder``.

    Continues where it was stopped. Raises BadModel where a state is beyond float16.
    """
    if (folder / MANIFEST).is_file():
        return HiddenStates(folder, expect=made_from)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        done = read_json(folder / _DONE)["rows"] if (folder / _DONE).is_file() else 0
        states: np.memmap | None = np.load(folder / _STATES, mmap_mode="r+", allow_pickle=False) if done else None
        for start in range(done, rows, together):
            outputs = teacher(rows_of(np.arange(start, min(start + together, rows))))
            hidden = outputs.hidden.float().cpu()
            if not float(hidden.abs().max()) < _LARGEST:
                raise BadModel(
                    f"{teacher.name}: a hidden state of row {start} or after is too large for float16, or NaN"
                )
            if states is None:
                shape = (rows, *hidden.shape[1:])
                states = np.lib.format.open_memmap(
                    fresh_file(folder / _STATES), mode="w+", dtype=np.float16, shape=shape
                )
            states[start : start + len(hidden)] = hidden.numpy()
            if (start // together) % 64 == 63 and start + together < rows:  # at the end the manifest says so
                states.flush()
                write_json(folder / _DONE, {"rows": start + len(hidden)})
            head = outputs.head
        if states is not None:
            states.flush()
        if rows > done:
            tensors = {"weight": head.weight, "bias": head.bias}
            with replacing(folder / _HEAD) as beside:
                save_file(
                    {k: t.detach().float().contiguous().cpu() for k, t in tensors.items() if t is not None}, beside
                )
            said = {"scale": head.scale, "softcap": head.softcap}
            facts = {"name": teacher.name, "vocab": teacher.vocab, "head": said, "made_from": dict(made_from)}
            write_json(folder / MANIFEST, facts)
    return HiddenStates(folder, expect=made_from)
