"""Tensors that are sharded over processes, on disk: a safetensors file for each process, written and read by PyTorch.

A file holds its process's part of each tensor, with the part's place as JSON in its header; any number of processes can read
them (`torch.distributed.checkpoint`). The checksums in the checkpoint's state.json say which files there are: the reader takes
whatever files are in the folder, and leaves elements as they were whose file is missing.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor

from limbeck.disk import sums, sync_file, writing
from limbeck.run.mesh import Mesh
from limbeck.run.world import meeting


def is_sharded(tensors: Mapping[str, Tensor]) -> bool:
    """Whether one of them is sharded."""
    return any(isinstance(tensor, DTensor) for tensor in tensors.values())


def write_sharded(tensors: Mapping[str, Tensor], folder: Path, mesh: Mesh) -> dict[str, str]:
    """Writes each rank's part of the tensors; gives the checksums of all files by name. All ranks call it.

    Raises BadFolder on all ranks where one cannot write, and OtherRankStopped if a rank ended.
    """
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    with writing(folder), _first_cause(), meeting():
        save(dict(tensors), storage_writer=writer, process_group=mesh.group)
    own = [file.name for file in folder.glob(f"shard-{mesh.rank + 1:05d}-*.safetensors")]
    return {name: digest for part in mesh.gather(_durable(folder, own)) for name, digest in part.items()}


def _durable(folder: Path, own: list[str]) -> dict[str, str]:
    """The checksums of this process's files, which are on the disk then: another machine cannot wait for what is in a cache."""
    for name in own:
        sync_file(folder / name)
    return sums(folder, own)


def read_sharded(folder: Path, like: Callable[[str, torch.Size, torch.dtype], Tensor]) -> dict[str, Tensor]:
    """Reads all tensors of the safetensors files of a folder into what ``like`` makes for a name, shape and number format.

    Raises what ``like`` raises, ValueError for a part that has no place, and OtherRankStopped if a rank ended.
    """
    reader = HuggingFaceStorageReader(str(folder))
    there = reader.read_metadata().state_dict_metadata
    tensors = {
        name: like(name, found.size, found.properties.dtype)
        for name, found in there.items()
        if isinstance(found, TensorStorageMetadata)
    }
    with warnings.catch_warnings(), _first_cause(), meeting():
        # where one process reads what several wrote
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        load(tensors, storage_reader=reader)
    return tensors


@contextmanager
def _first_cause() -> Iterator[None]:
    """Raises one rank's exception, that of a file where there is such, in the place of PyTorch's list of all of them."""
    try:
        yield
    except CheckpointException as error:
        causes = [cause for cause, _ in error.failures.values()]
        raise next((cause for cause in causes if isinstance(cause, OSError | SafetensorError)), causes[0]) from None
