"""Files that are whole or not there: JSON, JSON lines, and checkpoints.

Everything is written beside its place and renamed. A checkpoint holds all that moves (weights, optimiser, objective, data
position, random state), as safetensors and JSON: nothing is ever unpickled.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from limbeck.errors import BadFolder
from limbeck.objectives.base import Objective

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_STEP = re.compile(r"step-(\d{6,})")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns the system's word that nothing more can be written to ``path`` into an error with the remedy."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise _full(path) from error
        if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENOENT, errno.EEXIST}:
            raise BadFolder(
                f"cannot write {path}: {error.strerror}. Give a folder you may write to with --out."
            ) from error
        raise
    except SafetensorError as error:
        if any(f"os error {code}" in str(error) for code in _FULL):
            raise _full(path) from error
        raise


def _full(path: Path) -> BadFolder:
    return BadFolder(
        f"the disk is full: {path} could not be written. What was saved before is intact: free some space "
        "and run the same command again to continue."
    )


def write_text(path: Path, text: str) -> None:
    """Writes a file in one piece, or not at all."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with writing(path):
        try:
            with beside.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Writes JSON in one piece, or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """What `write_json` wrote."""
    return json.loads(path.read_text(encoding="utf-8"))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON-lines file, without a last line that a kill cut short; none where there is no file."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


@dataclass(frozen=True)
class Moving:
    """All that moves in a run, apart from the corpus, whose position travels in the state of a checkpoint."""

    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    objective: Objective

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor that moves, by a name that says whose it is. A tied weight appears once."""
        tensors: dict[str, Tensor] = {f"model.{name}": p.detach() for name, p in self.model.named_parameters()}
        tensors |= {f"objective.{name}": t for name, t in self.objective.state_dict().items()}
        for i, parameter in enumerate(self._optimised()):
            for key, value in self.optimizer.state[parameter].items():
                tensors[f"optimizer.{i}.{key}"] = value
        tensors["random.cpu"] = torch.get_rng_state()
        if torch.cuda.is_available():
            tensors["random.cuda"] = torch.cuda.get_rng_state()
        return tensors

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Puts back what `tensors` gave."""
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(tensors[f"model.{name}"])
        prefix = "objective."
        self.objective.load_state_dict({k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)})
        for i, parameter in enumerate(self._optimised()):
            here = f"optimizer.{i}."
            state = {k.removeprefix(here): t for k, t in tensors.items() if k.startswith(here)}
            # fused AdamW keeps its step count with the parameter
            self.optimizer.state[parameter] = {k: t.to(parameter.device) for k, t in state.items()}
        torch.set_rng_state(tensors["random.cpu"])
        if torch.cuda.is_available() and "random.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["random.cuda"])

    def _optimised(self) -> list[Tensor]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]


def save_checkpoint(folder: Path, step: int, moving: Moving, state: Mapping[str, Any]) -> Path:
    """Writes ``folder/step-000500`` beside and renames it; then removes the older ones."""
    final = folder / f"step-{step:06d}"
    beside = folder / f".{final.name}.{os.getpid()}"
    with writing(final):
        try:
            shutil.rmtree(beside, ignore_errors=True)
            beside.mkdir(parents=True)
            tensors = {k: t.contiguous().clone() if not t.is_contiguous() else t for k, t in moving.tensors().items()}
            save_file(tensors, beside / "tensors.safetensors")
            (beside / "state.json").write_text(json.dumps({"step": step, **state}, allow_nan=False), encoding="utf-8")
            for file in beside.iterdir():
                with file.open("rb") as written:
                    os.fsync(written.fileno())
            if final.exists():
                shutil.rmtree(final)
            beside.rename(final)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    for older in checkpoints(folder)[:-1]:
        shutil.rmtree(older, ignore_errors=True)
    return final


def checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints of a folder, oldest first."""
    found = [p for p in folder.glob("step-*") if _STEP.fullmatch(p.name)]
    return sorted(found, key=lambda p: int(p.name.removeprefix("step-")))


def load_checkpoint(folder: Path, moving: Moving) -> dict[str, Any]:
    """Puts a checkpoint's tensors back and gives its state."""
    with safe_open(folder / "tensors.safetensors", framework="pt") as file:
        moving.restore({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 (not a mapping)
    state: dict[str, Any] = read_json(folder / "state.json")
    return state
