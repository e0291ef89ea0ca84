"""Checkpoints that are written while the training goes on, from a copy of the train state in host memory.

The copy is made between two steps, so it is what a checkpoint without a copy would hold. Processes that write together do so
through a process group of their own: their training uses the other one meanwhile.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from limbeck.run.mesh import Mesh
from limbeck.run.save import save_checkpoint
from limbeck.run.shards import is_sharded
from limbeck.run.world import beside


class Saver:
    """Writes a run's checkpoints, one at a time: between two steps, or by a ``writer`` thread while steps follow."""

    def __init__(self, folder: Path, mesh: Mesh, writer: ThreadPoolExecutor | None) -> None:
        """``mesh`` has the collectives of writing."""
        self._folder, self._mesh, self._writer = folder, mesh, writer
        self._last: Future[None] | None = None

    def save(
        self, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any], *, then: Callable[[], None]
    ) -> None:
        """Writes a checkpoint as `save_checkpoint`, and calls ``then`` on rank 0 once it is complete. All ranks call it.

        Raises what an earlier one raised meanwhile.
        """
        self.finish()
        if self._writer is None:
            self._write(step, tensors, state, then)
        else:
            writes = self._mesh.first or is_sharded(tensors)
            held = _on_host(tensors) if writes else {}  # the others only wait for the first
            self._last = self._writer.submit(self._write, step, held, copy.deepcopy(state), then)

    @property
    def failed(self) -> bool:
        """Whether the last checkpoint could not be written."""
        return self._last is not None and self._last.done() and self._last.exception() is not None

    def finish(self) -> None:
        """Waits for the last checkpoint. Raises what writing it raised, once."""
        last, self._last = self._last, None
        if last is not None:
            last.result()

    def _write(
        self, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any], then: Callable[[], None]
    ) -> None:
        save_checkpoint(self._folder, step, tensors, state, mesh=self._mesh)
        if self._mesh.first:
            then()


@contextmanager
def saving(folder: Path, mesh: Mesh, *, background: bool) -> Iterator[Saver]:
    """A `Saver`, by a thread of its own in the ``background``. All ranks enter together.

    At the end the last checkpoint is complete or has failed; call `Saver.finish` before to know which.
    """
    if not background:
        yield Saver(folder, mesh, None)
        return
    with beside(mesh) as own, ThreadPoolExecutor(1, thread_name_prefix="checkpoint") as writer:
        yield Saver(folder, own, writer)


def _on_host(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of tensors, or of this process's parts of them, in host memory."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}
