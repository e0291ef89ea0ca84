"""The scripts and notebooks of examples/ are run as a reader would run them, with fewer tokens."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
FEWER = {"first_student.py": ["3k"], "own_objective.py": ["3"]}
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))


def python(arguments: list[str], folder: Path) -> str:
    """What Python prints in a folder that is not the repository's."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    process = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


def test_every_example_is_tried():
    assert {file.name for file in EXAMPLES.glob("*.py")} == set(FEWER)
    assert NOTEBOOKS


@pytest.mark.docs
@pytest.mark.parametrize("name", sorted(FEWER))
def test_a_script_runs(name, tmp_path):
    printed = python([str(EXAMPLES / name), *FEWER[name]], tmp_path)
    assert "student" in printed.splitlines()[-1]
    assert list(tmp_path.glob("runs/*/student/model.safetensors"))


@pytest.mark.docs
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.name)
def test_the_cells_of_a_notebook_run(notebook, tmp_path):
    """In one namespace, one after the other, as a kernel would."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    (tmp_path / "cells.py").write_text("\n".join(sources).replace('"100k"', '"3k"'), encoding="utf-8")
    assert "nats per token" in python(["cells.py"], tmp_path)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.name)
def test_a_notebook_is_kept_without_its_outputs(notebook):
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    assert all(
        cell["outputs"] == [] and cell["execution_count"] is None for cell in cells if cell["cell_type"] == "code"
    )
