"""A teacher's last hidden states, computed once and read by every student that listens to it.

The head multiplies them out again where they are used (`objectives/fused.py` does so by the chunk), which costs a small
part of the teacher: so nothing of its distribution is lost but the rounding to float16, and a token costs 2 D bytes on
disk whatever the vocabulary. Rows are found by their number, so the corpus must be packed as it was when they were made;
the manifest says how that was.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np
import torch
from jaxtyping import Float16, Int64
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from limbeck.disk import Bare, Count, check_sums, fresh_file, read_json, replacing, sums, write_json, writing
from limbeck.errors import BadModel, Mismatch
from limbeck.types import Batch, CausalLM, Head, Outputs

MANIFEST = "manifest.json"
_STATES, _HEAD, _DONE = "states.npy", "head.safetensors", "done.json"
_LARGEST = float(np.finfo(np.float16).max)


class _Head(TypedDict):
    scale: float
    softcap: float | None


class _Manifest(TypedDict):
    """What hidden states are of."""

    name: str
    vocab: Count
    head: _Head
    made_from: dict[str, Any]
    files: NotRequired[dict[Bare, str]]


class _Done(TypedDict):
    """How many rows are done, and the CRC-32 of their states."""

    rows: Count
    crc32: NotRequired[Count]


class HiddenStates:
    """A teacher whose hidden states lie in a folder: memory-mapped, (rows, T, D) in float16, and its head beside them."""

    def __init__(self, folder: Path, *, expect: Mapping[str, Any] | None = None) -> None:
        """Raises BadModel where the folder is not whole, Mismatch where it was made from something else than expected."""
        if not (folder / MANIFEST).is_file():
            raise BadModel(f"{folder}: expected a teacher's hidden states, found no {MANIFEST}: capture them first")
        remedy = f"remove {folder}, and they are computed again"
        manifest = read_json(folder / MANIFEST, _Manifest, error=BadModel, remedy=remedy)
        for key, value in (expect or {}).items():
            if manifest["made_from"].get(key) != value:
                raise Mismatch(
                    f"{folder} holds hidden states made from another {key}: {manifest['made_from'].get(key)!r} there, "
                    f"{value!r} now. Remove it, and they are computed again."
                )
        self.name: str = manifest["name"]
        self.vocab: int = manifest["vocab"]
        check_sums(folder, manifest.get("files", {}), error=BadModel, remedy=remedy)
        try:
            head = load_file(folder / _HEAD)
            self.head = Head(head["weight"], head.get("bias"), manifest["head"]["scale"], manifest["head"]["softcap"])
            self._states: Float16[np.ndarray, "rows T D"] = np.load(folder / _STATES, mmap_mode="r", allow_pickle=False)
        except (OSError, SafetensorError, ValueError, EOFError, KeyError) as error:
            raise BadModel(
                f"{folder}: a file of these hidden states is missing or damaged ({error}): {remedy}"
            ) from error

    def __call__(self, batch: Batch) -> Outputs:
        """What the teacher said about these rows."""
        states = torch.from_numpy(self._states[batch.row.cpu().numpy()]).to(batch.tokens.device, torch.float32)
        return Outputs(states, self.head, self.vocab)


@torch.no_grad()
def capture(
    teacher: CausalLM,
    rows_of: Callable[[Int64[np.ndarray, " B"]], Batch],
    folder: Path,
    *,
    rows: int,
    batch_rows: int,
    made_from: Mapping[str, Any],
) -> HiddenStates:
    """Asks a teacher about rows 0 to ``rows`` - 1, ``batch_rows`` at a time, and keeps what it says in ``folder``.

    Continues where it was stopped. Raises BadModel where a state is beyond float16.
    """
    if (folder / MANIFEST).is_file():
        return HiddenStates(folder, expect=made_from)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        done, states = _begun(folder)
        seen = 0 if states is None else zlib.crc32(states[:done].tobytes())
        for start in range(done, rows, batch_rows):
            outputs = teacher(rows_of(np.arange(start, min(start + batch_rows, rows))))
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
            seen = zlib.crc32(states[start : start + len(hidden)].tobytes(), seen)
            if (start // batch_rows) % 64 == 63 and start + batch_rows < rows:  # at the end the manifest says so
                states.flush()
                write_json(folder / _DONE, {"rows": start + len(hidden), "crc32": seen})
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
            write_json(folder / MANIFEST, facts | {"files": sums(folder, [_STATES, _HEAD])})
    return HiddenStates(folder, expect=made_from)


def _begun(folder: Path) -> tuple[int, np.memmap | None]:
    """(rows that are done, the states to go on with). Raises BadModel where they are not as they were written."""
    if not (folder / _DONE).is_file():
        return 0, None
    remedy = f"remove {folder}, and they are computed again"
    there = read_json(folder / _DONE, _Done, error=BadModel, remedy=remedy)
    try:
        states: np.memmap = np.load(folder / _STATES, mmap_mode="r+", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise BadModel(f"{folder / _STATES}: it is missing or damaged ({error}): {remedy}") from error
    done = int(there["rows"])
    if there.get("crc32", 0) not in (0, zlib.crc32(states[:done].tobytes())):
        raise BadModel(f"{folder / _STATES}: it is not as it was written: {remedy}")
    return done, states
