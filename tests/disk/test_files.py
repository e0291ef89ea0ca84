"""Files on disk are complete or absent, written by one process at a time, and never through a link."""

import errno
import fcntl
import json
import os
import re
import socket
import stat
import threading
from pathlib import Path

import numpy as np
import pytest

import limbeck
from limbeck.corpora import build_stores
from limbeck.disk import (
    claims,
    locked,
    new_file,
    open_in_place,
    read_json,
    release,
    remove_beside,
    replacing,
    take,
    whole_folder,
    write_text,
)
from limbeck.errors import BadFolder
from limbeck.jobs.capture.merge import merge
from limbeck.jobs.common.folder import claim
from limbeck.models.save import save
from limbeck.run.log import Metrics
from tests.helpers.held import held_elsewhere
from tests.helpers.models import llama, texts, tokenizer, write_teacher


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    write_teacher(folder)
    (folder / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts(60)))
    return folder


def keys(here: Path, out: Path) -> dict[str, object]:
    return {"teacher": str(here / "teacher"), "data": str(here / "text.jsonl"), "out": str(out)}


COMMANDS = {
    "distil": lambda here, out: limbeck.distil(**keys(here, out), params="9k", tokens="2k"),
    "family": lambda here, out: limbeck.distil(**keys(here, out), params="9k,12k", tokens="2k"),
    "capture": lambda here, out: limbeck.capture(**keys(here, out), length=32),
    "written": lambda here, out: limbeck.capture(**keys(here, out), text=True, max_new_tokens=4, tokens=8),
    "pretrain": lambda here, out: limbeck.pretrain(
        data=str(here / "text.jsonl"),
        out=str(out),
        shape="layers=2,hidden=32,heads=4,kv_heads=2,ffn=64",
        vocab=300,
        tokens="2k",
    ),
    "shrink": lambda here, out: limbeck.shrink(**keys(here, out), params="9k", length=32),
    "pilot": lambda here, out: limbeck.pilot(data=str(here / "text.jsonl"), out=str(out), scale="smoke"),
    "probe": lambda here, out: limbeck.probe(str(here / "teacher"), data=str(here / "text.jsonl"), out=str(out)),
    "reproduce": lambda here, out: limbeck.reproduce("zoology", out=str(out), scale="smoke"),
    "merge": lambda here, out: merge(out, [here / "answers"]),
}


@pytest.mark.long
@pytest.mark.parametrize("command", COMMANDS)
def test_a_second_command_in_a_folder_names_the_first(command, here, tmp_path):
    if command == "merge":
        limbeck.capture(**keys(here, here / "answers"), length=32, tokens=64)
    with held_elsewhere(tmp_path / "out") as pid, pytest.raises(BadFolder) as caught:
        COMMANDS[command](here, tmp_path / "out")
    expected = (
        rf"{re.escape(str(tmp_path / 'out'))}: another limbeck process \(pid {pid}, host {socket.gethostname()}, "
        r"since 20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00\) is writing to it: nothing was done\. Wait for its end, or give another "
        r"--out\."
    )
    assert re.fullmatch(expected, str(caught.value))
    assert list((tmp_path / "out").iterdir()) == []


def test_a_folder_is_free_when_its_job_has_ended(tmp_path):
    with claims():
        claim(tmp_path / "out", {"job": "a"})
        assert (tmp_path / "out" / ".lock").exists()
        with held_by_thread(tmp_path / "out") as refused:
            assert "another limbeck process" in str(refused)
        claim(tmp_path / "out", {"job": "a"})  # the same job may look again
    assert not (tmp_path / "out" / ".lock").exists()
    with held_by_thread(tmp_path / "out") as refused:
        assert refused is None


class held_by_thread:
    """The error of another thread of this process that needs the folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.error = folder, None

    def __enter__(self) -> Exception | None:
        def work() -> None:
            try:
                with locked(self.folder):
                    pass
            except BadFolder as error:
                self.error = error

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        return self.error

    def __exit__(self, *_: object) -> None: ...


def test_a_lock_that_was_left_by_a_killed_process_binds_nobody(tmp_path):
    (tmp_path / ".lock").write_text('{"pid": 1, "host": "elsewhere", "since": "2020-01-01T00:00:00+00:00"}')
    with locked(tmp_path):
        assert read_json(tmp_path / ".lock")["pid"] == os.getpid()
    assert not (tmp_path / ".lock").exists()


def test_the_holder_of_a_lock_cannot_write_to_the_terminal_of_another_process(tmp_path):
    with (tmp_path / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write('{"pid": "\\u001b[31m1", "host": "[red]", "since": "now"}')
        file.flush()
        with pytest.raises(BadFolder, match=r"another limbeck process \(since now\) is writing"):
            take(tmp_path)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_a_warning_and_nothing_is_removed(number, tmp_path, monkeypatch, capsys):
    def none(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", none)
    left = tmp_path / f".x.json.{'a' * 16}.tmp"
    write_text(tmp_path / "run.json", '{"signature": {"job": "a"}}')
    left.touch()
    with claims():
        claim(tmp_path, {"job": "a"})
    assert f"the file system of {tmp_path} has no locks ({os.strerror(number)})" in capsys.readouterr().err
    assert left.exists()  # perhaps another is writing it


@pytest.mark.parametrize(
    "name",
    [
        f".run.json.{'0123456789abcdef'}.tmp",
        ".tmpA1b2C3",  # of safetensors
        ".merge.json.4711",
        ".step-000020.999",
        ".student.partial-1",
        ".student.older-1",
        ".building",
        ".held_out.building",
        ".tokenizer",
        ".student",
        ".answers-000000000000.arrow",
        ".teacher-seed0.safetensors",
    ],
)
def test_what_a_killed_process_left_goes_at_the_next_start(name, tmp_path):
    out = tmp_path / "out"
    with claims():
        claim(out, {"job": "a"})
    (out / "deep" / name).mkdir(parents=True)
    (out / "deep" / name / "half").touch()
    (out / name).touch()
    (out / ".mine").touch()
    with claims():
        claim(out, {"job": "a"})
    assert (
        sorted(path.name for path in out.rglob("*"))
        == [".lock", ".mine", "deep", "run.json"][0 if (out / ".lock").exists() else 1 :]
    )


def test_in_a_folder_of_someone_else_nothing_is_removed(tmp_path):
    (tmp_path / "thesis.txt").touch()
    (tmp_path / ".tokenizer").mkdir()
    with claims(), pytest.raises(BadFolder, match=r"holds no run \(it holds thesis\.txt\)"):
        claim(tmp_path, {"job": "a"})
    assert sorted(path.name for path in tmp_path.iterdir()) == [".tokenizer", "thesis.txt"]


# Links that someone put where limbeck writes: none is followed.


@pytest.fixture
def victim(tmp_path) -> Path:
    (tmp_path / "victim").write_text("precious")
    return tmp_path / "victim"


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("use", ["lock", "own_file", "metrics", "fresh", "text", "replacing"])
def test_no_file_is_written_through_a_link(use, hard, victim, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    target = out / (".lock" if use == "lock" else "metrics.jsonl")
    os.link(victim, target) if hard else target.symlink_to(victim)
    refused = use in ("lock", "own_file")
    if refused:
        with pytest.raises(BadFolder, match="got a link: it is not followed"):
            take(out) if use == "lock" else open_in_place(target)
    elif use == "metrics":
        victim.write_text('{"step": 1, "tokens": 4}\n')
        with Metrics(target, step=1) as metrics:
            metrics.add({"step": 2, "tokens": 8})
        assert victim.read_text() == '{"step": 1, "tokens": 4}\n'
        return
    elif use == "fresh":
        np.lib.format.open_memmap(new_file(target), mode="w+", dtype=np.int8, shape=(3,))
    elif use == "text":
        write_text(target, "ours")
    else:
        with replacing(target) as beside:
            assert stat.S_ISREG(beside.lstat().st_mode)
            beside.write_text("ours")
    assert victim.read_text() == "precious"
    if not refused:
        assert not target.is_symlink()
        assert os.stat(target).st_nlink == 1


LINKED = (
    "data",
    "cut",
    "baselines",
    "metrics.jsonl",
    "seeds",
    "measurements",
    "student",
    "readings.jsonl",
    "report.html",
)


@pytest.mark.parametrize("name", LINKED)
def test_a_run_does_not_begin_where_a_link_was_planted(name, here, tmp_path):
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    with claims():
        claim(out, {"job": "a"})
    elsewhere.mkdir()
    (out / name).symlink_to(elsewhere)
    with pytest.raises(BadFolder, match=rf"{name}: expected a file or folder of limbeck's own, got a link"):
        COMMANDS["distil"](here, out)
    assert list(elsewhere.iterdir()) == []


def test_links_to_the_folder_itself_are_the_users_business(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "runs").symlink_to(tmp_path / "disk")
    with claims():
        claim(tmp_path / "runs" / "first", {"job": "a"})
    assert read_json(tmp_path / "disk" / "first" / "run.json")["signature"] == {"job": "a"}


def test_a_model_or_a_store_is_not_written_through_a_link(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "student").symlink_to(elsewhere)
    with pytest.raises(BadFolder, match="student: expected a file or folder of limbeck's own, got a link"):
        save(llama(tok=tokenizer()), tmp_path / "student")
    (tmp_path / "text.txt").write_text("\n<|endoftext|>\n".join(texts()))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train").symlink_to(elsewhere)
    with pytest.raises(BadFolder, match="train: expected a file or folder of limbeck's own, got a link"):
        build_stores(str(tmp_path / "text.txt"), tokenizer(), tmp_path / "data")
    assert list(elsewhere.iterdir()) == []


def test_names_of_temporaries_cannot_be_guessed(tmp_path):
    names = set()
    for _ in range(2):
        with replacing(tmp_path / "a") as beside:
            names.add(beside.name)
        with whole_folder(tmp_path / "b") as beside:
            names.add(beside.name)
            (beside / "x").touch()
    assert len(names) == 4
    assert all(re.fullmatch(r"\.[ab]\.[0-9a-f]{16}\.tmp", name) for name in names)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_only_what_killed_processes_left_of_a_folder_itself_is_removed_beside_it(tmp_path):
    left = [tmp_path / f".{name}.0123456789abcdef.tmp" for name in ("out", "out.x", "other")]
    for folder in left:
        folder.mkdir()
        (folder / "part").write_text("half")
    (tmp_path / ".out.notours.tmp").mkdir()
    take(tmp_path / "out")
    remove_beside(tmp_path / "out")
    release(tmp_path / "out")
    assert [folder.exists() for folder in left] == [False, True, True]
    assert (tmp_path / ".out.notours.tmp").exists()
    left[0].mkdir()
    remove_beside(tmp_path / "out")  # without the lock
    assert left[0].exists()
