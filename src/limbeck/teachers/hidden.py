"""Captured hidden states: a teacher's last hidden states, computed once and used by every student.

Logits are computed from them again by the teacher's head (`objectives/fused.py`, chunk by chunk), at a small part of the
teacher's cost. Only the rounding to float16 is lost, and a token takes 2 D bytes on disk whatever the vocabulary. Rows are found
by their number, so the corpus must be packed as it was at the capture; the manifest records how that was.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np
import torch
from jaxtyping import Float16
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from limbeck.disk import Bare, Count, check_sums, new_file, read_json, replacing, sums, write_json, writing
from limbeck.errors import BadModel, Mismatch
from limbeck.host import on_host
from limbeck.teachers.rows import NumberedRows
from limbeck.types import Batch, CausalLM, Head, Outputs

MANIFEST = "manifest.json"
_STATES, _HEAD, _DONE = "states.npy", "head.safetensors", "done.json"
_SAVE_EVERY = 64  # batches
_LARGEST = float(np.finfo(np.float16).max)


class _Head(TypedDict):
    scale: float
    softcap: float | None


class _Manifest(TypedDict):
    """The manifest: the teacher's name and vocabulary, the scale and soft cap of its head, what the states were made from."""

    name: str
    vocab: Count
    head: _Head
    made_from: dict[str, Any]
    files: NotRequired[dict[Bare, str]]


class _Done(TypedDict):
    """Progress of a capture: how many rows are done, and the CRC-32 of their states."""

    rows: Count
    crc32: NotRequired[Count]


class HiddenStates:
    """A teacher whose hidden states were captured into a folder: memory-mapped, (rows, T, D) in float16, with its head."""

    def __init__(
        self, folder: Path, *, expect: Mapping[str, Any] | None = None, dtype: torch.dtype = torch.float32
    ) -> None:
        """Opens the folder; ``expect`` are entries that its ``made_from`` must have, ``dtype`` the format of states and head.

        Raises BadModel if the folder is incomplete or damaged, Mismatch if it was made from something else than expected.
        """
        if not (folder / MANIFEST).is_file():
            raise BadModel(f"{folder}: expected a teacher's hidden states, found no {MANIFEST}: capture them first")
        remedy = f"remove {folder}; the next run computes them again"
        manifest = read_json(folder / MANIFEST, _Manifest, error=BadModel, remedy=remedy)
        for key, value in (expect or {}).items():
            if manifest["made_from"].get(key) != value:
                raise Mismatch(
                    f"{folder} holds hidden states made from another {key}: {manifest['made_from'].get(key)!r} there, "
                    f"{value!r} now. Remove the folder; the next run computes them again."
                )
        self.name: str = manifest["name"]
        self.vocab: int = manifest["vocab"]
        check_sums(folder, manifest.get("files", {}), error=BadModel, remedy=remedy)
        try:
            head = load_file(folder / _HEAD)
            weight, bias = (None if (part := head.get(key)) is None else part.to(dtype) for key in ("weight", "bias"))
            if weight is None:
                raise KeyError("weight")
            self.head = Head(weight, bias, manifest["head"]["scale"], manifest["head"]["softcap"])
            self._dtype = dtype
            self._states: Float16[np.ndarray, "rows T D"] = np.load(folder / _STATES, mmap_mode="r", allow_pickle=False)
        except (OSError, SafetensorError, ValueError, EOFError, KeyError) as error:
            raise BadModel(
                f"{folder}: a file of these hidden states is missing or damaged ({error}): {remedy}"
            ) from error

    def __call__(self, batch: Batch) -> Outputs:
        """The captured hidden states of the batch's rows, with the teacher's head, both on the batch's device."""
        device, head = batch.tokens.device, self.head
        if head.weight.device != device:
            self.head = head = replace(
                head, weight=head.weight.to(device), bias=None if head.bias is None else head.bias.to(device)
            )
        states = torch.from_numpy(self._states[on_host(batch.row).numpy()]).to(device, self._dtype)
        return Outputs(states, head, self.vocab)


@torch.no_grad()
def capture(teacher: CausalLM, rows: NumberedRows, folder: Path, *, made_from: Mapping[str, Any]) -> HiddenStates:
    """Captures a teacher's hidden states of some rows, the first of which has number 0, into ``folder``.

    A stopped capture continues where it stopped. Opens the folder if the capture is complete.

    Raises BadModel if a hidden state is NaN or too large for float16, or if captured states are damaged; Mismatch if the folder
    was made from something else than ``made_from``.
    """
    if (folder / MANIFEST).is_file():
        return HiddenStates(folder, expect=made_from)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        done, states = _begun(folder)
        seen = 0 if states is None else zlib.crc32(states[:done].data)
        start = done
        for number, batch in enumerate(rows.batches(done, rows.end), start=done // rows.batch_rows + 1):
            outputs = teacher(batch)
            hidden = outputs.hidden.float().cpu()
            if not float(hidden.abs().max()) < _LARGEST:
                raise BadModel(
                    f"{teacher.name}: a hidden state of row {start} or after is too large for float16, or NaN"
                )
            if states is None:
                shape = (rows.rows, *hidden.shape[1:])
                states = np.lib.format.open_memmap(new_file(folder / _STATES), mode="w+", dtype=np.float16, shape=shape)
            end = start + len(hidden)
            states[start:end] = hidden.numpy()
            seen = zlib.crc32(states[start:end].data, seen)
            if number % _SAVE_EVERY == 0 and end < rows.end:  # after the last row the manifest is written
                states.flush()
                write_json(folder / _DONE, {"rows": end, "crc32": seen})
            start = end
            head = outputs.head
        if states is not None:
            states.flush()
        if rows.end > done:
            tensors = {"weight": head.weight, "bias": head.bias}
            with replacing(folder / _HEAD) as beside:
                save_file(
                    {k: t.detach().float().contiguous().cpu() for k, t in tensors.items() if t is not None}, beside
                )
            head_facts = {"scale": head.scale, "softcap": head.softcap}
            facts = {"name": teacher.name, "vocab": teacher.vocab, "head": head_facts, "made_from": dict(made_from)}
            write_json(folder / MANIFEST, facts | {"files": sums(folder, [_STATES, _HEAD])})
    return HiddenStates(folder, expect=made_from)


def _begun(folder: Path) -> tuple[int, np.memmap | None]:
    """(rows that are done, the states so far). Raises BadModel if the states differ from their checksum."""
    if not (folder / _DONE).is_file():
        return 0, None
    remedy = f"remove {folder}; the next run computes them again"
    there = read_json(folder / _DONE, _Done, error=BadModel, remedy=remedy)
    try:
        states: np.memmap = np.load(folder / _STATES, mmap_mode="r+", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise BadModel(f"{folder / _STATES}: the hidden states are missing or damaged ({error}): {remedy}") from error
    done = int(there["rows"])
    if there.get("crc32", 0) not in (0, zlib.crc32(states[:done].data)):
        raise BadModel(f"{folder / _STATES}: the hidden states do not match their checksum: {remedy}")
    return done, states
