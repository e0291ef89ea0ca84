"""A capture whose shards the machines of a Ray cluster take is that of one process, byte by byte."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import limbeck
from limbeck.jobs.capture.spread import SHARDS, borders
from limbeck.jobs.common import cluster
from limbeck.jobs.common.cluster import MARK, Home
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
    monkeypatch.setattr(cluster, "_PATIENCE", ())
    home = Home.of(tmp_path)
    assert home.missing() == ""
    (tmp_path / MARK).write_text("of another run")
    assert f"{tmp_path}: expected a folder on a disk that all machines share, but a worker on " in home.missing()
    older = replace(home, versions=home.versions | {"torch": "2.1.0"})
    assert "the machine of this command 2.1.0: install the same versions on all machines" in older.missing()


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
