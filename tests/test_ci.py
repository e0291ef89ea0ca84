"""What `.ci/run` makes of its parts: each is run and timed, and its exit status is that of the whole."""

import re
import runpy
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
AHEAD = "make .venv-oldest/.ready"  # beside the parts, and at any time among them
PARTS = ["test", "lint", "types", "long", "docs", "site", "extras", "cluster", "recipes", "newest", "oldest"]

# Stands for make: says what it was asked, prints how tests end, and fails where it is told to.
MAKE = """#!/bin/sh
echo "make $*" >> "$CALLS"
echo "3 passed in 0.10s"
case " $FAILING " in *" $1 "*) exit 2 ;; esac
"""


def run(folder: Path, *, failing: str = "", data: bool = True) -> tuple[int, str, list[str]]:
    """Exit status, output and calls of make, of the script in a repository of its own."""
    (folder / "repository" / ".ci").mkdir(parents=True)
    shutil.copy(ROOT / ".ci" / "run", folder / "repository" / ".ci" / "run")
    (folder / "data" / "models").mkdir(parents=True)
    (folder / "bin").mkdir()
    (folder / "bin" / "make").write_text(MAKE)
    (folder / "bin" / "make").chmod(0o755)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(folder / "repository")]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"]):
        subprocess.run([*git, *command], check=True)
    process = subprocess.run(
        ["bash", str(folder / "repository" / ".ci" / "run")],
        env={
            "PATH": f"{folder / 'bin'}:/usr/local/bin:/usr/bin:/bin",
            "CALLS": str(folder / "calls"),
            "FAILING": failing,
            "LIMBECK_SMOLLM2": str(folder / "a file that is there already"),
            "LIMBECK_TEST_DATA": str(folder / ("data" if data else "nothing")),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    calls = (folder / "calls").read_text().splitlines() if (folder / "calls").exists() else []
    assert calls.count(AHEAD) == bool(calls)
    return process.returncode, process.stdout + process.stderr, [call for call in calls if call != AHEAD]


def test_all_parts_are_called_as_a_person_would_call_them(tmp_path):
    status, output, calls = run(tmp_path)
    assert status == 0
    assert calls == [f"make {part}" for part in PARTS]
    assert [found[1] for found in re.finditer(r"^ci: make (\w+) +\d+ s  passed$", output, re.MULTILINE)] == PARTS


@pytest.mark.parametrize("failing", ["test", "lint long", "oldest"])
def test_a_failing_part_is_reported_and_hides_no_other(failing, tmp_path):
    status, output, calls = run(tmp_path, failing=failing)
    assert status == 1
    assert calls == [f"make {part}" for part in PARTS]
    failed = [found[1] for found in re.finditer(r"^ci: make (\w+) +\d+ s  failed with 2$", output, re.MULTILINE)]
    assert failed == failing.split()


def test_without_the_folder_of_real_models_nothing_is_run(tmp_path):
    status, output, calls = run(tmp_path, data=False)
    assert (status, calls) == (1, [])
    assert "no folder models/" in output


def test_the_newest_versions_are_tested_where_they_are_others_than_the_pinned():
    others = runpy.run_path(str(ROOT / "constraints" / "newest.py"))["others"]
    pinned = "# made by pip\ntorch==2.13.0\nhuggingface_hub==1.2.0\nnumpy==2.4.6\n"
    same = {"torch": "2.13.0+cpu", "huggingface-hub": "1.2.0"}
    assert others(same, pinned) == []
    assert others({**same, "numpy": "2.5.0", "attrs": "26.1"}, pinned) == [
        "attrs 26.1, not pinned",
        "numpy 2.5.0, not 2.4.6",
    ]


def test_make_lets_python_keep_what_it_compiles_where_the_environment_forbids_it(tmp_path):
    """Every process would compile torch and Transformers again."""
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "set: ${PYTHONDONTWRITEBYTECODE-no}"\n')
    python.chmod(0o755)
    said = subprocess.run(
        ["make", "--silent", "--assume-old", ".venv/.ready", f"BIN={tmp_path}", "docs"],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout == "set: no\n"
