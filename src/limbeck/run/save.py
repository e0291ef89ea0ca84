"""Checkpoints: written to a temporary folder and renamed, so that a checkpoint is complete or absent.

A checkpoint holds the train state (weights, optimiser, objective) and the data position, as safetensors and JSON: nothing is ever
unpickled. Random numbers are seeded by the step's number, so they have no state.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from limbeck.disk import Bare, Count, check_sums, read_json, sums, whole_folder, write_json, writing
from limbeck.errors import BadFolder
from limbeck.objectives.base import Objective
from limbeck.run.average import WeightAverage
from limbeck.run.eight_bit import joined, plain
from limbeck.run.mesh import Mesh
from limbeck.run.selection import SelectionState
from limbeck.run.shards import is_sharded, read_sharded, write_sharded

_TENSORS, _STATE = "tensors.safetensors", "state.json"
_STEP = re.compile(r"step-(\d{6,})")
_BEST = re.compile(r"best-(\d{6,})")


class _State(TypedDict):
    """The part of a checkpoint besides its tensors. Earlier versions wrote no checksums."""

    step: Count
    tokens: Count
    corpus: dict[str, Any]
    # rows: asked for, and what fitted into memory; whether layers were spared
    micro_batch: NotRequired[dict[str, Count]]
    files: NotRequired[dict[Bare, str]]
    selection: NotRequired[SelectionState]
    settled: NotRequired[dict[str, bool]]  # `Objective.settled`


class _Best(TypedDict):
    """The part of kept weights besides their tensors."""

    step: Count
    files: dict[Bare, str]


@dataclass(frozen=True)
class TrainState:
    """The train state: model, optimiser and objective, and the average of the weights if there is one.

    Of the model only what is trained: frozen weights stay those that it was loaded with. The corpus position is saved separately,
    in a checkpoint's JSON.
    """

    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    objective: Objective
    average: WeightAverage | None = None

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the state in its own shape, by name with the prefix model, objective, optimizer or average.

        A tied weight appears once.
        """
        tensors: dict[str, Tensor] = {f"model.{name}": p.detach() for name, p in trained_weights(self.model)}
        tensors |= {f"objective.{name}": t for name, t in self.objective.state_dict().items()}
        for i, optimised in enumerate(self._optimised()):
            for key, value in self.optimizer.state[optimised].items():
                tensors |= plain(f"optimizer.{i}.{key}", value)
        return tensors | (self.average.tensors() if self.average else {})

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Restores what `tensors` gave. Raises KeyError or RuntimeError if tensors are missing or of another shape."""
        with torch.no_grad():
            for name, parameter in trained_weights(self.model):
                parameter.copy_(tensors[f"model.{name}"])
        prefix = "objective."
        self.objective.load_state_dict({k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)})
        for i, optimised in enumerate(self._optimised()):
            here = f"optimizer.{i}."
            state = {k.removeprefix(here): t for k, t in tensors.items() if k.startswith(here)}
            # fused AdamW keeps its step count with the parameter
            there = {k: t.to(optimised.device) for k, t in state.items()}
            self.optimizer.state[optimised] = joined(there, optimised.dtype)

        if self.average:
            self.average.restore(tensors)

    def like(self) -> Callable[[str, torch.Size, torch.dtype], Tensor]:
        """A function of name, shape and number format: a tensor to read the one of this name into, sharded as it will be.

        It raises KeyError for another training's name.
        """
        own: dict[str, Tensor] = {f"model.{name}": p for name, p in trained_weights(self.model)}
        own |= self.average.tensors() if self.average else {}
        optimised = {str(number): p for number, p in enumerate(self._optimised())}

        def like(name: str, shape: torch.Size, dtype: torch.dtype) -> Tensor:
            kind, number, *_ = name.split(".")
            if kind == "optimizer":
                return _like(optimised[number], shape, dtype)
            return _like(own[name] if kind == "model" else own.get(name), shape, dtype)

        return like

    def _optimised(self) -> list[Tensor]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]


def trained_weights(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """(name, weight) of the weights that a training changes."""
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)


def save_checkpoint(
    folder: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any], *, mesh: Mesh
) -> Path:
    """Writes what `TrainState.tensors` gave to ``folder/step-000500`` beside and renames it; then removes the older ones.

    All ranks of ``mesh`` call it; where tensors are sharded each writes its part. Raises BadFolder on all ranks where one cannot
    write, and OtherRankStopped if a rank ended.
    """
    final = folder / f"step-{step:06d}"
    with ExitStack() as written:
        beside = Path(_of_first(mesh, lambda: str(written.enter_context(whole_folder(final)))))
        if is_sharded(tensors):
            files = write_sharded(tensors, beside, mesh)
        else:
            files = json.loads(_of_first(mesh, lambda: json.dumps(_write(tensors, beside))))

        def complete() -> str:
            write_json(beside / _STATE, {"step": step, **state, "files": files})
            written.close()
            return ""

        _of_first(mesh, complete)
    if mesh.first:
        for older in checkpoints(folder)[:-1]:
            shutil.rmtree(older, ignore_errors=True)
    return final


def _of_first(mesh: Mesh, work: Callable[[], str]) -> str:
    """What ``work`` gives on rank 0, on all ranks; where it cannot write, that is the error of all."""
    found = failed = ""
    cause: BadFolder | None = None
    if mesh.first:
        try:
            found = work()
        except BadFolder as error:
            failed, cause = str(error), error
    found, failed = json.loads(mesh.share(json.dumps([found, failed])))
    if failed:
        raise cause or BadFolder(failed)
    return found


def _write(tensors: Mapping[str, Tensor], folder: Path) -> dict[str, str]:
    """Writes whole tensors; gives the file's checksum."""
    whole = {k: t.contiguous().clone() if not t.is_contiguous() else t for k, t in tensors.items()}
    with writing(folder):
        save_file(whole, folder / _TENSORS)
    return sums(folder, [_TENSORS])


def _like(own: Tensor | None, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """A tensor of this shape, sharded as one of the training is."""
    if own is None or own.shape != shape:  # such as a count of steps
        return torch.empty(shape, dtype=dtype)
    return torch.empty_like(own.detach(), dtype=dtype)


def save_best(folder: Path, step: int, tensors: Mapping[str, Tensor]) -> None:
    """Writes whole weights to ``folder/best-000500``. Those of other steps stay until a checkpoint no longer names them."""
    with whole_folder(folder / f"best-{step:06d}") as beside:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, beside / _TENSORS)
        write_json(beside / _STATE, {"step": step, "files": sums(beside, [_TENSORS])})


def load_best(folder: Path, step: int, model: torch.nn.Module, *, mesh: Mesh) -> None:
    """Gives a model, whole or sharded, the weights that `save_best` wrote, which are all that are trained.

    All ranks of ``mesh`` call it.

    Raises BadFolder where they are missing, damaged or of another model.
    """
    kept = folder / f"best-{step:06d}"
    remedy = f"remove the checkpoints in {folder}; the training then starts from the beginning"
    state: dict[str, Any] = read_json(kept / _STATE, _Best, remedy=remedy)
    _check_sums(kept, state["files"], remedy, mesh)
    own = dict(model.named_parameters())
    try:
        if is_sharded(own):
            tensors = read_sharded(kept, lambda name, shape, dtype: _like(own[name], shape, dtype))
        else:
            with safe_open(kept / _TENSORS, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        if missing := {name for name, _ in trained_weights(model)} - tensors.keys():
            raise KeyError(min(missing))
        with torch.no_grad():
            for name, tensor in tensors.items():
                own[name].copy_(tensor)
    except (OSError, SafetensorError, KeyError, RuntimeError, ValueError) as error:
        raise BadFolder(
            f"{kept / _TENSORS}: expected the weights of this training's model ({error}): {remedy}."
        ) from error


def best_step(folder: Path) -> int | None:
    """The step of the weights that `save_best` wrote, the last of several; None if there are none."""
    found = (_BEST.fullmatch(kept.name) for kept in folder.glob("best-*"))
    return max((int(match[1]) for match in found if match), default=None)


def drop_best(folder: Path, *, but: int | None = None, until: float = math.inf) -> None:
    """Removes the weights that `save_best` wrote ``until`` a step, but those of one step."""
    for kept in folder.glob("best-*"):
        if (found := _BEST.fullmatch(kept.name)) and int(found[1]) != but and int(found[1]) <= until:
            shutil.rmtree(kept, ignore_errors=True)


def checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints of a folder, oldest first."""
    found = [p for p in folder.glob("step-*") if _STEP.fullmatch(p.name)]
    return sorted(found, key=lambda p: int(p.name.removeprefix("step-")))


def load_checkpoint(folder: Path, train_state: TrainState, *, mesh: Mesh) -> dict[str, Any]:
    """Restores a checkpoint's tensors and gives its JSON. Raises BadFolder if it is damaged or of another model.

    All ranks of ``mesh`` call it; each compares the checksums of some of the files, and a damaged one is the error of all. Whole
    tensors may be restored into sharded ones, and sharded ones into whole ones or ones of another number of shards.
    """
    remedy = f"remove {folder}; the training then starts from the beginning"
    state: dict[str, Any] = read_json(folder / _STATE, _State, remedy=remedy)
    _check_sums(folder, state.get("files", {}), remedy, mesh)
    try:
        train_state.restore(_read(folder, train_state))
    except (OSError, SafetensorError, KeyError, RuntimeError, ValueError) as error:
        raise BadFolder(
            f"{folder}: expected the tensors of a checkpoint of this training ({error}): {remedy}."
        ) from error
    return state


def _check_sums(folder: Path, files: Mapping[str, str], remedy: str, mesh: Mesh) -> None:
    """Compares the checksums of files, each rank those of its part. Raises BadFolder on all ranks for a damaged one."""
    failed = ""
    try:
        check_sums(folder, dict(sorted(files.items())[mesh.rank :: mesh.size]), error=BadFolder, remedy=remedy)
    except BadFolder as error:
        failed = str(error)
    if first := next(filter(None, mesh.gather(failed)), None):
        raise BadFolder(first)


def _read(folder: Path, train_state: TrainState) -> dict[str, Tensor]:
    if is_sharded(train_state.tensors()) or not (folder / _TENSORS).exists():
        return read_sharded(folder, train_state.like())
    with safe_open(folder / _TENSORS, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
