"""What a user's type checker finds: wrong uses of the public functions are errors, right ones are none."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

RIGHT = """\
from pathlib import Path

import limbeck
from limbeck import TAID, LimbeckError, Objective, capture, distil, plan


def best(objective: Objective) -> Path:
    try:
        result = distil("run.toml", teacher="teacher", params="6M", objective=objective, lr=1e-3, schedule="cosine")
    except LimbeckError as error:
        print(error)
        raise
    loss: float = result.readings["student"]["held_out"].value
    print(loss, result.verdict, result["out"])
    return result.student


def cached() -> str:
    kept = capture(teacher="teacher", data="my.jsonl", codec="top-k", out=Path("logits"))
    answer = plan(params="600M", tokens="10B", candidates=["1.5B", "4B"])
    student: Path = best(TAID(start=0.2))
    print(limbeck.probe(str(student), teacher="teacher").readings["held_out"].low, kept.bytes)
    return answer.json()
"""
WRONG = """\
from limbeck import distil, plan

distil(techer="teacher")
plan(params="600M").verdict
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("typed")
    (folder / "right.py").write_text(RIGHT)
    (folder / "wrong.py").write_text(WRONG)
    return folder


@pytest.mark.long
def test_mypy_finds_wrong_uses_and_no_others(folder):
    """Torch and its like are not followed, which would take a minute: to the checker they are Any, as they are to limbeck."""
    others = "\n".join(
        f"[mypy-{name}.*]\nfollow_imports = skip" for name in ("torch", "numpy", "transformers", "pydantic")
    )
    (folder / "mypy.ini").write_text(
        f"[mypy]\nstrict = true\nfollow_imports = silent\nignore_missing_imports = true\n{others}\n"
    )
    command = [sys.executable, "-m", "mypy", "--no-error-summary", "--hide-error-context", "right.py", "wrong.py"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert [line for line in done.stdout.splitlines() if ": note: " not in line] == [
        'wrong.py:3: error: Unexpected keyword argument "techer" for "distil"; did you mean "teacher"?  [call-arg]',
        'wrong.py:4: error: "PlanResult" has no attribute "verdict"  [attr-defined]',
    ], done.stdout + done.stderr


@pytest.mark.long
def test_pyright_finds_wrong_uses_and_no_others(folder):
    places = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    pyright = shutil.which("basedpyright", path=places) or shutil.which("pyright", path=places)
    if pyright is None:
        pytest.skip("neither basedpyright nor pyright is installed")
    settings = {"typeCheckingMode": "standard", "include": ["right.py", "wrong.py"]}
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    command = [pyright, "--outputjson", "--pythonpath", sys.executable]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    found = json.loads(done.stdout)["generalDiagnostics"]
    errors = [
        (Path(one["file"]).name, one["range"]["start"]["line"] + 1, one["rule"])
        for one in found
        if one["severity"] == "error"
    ]
    assert errors == [("wrong.py", 3, "reportCallIssue"), ("wrong.py", 4, "reportAttributeAccessIssue")]
