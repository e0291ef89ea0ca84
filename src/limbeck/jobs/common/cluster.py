"""Runs tasks on a Ray cluster: each in a worker of its own core, or its own GPU if there are some.

All machines share one folder, by one path: tasks read what others wrote there, and nothing but their end travels. A worker that
is lost is replaced, and its task continues from what its folder holds. So each worker first proves that it sees the folder, and
that it has the versions of this process; otherwise the run stops at once, with the name of the machine.
"""

from __future__ import annotations

import os
import platform
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from limbeck import __version__
from limbeck.disk import write_text
from limbeck.errors import BadFolder, BadSetting
from limbeck.jobs.common.folder import soon
from limbeck.jobs.common.task import DEATHS, REFUSED, Task, attempt, require_done
from limbeck.packages import require_packages
from limbeck.run.log import console

MARK = ".shared"
_TICK = 5.0  # seconds between looks at how far the tasks are


def _versions() -> dict[str, str]:
    """Versions that may affect a result, without what a build is for: a machine without a GPU may give out the work."""
    return {
        "limbeck": __version__,
        "torch": torch.__version__.split("+")[0],
        "transformers": transformers.__version__,
    }


@dataclass(frozen=True)
class Home:
    """The process that gives out tasks, as its workers must find it: a ``mark`` in ``folder``, its versions and command.

    ``here`` is its working folder, in which relative paths of the command begin.
    """

    folder: Path
    mark: str
    here: Path
    command: tuple[str, ...]
    versions: dict[str, str]

    @classmethod
    def of(cls, folder: Path) -> Home:
        """This process, after its mark was written into the folder."""
        home = cls(folder, uuid.uuid4().hex, Path.cwd(), tuple(sys.argv), _versions())
        write_text(folder / MARK, home.mark)
        return home

    def missing(self) -> str:
        """What a worker lacks in this process; "" if nothing."""
        host, ours = platform.node(), _versions()
        for name, version in self.versions.items():
            if ours[name] != version:
                return (
                    f"{host} has {name} {ours[name]}, the machine of this command {version}: install the same versions on all "
                    "machines of the cluster"
                )
        if not soon(lambda: _text(self.folder / MARK) == self.mark):
            return (
                f"{self.folder}: expected a folder on a disk that all machines share, but a worker on {host} cannot read what "
                "this command wrote there: give such a folder with --out, by the same path on each machine"
            )
        return ""

    def enter(self) -> None:
        """Takes the command's working folder, where this machine has it, and its command line, which run.json records."""
        if self.here.is_dir():
            os.chdir(self.here)
        sys.argv = list(self.command)


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""


def work(task: Task, home: Home, threads: int, gpus: int) -> tuple[str, str]:
    """`attempt` in a worker of a cluster, which has ``gpus`` (0 or 1), and names its machine in an error."""
    console.quiet = True
    if missing := home.missing():
        return REFUSED, missing
    if gpus and not torch.cuda.is_available():
        return REFUSED, (
            f"{platform.node()} gives this worker a GPU, and its torch {torch.__version__} sees none: install a torch for the "
            "GPUs of all machines of the cluster"
        )
    home.enter()
    kind, message = attempt(task, threads=threads)
    return kind, f"on {platform.node()}: {message}" if message else ""


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster that is connected, the process that uses it, and what each task gets: ``cores``, and ``gpus`` (0 or 1)."""

    ray: Any
    home: Home
    cores: int
    gpus: int

    @property
    def workers(self) -> int:
        """The number of tasks that the cluster runs at a time."""
        return max(1, sum(tasks_of(machine, self.cores, self.gpus) for machine in machines_of(self.ray)))

    def run(
        self, tasks: Sequence[Task], report: Callable[[Any, float], None], watch: Callable[[], object] = int
    ) -> None:
        """Runs all unfinished tasks; ``report`` gets each with its seconds, ``watch`` is called every few seconds.

        Raises BadSetting for an error that the user can correct, BadFolder where a result cannot be seen here, and RuntimeError
        if a task fails or its workers are lost repeatedly.
        """
        # lost workers are counted here: Ray by itself starts one anew without end when memory is short
        remote = self.ray.remote(num_cpus=self.cores, num_gpus=self.gpus, max_retries=0)(work)
        waiting = [task for task in tasks if not task.done]
        running: dict[Any, tuple[Task, float]] = {}
        lost: Counter[Path] = Counter()
        while waiting or running:
            for task in [task for task in waiting if task.ready]:
                waiting.remove(task)
                running[remote.remote(task, self.home, self.cores, self.gpus)] = (task, time.monotonic())
            finished, _ = self.ray.wait(list(running), num_returns=1, timeout=_TICK)
            watch()
            for reference in finished:
                task, since = running.pop(reference)
                if self._is_done(task, reference, lost):
                    report(task, time.monotonic() - since)
                else:
                    waiting.insert(0, task)

    def _is_done(self, task: Task, reference: Any, lost: Counter[Path]) -> bool:
        """Whether a task came to its end; False where its worker was lost, which is counted."""
        faults = self.ray.exceptions
        try:
            require_done(task, *self.ray.get(reference))
        except (faults.RayTaskError, faults.RuntimeEnvSetupError) as error:
            raise BadSetting(
                f"{task.kind} {task.name} did not begin on its worker ({str(error).strip().splitlines()[-1]}): install the same "
                "versions of Python, limbeck and its packages on all machines of the cluster"
            ) from error
        except faults.RayError as error:
            lost[task.folder] += 1
            if lost[task.folder] == DEATHS:
                raise RuntimeError(
                    f"{task.folder}: its worker was lost {DEATHS} times, the last time so: {error}"
                ) from error
            console.print(
                f"note: {task.kind} {task.name}: its worker was lost ({type(error).__name__}); another continues"
            )
            return False
        if not soon(lambda: task.done):
            raise BadFolder(
                f"{task.folder}: a worker wrote its result there, and this process does not see it: expected a folder on a disk "
                "that all machines share; give such a folder with --out, by the same path on each machine"
            )
        return True


def machines_of(ray: Any) -> list[tuple[int, int]]:
    """(cores, GPUs) of each machine of a cluster."""
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [(int(has.get("CPU", 0)), int(has.get("GPU", 0))) for has in alive]


def tasks_of(machine: tuple[int, int], cores: int, gpus: int) -> int:
    """How many tasks of ``cores`` cores, and a GPU if ``gpus`` is 1, a machine with (cores, GPUs) has room for at a time."""
    by_cores = machine[0] // cores
    return min(by_cores, machine[1]) if gpus else by_cores


def _gpus_of_a_task(machines: Sequence[tuple[int, int]], cores: int, *, gpu: bool) -> int:
    """1 if each task gets a GPU, else 0. Raises BadSetting where no machine has room for a task, which would wait for ever."""
    gpus = 1 if gpu and any(having for _, having in machines) else 0
    if not any(tasks_of(machine, cores, gpus) for machine in machines):
        most = max((machine[0] for machine in machines if machine[1] >= gpus), default=0)
        kind = "machine with a GPU" if gpus else "machine"
        raise BadSetting(f"--threads {cores}: the largest {kind} of the cluster has {most} cores; give fewer")
    return gpus


@contextmanager
def _connected(ray: Any, address: str) -> Iterator[None]:
    """A connection to the cluster: that of this process if it has one, which then stays, else one for this context."""
    if ray.is_initialized():
        console.print(
            f"note: --ray {address}: this process is connected to a Ray cluster already, and that one is used"
        )
        yield
        return
    try:
        ray.init(address=address, logging_level="ERROR", log_to_driver=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise BadSetting(
            f"--ray {address}: no Ray cluster answers there ({error}). Start one: ray start --head"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def cluster(address: str, folder: Path, *, cores: int = 1, gpu: bool = True) -> Iterator[Cluster]:
    """Connects to a Ray cluster for tasks in ``folder``; with ``gpu`` each task gets a GPU if there are some.

    Raises BadSetting if ray is not installed, no cluster responds, or none of its machines has so many cores (beside a GPU).
    """
    require_packages("--ray needs", "ray", extra="ray", error=BadSetting)
    import ray  # an extra

    with _connected(ray, address):
        gpus = _gpus_of_a_task(machines_of(ray), cores, gpu=gpu)
        try:
            yield Cluster(ray, Home.of(folder.absolute()), cores, gpus)
        finally:
            (folder / MARK).unlink(missing_ok=True)
