"""benchmarks/gpu.sh does nothing without a GPU, runs all of its parts with one, and names those that are missing."""

import os
import re
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu.sh"


def ran(folder: Path, python: str) -> tuple[int, str, list[str]]:
    """Exit code, output and the kept files of the script with this shell script in the place of Python."""
    (folder / "python").write_text(f"#!/bin/sh\n{python}\n")
    (folder / "python").chmod(0o755)
    there = os.environ | {"PYTHON": str(folder / "python"), "OUT": str(folder / "out")}
    done = subprocess.run(["bash", str(SCRIPT)], env=there, capture_output=True, text=True, check=False)
    kept = sorted(path.name for path in (folder / "out").glob("*")) if (folder / "out").exists() else []
    return done.returncode, done.stdout, kept


def test_without_a_gpu_it_says_so_and_does_nothing(tmp_path):
    code, said, kept = ran(tmp_path, "exit 1")
    assert (code, said, kept) == (0, "no GPU here (PyTorch finds no CUDA device): nothing was run\n", [])


@pytest.mark.parametrize("fails", [False, True])
def test_with_one_it_runs_everything_and_names_what_failed(tmp_path, fails):
    code, said, kept = ran(tmp_path, f'case "$*" in *gpu_steps*) exit {3 * fails};; esac; echo "ran $*"')
    assert kept == ["jobs.txt", "kernels.txt", "losses-bfloat16.txt", "losses-float32.txt", "steps.txt"]
    assert said.count("ran -m pytest -q -m gpu") == 2
    missing = said.partition("missing:")[2]
    assert ("steps: ended with exit code 3; see" in missing) == fails
    assert code == 0 or "nvidia-smi" in missing or fails


def test_its_parts_have_eight_minutes():
    lines = SCRIPT.read_text().splitlines()
    seconds = [int(found[1]) for line in lines if (found := re.match(r" *part \S+ (\d+) ", line))]
    losses = sum(line.startswith("losses ") for line in lines)
    assert losses == 2
    assert sum(seconds) + (losses - 1) * 45 <= 8 * 60 - 30  # importing PyTorch, and the end
    for name in re.findall(r"tests/\S+|benchmarks/\w+\.py", SCRIPT.read_text()):
        assert (SCRIPT.parents[1] / name).exists()
