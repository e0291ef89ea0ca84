"""Several processes of one training, forked from this one, which has imported everything by then."""

import multiprocessing
import os
import socket
from collections.abc import Callable
from typing import Any

import torch

from limbeck.run.sharded import layout_of, sharded
from limbeck.run.world import World, join, leave

FORK = multiprocessing.get_context("fork")


def on_ranks(count: int, work: Callable[[World], Any], *, mesh: str = "shard") -> list[Any]:
    """What ``work`` gives on each of ``count`` processes, as plain values; the exit code of one that failed."""
    return results(started(count, work, mesh=mesh))


def started(count: int, work: Callable[[World], Any], *, mesh: str = "shard") -> list[tuple[Any, Any]]:
    """The processes, started, each with the pipe of its result."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    begun = []
    for rank in range(count):
        read, write = FORK.Pipe(duplex=False)
        process = FORK.Process(target=_rank, args=(rank, count, port, mesh, work, write))
        process.start()
        write.close()
        begun.append((process, read))
    return begun


def results(begun: list[tuple[Any, Any]]) -> list[Any]:
    """What the processes gave, or their exit codes."""
    found = []
    for process, read in begun:
        try:
            found.append(read.recv())
        except EOFError:
            found.append(None)
        process.join(120)
    return [process.exitcode if value is None else value for (process, _), value in zip(begun, found, strict=True)]


def _rank(rank: int, count: int, port: int, mesh: str, work: Callable[[World], Any], answer: Any) -> None:
    torch.set_num_threads(1)
    os.environ |= {"WORLD_SIZE": str(count), "RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    world = join("cpu")
    value = work(sharded(world, *layout_of(mesh, world.size)))
    answer.send(value)
    leave()
