"""A capture whose shards the machines of a Ray cluster take is that of one process, byte by byte."""

import platform
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import limbeck
from limbeck.errors import BadSetting
from limbeck.jobs.capture.spread import SHARDS, borders
from limbeck.jobs.common import cluster, folder
from limbeck.jobs.common.cluster import MARK, Home
from limbeck.jobs.common.task import REFUSED, Task
from tests.helpers.models import write_corpus, write_teacher
from tests.helpers.on_ray import environment, kill_a_worker, ray_head

SETTINGS = {"length": 16, "kind": "drawn", "threads": 1, "any_teacher": True}


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    """A folder with a teacher, a text, and its capture in one process."""
    folder = tmp_path_factory.mktemp("on-ray")
    write_teacher(folder)
    write_corpus(folder, 40)
    limbeck.capture(**keys(folder, folder / "one"))
    return folder


def keys(folder: Path, out: Path, **more):
    return SETTINGS | {"teacher": str(folder / "teacher"), "data": str(folder / "text.jsonl"), "out": out} | more


def bytes_of(folder: Path) -> dict[str, bytes]:
    """The files of a capture that hold no time, place or measured speed."""
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {
        name: path.read_bytes()
        for name, path in files.items()
        if name not in ("README.md", "run.json", "measured/cost.json", "measured/samples.json")
    }


@given(st.integers(1, 3000), st.integers(1, 700), st.integers(1, 40), st.integers(1, 50))
def test_shards_have_the_borders_of_files_or_of_their_batches(rows, file_rows, batch_rows, shards):
    parts = borders(rows, file_rows=file_rows, batch_rows=batch_rows, shards=shards)
    assert [part.first for part in parts] == [0, *(part.first + part.rows for part in parts[:-1])]
    assert sum(part.rows for part in parts) == rows
    files = -(-rows // file_rows)
    for part in parts:
        assert part.rows > 0
        assert part.first % file_rows % batch_rows == 0
        if part.first % file_rows or files < shards:  # within one file
            assert part.first // file_rows == (part.first + part.rows - 1) // file_rows
    batches = sum(-(-min(file_rows, rows - first) // batch_rows) for first in range(0, rows, file_rows))
    assert len(parts) <= shards
    if batches == rows or files >= shards:
        assert len(parts) >= min(shards, files)


def test_a_worker_without_the_folder_or_the_versions_does_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "_PATIENCE", ())
    home = Home.of(tmp_path)
    assert home.missing() == ""
    (tmp_path / MARK).write_text("of another run")
    assert f"{tmp_path}: expected a folder on a disk that all machines share, but a worker on " in home.missing()
    older = replace(home, versions=home.versions | {"torch": "2.1.0"})
    assert "the machine of this command 2.1.0: install the same versions on all machines" in older.missing()


class Ray:
    """Of the package ray, what tells of a cluster: machines with (cores, GPUs), and whether this process is connected."""

    def __init__(self, *machines: tuple[int, int], connected: bool = False) -> None:
        self.machines, self.connected, self.asked = machines, connected, []

    def is_initialized(self) -> bool:
        return self.connected

    def init(self, **_) -> None:
        self.asked.append("init")

    def shutdown(self) -> None:
        self.asked.append("shutdown")

    def nodes(self) -> list:
        alive = [{"Alive": True, "Resources": {"CPU": float(cpu), "GPU": float(gpu)}} for cpu, gpu in self.machines]
        return [*alive, {"Alive": False, "Resources": {"CPU": 512.0, "GPU": 8.0}}]


@pytest.fixture
def ray(monkeypatch):
    monkeypatch.setattr(cluster, "require_packages", lambda *_, **__: None)

    def put(*machines, **more) -> Ray:
        fake = Ray(*machines, **more)
        monkeypatch.setitem(sys.modules, "ray", fake)
        return fake

    return put


@pytest.mark.parametrize(
    ("machines", "cores", "gpu", "workers"),
    [
        ([(64, 0), (8, 4)], 2, True, 4),
        ([(64, 0), (8, 4), (6, 4)], 3, True, 2 + 2),
        ([(7, 0), (7, 0)], 4, True, 1 + 1),
        ([(64, 0), (8, 4)], 8, False, 8 + 1),
    ],
)
def test_workers_are_counted_by_the_room_of_each_machine(ray, tmp_path, machines, cores, gpu, workers):
    ray(*machines)
    with cluster.cluster("auto", tmp_path, cores=cores, gpu=gpu) as found:
        assert found.workers == workers


def test_more_threads_than_a_machine_with_a_gpu_has_are_refused(ray, tmp_path):
    there = ray((64, 0), (8, 4))
    said = "--threads 16: the largest machine with a GPU of the cluster has 8 cores; give fewer"
    with pytest.raises(BadSetting, match=said), cluster.cluster("auto", tmp_path, cores=16):
        pass
    assert there.asked == ["init", "shutdown"]
    assert not list(tmp_path.iterdir())


def test_a_process_that_is_connected_to_ray_stays_connected(ray, tmp_path):
    there = ray((2, 0), connected=True)
    with cluster.cluster("auto", tmp_path) as found:
        assert found.workers == 2
    assert there.asked == []


def test_a_worker_whose_torch_does_not_see_its_gpu_does_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster.console, "quiet", False)
    monkeypatch.setattr(cluster.torch.cuda, "is_available", lambda: False)
    task = Task(tmp_path / "task", "shard", "1/2", dict)
    kind, said = cluster.work(task, Home.of(tmp_path), 1, 1)
    assert kind == REFUSED
    assert said.startswith(f"{platform.node()} gives this worker a GPU, and its torch {torch.__version__} sees none")
    assert not task.folder.exists()


@pytest.mark.cluster
def test_a_capture_on_ray_survives_the_death_of_a_worker(here, tmp_path):
    pytest.importorskip("ray", reason="ray is an extra")
    with ray_head(port=63792) as address:
        flags = [
            "--teacher",
            here / "teacher",
            "--data",
            here / "text.jsonl",
            "--length",
            16,
            "--kind",
            "drawn",
            "--threads",
            1,
        ]
        flags += ["--any-teacher", "--out", tmp_path / "out", "--ray", address, "--shards", 2]
        command = [sys.executable, "-m", "limbeck", "capture", *map(str, flags)]
        process = subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, text=True)
        kill_a_worker(lambda: list((tmp_path / "out" / SHARDS).glob("rows-*")), process)
        _, said = process.communicate(timeout=400)
    assert process.returncode == 0, said
    assert re.search(r"note: shard \d/2: its worker was lost \(\w+\); another continues", said), said
    assert bytes_of(tmp_path / "out") == bytes_of(here / "one")
