"""The processes of a run: rank, device, and sums over all ranks.

Data parallelism here is a plain sum of gradients after the last micro-batch, not `DistributedDataParallel`: the fused head
writes its gradient itself (`objectives/fused.py`), which a wrapper's hooks would not see. `World` is the `Mesh` of
replicated training; sharded training would be another one (`run/mesh.py`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from limbeck.errors import OtherRankStopped
from limbeck.host import queues
from limbeck.models.language_model import LanguageModel
from limbeck.models.load import load
from limbeck.run.mesh import Mesh
from limbeck.types import Batch, CausalLM, Outputs

_PATIENCE = timedelta(hours=6)  # probes and saving run on rank 0 alone while the others wait
_BEGUN: list[Any] = []  # the process group that `join` began
_BUCKET = 2**24  # elements summed in one message: 64 MiB in float32


@dataclass(frozen=True)
class World:
    """The processes of this run, each with all weights: a `Mesh`. ``rank`` 0 writes files and prints.

    ``group`` is the process group of its collectives, None for the one that all processes began with. ``host`` is that of numbers
    in host memory, where the other takes none.
    """

    rank: int
    size: int
    device: torch.device
    group: dist.ProcessGroup | None = field(default=None, kw_only=True)
    host: dist.ProcessGroup | None = field(default=None, kw_only=True)

    @property
    def sharded(self) -> bool:
        """Whether a rank holds a part of the weights only, so that all ranks compute together."""
        return False

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which writes files and messages."""
        return self.rank == 0

    def sum(self, value: float) -> float:
        """The value summed over the ranks, in float64; every rank gets the same bits. Raises OtherRankStopped if one ended."""
        return float(self.sum_tensor(torch.tensor(value, dtype=torch.float64)))

    def sum_tensor(self, value: Tensor) -> Tensor:
        """Numbers on this process's device, or on the host, each summed over the ranks; every rank gets the same bits.

        A device that computes in the background is not waited for. Raises OtherRankStopped if a rank ended.
        """
        if self.size == 1:
            return value
        total = value.clone()
        with meeting():
            dist.all_reduce(total, group=self.group if queues(value.device) else self.host or self.group)
        return total

    def any(self, *flags: bool) -> list[bool]:
        """For each flag whether it is set on any rank, by one collective. Raises OtherRankStopped if a rank ended."""
        if self.size == 1:
            return list(flags)
        total = torch.tensor(flags, dtype=torch.int32)  # by the host's own messages, which wait for no device
        with meeting():
            dist.all_reduce(total, group=self.host or self.group)
        return [count > 0 for count in total.tolist()]

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replaces each gradient by its sum over the ranks; a missing gradient counts 0.

        Raises OtherRankStopped if a rank ended.
        """
        if self.size == 1:
            return
        bucket: list[Tensor] = []
        elements = 0
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            bucket.append(parameter.grad)
            elements += parameter.grad.numel()
            if elements >= _BUCKET:
                _all_reduce(bucket, self.group)
                bucket, elements = [], 0
        if bucket:
            _all_reduce(bucket, self.group)

    def clip(self, gradients: list[Tensor], max_norm: float) -> Tensor:
        """Scales gradients, the same on every rank, down to a joint norm of at most ``max_norm``; gives the norm before."""
        norm = torch.nn.utils.get_total_norm(gradients, foreach=True)
        scale_down(gradients, norm, max_norm)
        return norm

    def load(self, name: str | Path, *, dtype: torch.dtype = torch.float32, train: bool = False) -> LanguageModel:
        """A model from a folder or hub id, on this process's device; frozen unless ``train``."""
        return load(name, device=self.device, dtype=dtype, train=train)

    def place(self, model: LanguageModel, *, train: bool) -> None:
        """Moves a model to this process's device."""
        model.model.to(self.device)

    def gathered(self, model: LanguageModel) -> LanguageModel | None:
        """The model itself: every rank holds all weights."""
        return model

    def begin(self, model: CausalLM, *, last: bool) -> None:
        """Nothing: every rank holds all weights, and gradients are summed after the step's last micro-batch."""

    def even(self, rows: Batch, most: int) -> Batch:
        """The rows as they are: ranks meet once a step."""
        return rows

    def idle(self, outputs: Outputs) -> None:
        """Nothing: a micro-batch without weight has no gradient."""

    def share(self, text: str) -> str:
        """The text of rank 0, on every rank. Raises OtherRankStopped if a rank ended."""
        if self.size == 1:
            return text
        given: list[str] = [text]
        with meeting():
            dist.broadcast_object_list(given, src=0, device=self.device, group=self.group)
        return given[0]

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks, in order, on each of them. Raises OtherRankStopped if a rank ended."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        with meeting():
            dist.all_gather_object(values, value, group=self.group)
        return values

    def barrier(self) -> None:
        """Waits for every rank. Raises OtherRankStopped if one ended."""
        if self.size > 1:
            with meeting():
                dist.barrier(group=self.group)


def alone(device: torch.device | str = "cpu") -> World:
    """The `World` of a single process on a device."""
    return World(rank=0, size=1, device=torch.device(device))


@contextmanager
def beside(mesh: Mesh) -> Iterator[Mesh]:
    """The processes of a mesh with a process group of their own, for collectives in another thread than those of the mesh.

    All processes enter together.
    """
    if mesh.size == 1:
        yield mesh
        return
    with meeting():
        group = dist.new_group(backend="gloo", timeout=_PATIENCE)
    try:
        yield World(mesh.rank, mesh.size, torch.device("cpu"), group=group)
    finally:
        dist.destroy_process_group(group)


def named(device: str) -> torch.device:
    """The device of this name; "auto" is CUDA if available, else the CPU. Raises RuntimeError if there is no such device."""
    where = torch.device(device if device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu"))
    if where.type not in {"cpu", "cuda"}:
        raise RuntimeError(f"limbeck runs on a CPU or on CUDA, not on {where.type}")
    if where.type == "cuda" and (where.index or 0) >= torch.cuda.device_count():
        raise RuntimeError(f"torch finds {torch.cuda.device_count()} CUDA devices")
    return where


def join(device: str = "auto") -> World:
    """The `World` that `torchrun` set up in the environment, with all weights on each process, or a single process.

    ``device`` is "auto" (CUDA if available, else the CPU), "cpu", "cuda" or "cuda:1". Ranks on CUDA use one device each. A
    process group that the program has begun is used, and stays after `leave`. Raises RuntimeError if there is no such device, or
    if several processes were given one device.
    """
    size, local = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
    where = named(device)
    if size > 1 and where.index is not None:
        raise RuntimeError(f"{size} processes cannot share one device: each takes its own with auto or cuda")
    if where.type == "cuda":
        # torch sets no device without a number, and tensors on "cuda:0" and "cuda" would count as on different devices
        where = named(f"cuda:{local if size > 1 else where.index or 0}")
        torch.cuda.set_device(where)
    if size == 1:
        return alone(where)
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if where.type == "cuda" else "gloo"  # the host's messages wait for no device
        dist.init_process_group(backend, timeout=_PATIENCE)
        _BEGUN[:] = [dist.group.WORLD]
    host = _of_host(dist.group.WORLD)
    own = None if queues(where) else host  # a program that has begun NCCL alone may compute on CPUs here
    return World(rank=dist.get_rank(), size=dist.get_world_size(), device=where, group=own, host=host)


def leave() -> None:
    """Ends the process group that `join` began, if there is one."""
    if dist.is_initialized() and dist.group.WORLD in _BEGUN:
        _BEGUN.clear()
        _of_host.cache_clear()
        dist.destroy_process_group()


@lru_cache(maxsize=1)
def _of_host(whole: dist.ProcessGroup | None) -> dist.ProcessGroup | None:
    """A group for numbers in host memory, where that of all processes, by NCCL alone, takes none; else None.

    All processes call it together.
    """
    if "cpu:" in dist.get_backend_config(whole):
        return None
    return dist.new_group(backend="gloo", timeout=_PATIENCE)


@contextmanager
def meeting() -> Iterator[None]:
    """Raises OtherRankStopped if a collective fails inside, as it does when a rank has ended."""
    try:
        yield
    except RuntimeError as error:  # gloo's have no class of their own
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        raise OtherRankStopped(
            "another process of this run stopped, so this one stopped too: see the message or traceback of the other process"
        ) from error


def scale_down(gradients: list[Tensor], norm: Tensor, max_norm: float) -> None:
    """Multiplies gradients of this norm by ``max_norm`` over it where it is larger, without waiting for their device."""
    if queues(norm.device):
        torch._foreach_mul_(gradients, torch.where(norm > max_norm, max_norm / norm, 1.0))
    elif norm > max_norm:
        torch._foreach_mul_(gradients, float(max_norm / norm))


def _all_reduce(gradients: list[Tensor], group: dist.ProcessGroup | None) -> None:
    flat = torch.cat([g.reshape(-1) for g in gradients])
    with meeting():
        dist.all_reduce(flat, group=group)
    for gradient, piece in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(piece.view_as(gradient))
