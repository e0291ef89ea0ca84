"""`make smollm2`: its stories, and its steps on a little of everything."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from limbeck.disk import sha256_of

ROOT = Path(__file__).parents[1]
HERE = ROOT / "examples" / "smollm2"


def test_the_stories_are_those_that_came_under_their_licence():
    digest = "cc46eb9ef3fd7dd5b07bc293135a313b019601f2d6d3d7f67ce3e6b1719f83a2"
    assert sha256_of(HERE / "stories.jsonl") == digest
    stories = [json.loads(line)["text"] for line in (HERE / "stories.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(stories) == len(set(stories)) == 863
    page = (HERE / "README.md").read_text(encoding="utf-8")
    assert "863 stories" in page
    assert "CDLA-Sharing-1.0" in page


def test_make_calls_the_steps():
    asked = subprocess.run(
        ["make", "-n", "smollm2", "OUT=runs/mine"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert 'sh examples/smollm2/run.sh "runs/mine"' in asked


@pytest.mark.extras
def test_all_steps_run_and_a_second_start_has_nothing_left_to_do(tmp_path):
    pytest.importorskip("xllamacpp", reason="the package xllamacpp is not installed")
    with (HERE / "stories.jsonl").open(encoding="utf-8") as file:
        (tmp_path / "few.jsonl").write_text("".join(line for line, _ in zip(file, range(80), strict=False)))
    (tmp_path / "bin").mkdir()
    for name, command in (("python", ""), ("limbeck", " -m limbeck")):
        (tmp_path / "bin" / name).write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)}{command} "$@"\n')
        (tmp_path / "bin" / name).chmod(0o755)
    fewer = {"TEACHER": "builtin:stdlib", "STORIES": str(tmp_path / "few.jsonl"), "STUDENT": "300k", "TOKENS": "5k"}
    environment = {**os.environ, **fewer, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}

    def run() -> str:
        command = ["sh", str(HERE / "run.sh"), "out"]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    said, out = run(), tmp_path / "out"
    assert "llama.cpp goes on with 'Once upon a time, there was a little'" in said
    assert said.endswith("report: out/student/report.html\n")
    assert (out / "student" / "report.html").is_file()
    (made,) = (out / "gguf").glob("*.gguf")
    (exported,) = json.loads((out / "gguf" / "export.json").read_text(encoding="utf-8"))["exports"]
    assert exported["compared"]["kl"]["value"] < 0.05  # so llama.cpp has run it
    before = {file: file.stat().st_mtime_ns for file in (made, out / "student" / "student" / "model.safetensors")}
    assert "llama.cpp goes on" in run()
    assert {file: file.stat().st_mtime_ns for file in before} == before
