"""A wheel is built from the files under version control, installed into a fresh environment, and used without the repository."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# The libraries are those of this environment: a .pth file names their folders and runs none of their own .pth files, among
# which would be the one that leads to the repository.
LIBRARIES = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]


def run(command: list[str], folder: Path) -> str:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "LIMBECK"))}
    process = subprocess.run(
        command, cwd=folder, env={**environment, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


def sources() -> list[str]:
    """What the build reads, without what other builds left."""
    listed = run(["git", "ls-files", "--cached", "--others", "--exclude-standard"], ROOT).splitlines()
    return [name for name in listed if (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with ``wheels/`` and an environment ``env/`` into which the wheel was installed."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in sources():
        if name.startswith("src/") or "/" not in name:
            (folder / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / "tree" / name)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-build-isolation", "--no-deps", "--no-index", "--wheel-dir", "wheels", "./tree"]
    run(build, folder)
    run([sys.executable, "-m", "venv", "--without-pip", "env"], folder)
    (packages,) = (folder / "env").glob("lib/python*/site-packages")
    (packages / "libraries.pth").write_text("\n".join(LIBRARIES), encoding="utf-8")
    (wheel,) = (folder / "wheels").glob("limbeck-*.whl")
    install = [
        "--python",
        str(folder / "env" / "bin" / "python"),
        "install",
        "--no-deps",
        "--no-index",
        "--force-reinstall",
    ]
    run([*pip, *install, str(wheel)], folder)
    return folder


@pytest.mark.long
def test_an_installed_wheel_distils_without_the_repository(place):
    python, limbeck = place / "env" / "bin" / "python", place / "env" / "bin" / "limbeck"
    where = run([str(python), "-c", "import limbeck; print(limbeck.__file__)"], place).strip()
    assert Path(where).is_relative_to(place / "env")
    short = [
        "--text-tokens",
        "10k",
        "--tokens",
        "2k",
        "--baselines",
        "none",
        "--threads",
        "1",
        "--json",
        "--out",
        "runs/first",
    ]
    answer = json.loads(run([str(limbeck), "distil", *short], place).splitlines()[-1])
    assert answer["readings"]["student"]["held_out"]["n"] > 0
    assert "<html" in (place / "runs" / "first" / "report.html").read_text(encoding="utf-8")


@pytest.mark.long
def test_a_wheel_holds_what_the_package_reads_and_nothing_else(place):
    """Data beside the code is there: the teacher that is shipped, pages, criteria, the mark that types are checked."""
    (packages,) = (place / "env").glob("lib/python*/site-packages")
    installed = {
        str(path.relative_to(packages / "limbeck")) for path in (packages / "limbeck").rglob("*") if path.is_file()
    }
    here = {name.removeprefix("src/limbeck/") for name in sources() if name.startswith("src/limbeck/")}
    assert {name for name in installed if "__pycache__" not in name} == here
    assert not (packages / "tests").exists()
