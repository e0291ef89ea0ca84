"""A job stopped at each of its file operations, and run again on what was damaged since.

While a job runs, its folder is copied before each operation that changes something in it: that is what a process leaves that is
killed there. Jobs run in forks of this process, which has imported everything by then.
"""

import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import limbeck
from limbeck.disk import read_lines, sha256_of
from limbeck.errors import LimbeckError
from limbeck.models.save import save
from tests.helpers.models import llama, texts, write_teacher

Job = Callable[[Path], object]

_CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.link", "os.mkdir", "os.truncate", "os.chmod", "os.symlink"}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# What says when and how fast something was made, or is made of that.
_OF_ITS_TIME = {".lock", "run.json", "report.html", "README.md", "verdict.json", "readings.jsonl"}
_OF_ITS_TIME |= {"begun.json"}  # which nobody reads once cache.json, the manifest, is there
_SHAPE = "layers=2,hidden=32,heads=4,kv_heads=2,ffn=64"


def jobs(here: Path) -> dict[str, Job]:
    """Small jobs of each kind that keeps a folder, by name. Writes their teacher and text."""
    write_teacher(here)
    student = llama()
    student.model.generation_config.eos_token_id = [2, *range(40, 90)]  # so that its texts end
    save(student, here / "student")
    data = here / "text.jsonl"
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts(60)))
    asked: dict[str, Any] = {"teacher": str(here / "teacher"), "data": str(data), "threads": 1}
    return {
        "distil": lambda out: limbeck.distil(**asked, out=str(out), params="9k", tokens="2k", baselines="cut+ce"),
        "trimmed": lambda out: limbeck.distil(**asked, out=str(out), params="9k", tokens="2k", baselines=(), vocab=280),
        "capture": lambda out: limbeck.capture(**asked, out=str(out), length=32, tokens=640, params="9k", kind="drawn"),
        "written": lambda out: limbeck.capture(**asked, out=str(out), text=True, max_new_tokens=4, tokens=80),
        "pairs": lambda out: limbeck.capture(
            **asked,
            out=str(out),
            pairs=str(here / "student"),
            judge="likelihood",
            samples=2,
            max_new_tokens=8,
            tokens=160,
        ),
        "pretrain": lambda out: limbeck.pretrain(
            data=str(data), out=str(out), shape=_SHAPE, vocab=300, tokens="2k", batch_tokens=512, threads=1
        ),
    }


def forked(job: Callable[[], object]) -> str:
    """Runs a job in a fork of this process. Gives "" if it came to its end, else what it raised, or by what it was killed."""
    read, write = os.pipe()
    pid = os.fork()
    if pid:
        os.close(write)
        with os.fdopen(read) as pipe:
            said = pipe.read()
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return said or (f"status {status}" if status else "")
    try:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        torch.set_num_threads(1)
        job()
    except LimbeckError as error:
        os.write(write, f"{error}".encode())
    except BaseException as error:
        os.write(write, f"fault: {error!r}".encode())
    os._exit(0)


def stops(job: Job, out: Path, into: Path) -> list[Path]:
    """Runs a job into ``out`` and copies that before each change; gives the copies, of equal ones the first."""
    into.mkdir()

    def watched() -> None:
        watch(out, lambda number: shutil.copytree(out, into / f"{number:05d}") if out.exists() else None)
        job(out)

    assert forked(watched) == ""
    seen, kept = set[str](), []
    for copy in sorted(into.iterdir()):
        state = json.dumps(content(copy))
        if state not in seen:
            seen.add(state)
            kept.append(copy)
    return kept


def content(folder: Path) -> dict[str, str]:
    """The names in a folder, and the digest of each file."""
    return {
        re.sub(r"\.[0-9a-f]{16}\.tmp", ".tmp", path.relative_to(folder).as_posix()): ""
        if path.is_dir()
        else sha256_of(path)
        for path in sorted(folder.rglob("*"))
    }


def result(folder: Path) -> dict[str, Any]:
    """What came out of a job: all its names, and what is in each file, but for times and what is made of them."""
    found: dict[str, Any] = content(folder)
    for name in found:
        file = Path(name).name
        if file in _OF_ITS_TIME or file.startswith("cost"):
            found[name] = ""
        elif file == "metrics.jsonl":
            rows = read_lines(folder / name)
            found[name] = [
                {key: row[key] for key in row if key not in ("tokens_per_s", "peak_rss_gib")} for row in rows
            ]
    return found


def watch(out: Path, before: Callable[[int], object]) -> None:
    """Calls ``before`` with a number before each change in ``out``, for the rest of this process."""
    inside, number, root = False, 0, str(out)

    def change(path: object) -> None:
        nonlocal inside, number
        if inside or not isinstance(path, str | bytes | os.PathLike | int):
            return
        place = os.readlink(f"/proc/self/fd/{path}") if isinstance(path, int) else os.path.abspath(os.fsdecode(path))
        if not (place == root or place.startswith(root + os.sep)):
            return
        inside = True
        try:
            before(number)
            number += 1
        finally:
            inside = False

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event in _CHANGES:
            change(arguments[1] if event == "os.link" else arguments[0])
        elif event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITING:
            change(arguments[0])

    sys.addaudithook(hook)
    fsync = os.fsync

    def fsynced(descriptor: int) -> None:
        change(descriptor)
        fsync(descriptor)

    os.fsync = fsynced  # of which there is no event
