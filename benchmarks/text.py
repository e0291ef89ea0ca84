"""Token stores of made text of several sizes: the memory that a build and a reading of rows take, and a build that is killed.

    python benchmarks/text.py
    python benchmarks/text.py --size 40GB --folder /big/disk --processes 8 --out text.json

Text is made into files (documents of about a thousand characters, some of which occur again), tokenised with the tokenizer that
comes with limbeck, and read in rows of 1,024 tokens: an eighth of the size first, then all of it. Each build is a process of its
own, and memory is its private memory and that of its tokenising processes, sampled ten times a second, less what was taken before
the first document. Flat means: the peak of the whole is that of the eighth, within a tenth and 32 MiB.

Once more the whole is built by a process that is ended by SIGKILL three times, and continued; the stores have to have the same
bits. Files, stores and figures that are there are used again, so the same command goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import random
import re
import resource
import shutil
import time
from pathlib import Path
from typing import Any

import psutil
from circumstances import made_by

UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
FILE = 64 * 10**6  # bytes of a file, about
AGAIN = 0.02  # the share of documents that occur twice
KILLS = (0.2, 0.5, 0.8)  # of the seconds of a whole build
MIB = 2**20
_SPAWN = multiprocessing.get_context("spawn")


def main() -> None:
    """Prints and writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=_bytes, default=5 * 10**9, help="bytes of text, such as 500MB (default 5GB)")
    parser.add_argument("--folder", type=Path, default=Path(".bench/text"), help="where text and stores are made")
    parser.add_argument("--processes", type=int, default=2, help="processes that tokenise (default 2)")
    parser.add_argument("--no-kills", action="store_true", help="leave out the build that is killed")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    arguments = parser.parse_args()
    how = {"processes": arguments.processes}
    small, large = (make(arguments.folder / str(size), size) for size in (arguments.size // 8, arguments.size))
    found: dict[str, Any] = {"eighth": built(small, **how), "whole": built(large, **how)}
    for name, one in found.items():
        print(shown(name, one), flush=True)
    if not arguments.no_kills:
        found["killed"] = killed(large, found["whole"], **how)
        print(f"ended {found['killed']['kills']} times: the same bits: {found['killed']['same']}", flush=True)
    found["flat"] = {
        what: found["whole"][what] <= 1.1 * found["eighth"][what] + 32 for what in ("build_mib", "deduplicated_mib")
    }
    print(f"flat: {found['flat']}")
    if arguments.out:
        arguments.out.write_text(json.dumps(made_by("tokenizers", "pyarrow") | how | found, indent=1) + "\n")


def _bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+)([KMG]?B?)", text, re.IGNORECASE)
    if match is None or match[2].upper() not in UNITS:
        raise argparse.ArgumentTypeError(f"expected a size such as 500MB, got {text!r}")
    return int(match[1]) * UNITS[match[2].upper()]


def make(folder: Path, size: int) -> Path:
    """Files of JSON lines with so many bytes of text, made one by one; those that are there stay."""
    folder.mkdir(parents=True, exist_ok=True)
    words = _words()
    for number in range(max(1, -(-size // FILE))):
        path = folder / "text" / f"{number:05d}.jsonl"
        if path.exists():
            continue
        path.parent.mkdir(exist_ok=True)
        draw, held, before = random.Random(number), 0, ""
        beside = path.with_suffix(".part")
        with beside.open("w", encoding="utf-8") as file:
            while held < min(FILE, size - number * FILE):
                if not before or draw.random() >= AGAIN:
                    before = " ".join(draw.choices(words, k=draw.randint(20, 300)))
                held += file.write(json.dumps({"text": before}) + "\n")
        beside.replace(path)
    return folder


def _words() -> list[str]:
    """The words of the texts: syllables, the shorter the more frequent."""
    draw = random.Random(0)
    syllables = [a + b for a in "bdfgklmnprstv" for b in "aeiou"]
    return ["".join(draw.choices(syllables, k=min(4, 1 + i // 100))) for i in range(2000)]


def built(folder: Path, *, processes: int) -> dict[str, Any]:
    """Figures of a build, of one that leaves out duplicates, and of reading rows; kept in the folder."""
    kept = folder / "figures.json"
    if kept.exists():
        found: dict[str, Any] = json.loads(kept.read_text())
        return found
    found = {"bytes": sum(path.stat().st_size for path in (folder / "text").iterdir())}
    for name, dedup in (("build", False), ("deduplicated", True)):
        shutil.rmtree(folder / name, ignore_errors=True)
        found |= {f"{name}_{key}": value for key, value in _watched(_build, folder, name, processes, dedup).items()}
    found["digest"] = _digest(folder / "build")
    found |= {f"rows_{key}": value for key, value in _watched(_read, folder / "build").items()}
    manifest = json.loads((folder / "build" / "train" / "manifest.json").read_text())
    found |= {name: manifest[name] for name in ("documents", "tokens")} | {"shards": len(manifest["shards"])}
    kept.write_text(json.dumps(found, indent=1))
    return found


def killed(folder: Path, whole: dict[str, Any], *, processes: int) -> dict[str, Any]:
    """The same build, ended from outside some times and continued; whether the store has the same bits."""
    shutil.rmtree(folder / "killed", ignore_errors=True)
    kills = 0
    for share in KILLS:
        process = _SPAWN.Process(target=_build, args=(None, folder, "killed", processes, False))
        process.start()
        process.join(share * whole["build_seconds"])
        if process.is_alive():
            below = psutil.Process(process.pid).children(recursive=True)
            process.kill()
            process.join()
            kills += 1
            psutil.wait_procs(below, timeout=60)  # which end by themselves
    found = _watched(_build, folder, "killed", processes, False)
    return {"kills": kills, "same": _digest(folder / "killed") == whole["digest"], "last_seconds": found["seconds"]}


def _watched(job: Any, *how: Any) -> dict[str, float]:
    """(private memory in MiB above that before the job began, seconds, CPU seconds) of a job in a process of its own."""
    ours, theirs = _SPAWN.Pipe()
    process = _SPAWN.Process(target=job, args=(theirs, *how))
    process.start()
    assert process.pid is not None
    theirs.close()
    ours.recv()  # imported
    begun, before, peak = time.monotonic(), _private(process.pid), 0.0
    workers: dict[int, float] = {}  # of each its memory when it was seen first
    while process.is_alive():
        here = psutil.Process(process.pid) if psutil.pid_exists(process.pid) else None
        below = here.children(recursive=True) if here else []
        now = 0.0
        for child in below:
            took = _private(child.pid)
            workers[child.pid] = min(workers.get(child.pid, took), took)
            now += took - workers[child.pid]
        peak = max(peak, _private(process.pid) - before + now)
        process.join(0.1)
    if process.exitcode:
        raise SystemExit(f"{job.__name__} ended with {process.exitcode}")
    return {"mib": round(peak, 1), "seconds": round(time.monotonic() - begun, 1), "cpu_seconds": ours.recv()}


def _private(pid: int) -> float:
    """Memory of a process that no other has, without mapped files, in MiB."""
    try:
        return float(psutil.Process(pid).memory_full_info().uss / MIB)
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
        return 0.0


def _build(pipe: Any, folder: Path, name: str, processes: int, dedup: bool) -> None:
    from limbeck.corpora import Records, build_stores
    from limbeck.models.load import load_tokenizer
    from limbeck.models.source import resolve

    tokenizer = load_tokenizer(resolve("builtin:stdlib"))
    _say(pipe, None)
    how: dict[str, Any] = {"records": Records(dedup=dedup), "processes": processes}
    build_stores(str(folder / "text"), tokenizer, folder / name, **how)
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    _say(pipe, round(sum(one.ru_utime + one.ru_stime for one in used), 1))


def _read(pipe: Any, folder: Path) -> None:
    from limbeck.corpora import Rows, TokenStore

    _say(pipe, None)
    rows = Rows(TokenStore.open(folder / "train"), length=1024)
    for _ in range(500):
        rows.take(8)
    used = resource.getrusage(resource.RUSAGE_SELF)
    _say(pipe, round(used.ru_utime + used.ru_stime, 1))


def _say(pipe: Any, value: Any) -> None:
    if pipe is not None:
        pipe.send(value)


def _digest(folder: Path) -> str:
    """SHA-256 of all shards of a store's two sides."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*.arrow")):
        found.update(f"{path.relative_to(folder)} {path.stat().st_size}".encode())
        with path.open("rb") as file:
            found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()


def shown(name: str, found: dict[str, Any]) -> str:
    """A line about a size."""
    rate = found["bytes"] / 1e6 / found["build_cpu_seconds"]
    return (
        f"{name}: {found['bytes'] / 1e9:.2f} GB, {found['tokens']:,} tokens in {found['shards']} shards; "
        f"build {found['build_mib']} MiB, "
        f"{rate:.2f} MB a CPU-second; without duplicates {found['deduplicated_mib']} MiB; rows {found['rows_mib']} MiB"
    )


if __name__ == "__main__":
    main()
