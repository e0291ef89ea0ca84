"""Finished trainings of a study that takes longer than a machine is free: kept in one file, and put back on another machine.

usage: finished.py keep RUN FILE writes the results of RUN's trainings to FILE (.json.xz). finished.py put FILE RUN puts those
that RUN lacks into it: begin the study there and stop it once it has its text, which must be the same. The study's own command
then trains what is left.
"""

import json
import lzma
import sys
from pathlib import Path

from limbeck.disk import read_json, replacing, write_json

KEPT, TEXT = (
    ("**/result.json", "converted/*.json"),
    "text/run.json",
)  # trainings, and what others trained was measured as


def keep(run, file):
    """Writes the results of a run's trainings, by file, and the digests of its text. Raises SystemExit without either."""
    run = Path(run)
    files = sorted(path for pattern in KEPT for path in run.glob(pattern))
    if not files or text_in(run) is None:
        raise SystemExit(f"{run}: expected the folder of a study with its text and finished trainings, found none")
    kept = {
        "text": text_in(run),
        "results": {path.relative_to(run).as_posix(): json.loads(path.read_text("utf-8")) for path in files},
    }
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    with replacing(Path(file)) as new:
        new.write_bytes(lzma.compress(json.dumps(kept, separators=(",", ":")).encode()))
    print(f"{file}: {len(files)} results")


def put(file, run):
    """Writes the results that a run lacks. Raises SystemExit where its text is another, or a result goes out of its folder."""
    run, kept = Path(run), json.loads(lzma.decompress(Path(file).read_bytes()))
    if text_in(run) != kept["text"]:
        raise SystemExit(f"{run / TEXT}: expected the text with the digests {kept['text']}, got {text_in(run)}")
    lacking = {run / name: result for name, result in kept["results"].items() if not (run / name).exists()}
    for path, result in lacking.items():
        if not path.resolve().is_relative_to(run.resolve()):
            raise SystemExit(f"{file}: expected results of {run}, got one of {path}")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, result)
    print(f"{run}: {len(lacking)} of {len(kept['results'])} results put there")


def text_in(run):
    """The digests of a run's text, None before it has one."""
    return read_json(run / TEXT)["text"] if (run / TEXT).exists() else None


if __name__ == "__main__":
    job, *names = sys.argv[1:]
    {"keep": keep, "put": put}[job](*names)
