"""A Ray cluster of this machine, for tests that are marked `cluster`."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil


def environment() -> dict[str, str]:
    """Of the cluster and of commands that use it: workers import these tests, too."""
    root = str(Path(__file__).parents[2])
    return os.environ | {
        "OMP_NUM_THREADS": "1",
        "RAY_DISABLE_DASHBOARD": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH")))),
    }


@contextmanager
def ray_head(*, port: int) -> Iterator[str]:
    """Starts a cluster of two cores; gives its address. At the end its processes are stopped, and no others."""
    ray = str(Path(sys.executable).with_name("ray"))
    head = [ray, "start", "--head", f"--port={port}", "--num-cpus=2", "--include-dashboard=false", "--block"]
    started = subprocess.Popen(head, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        asked = [ray, "status", f"--address=127.0.0.1:{port}"]
        for _ in range(60):
            if subprocess.run(asked, env=environment(), capture_output=True).returncode == 0:
                break
            assert started.poll() is None
            time.sleep(0.5)
        yield f"127.0.0.1:{port}"
    finally:
        processes = psutil.Process(started.pid).children(recursive=True) if started.poll() is None else []
        started.terminate()
        started.wait(60)
        for process in psutil.wait_procs(processes, timeout=10)[1]:
            process.kill()


def kill_a_worker(begun: Callable[[], object], process: subprocess.Popen) -> None:
    """Kills a worker that has a task, once something is ``begun``."""
    deadline = time.monotonic() + 1200  # to give up at last: a busy machine takes minutes to begin
    while process.poll() is None and time.monotonic() < deadline:
        if begun():
            for worker in psutil.process_iter(["cmdline"]):
                if "ray::work" in " ".join(worker.info["cmdline"] or []):
                    worker.kill()
                    return
        time.sleep(0.02)
    raise AssertionError(
        f"no worker had a task: {process.communicate()[1] if process.poll() is not None else 'waited'}"
    )
