"""Says whether the newest versions that pyproject.toml allows are other ones than those of cpu.txt, with which the tests run.

usage: newest.py: asks pip, and ends with 0 where they are the same, so that no tests are left to run with them, else with 1.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent


def newest(torch: str) -> dict[str, str]:
    """The version of each package that pip would install for limbeck and its tests into an empty environment, by name.

    ``torch``: the requirement for it, since the newest has no build without CUDA.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        pip = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--report", str(report)]
        subprocess.run([*pip, "--quiet", torch, "--editable", f"{HERE.parent}[dev]"], check=True)
        found = [item["metadata"] for item in json.loads(report.read_text())["install"]]
    return {item["name"]: item["version"] for item in found if item["name"] != "limbeck"}


def others(found: dict[str, str], pinned: str) -> list[str]:
    """The packages of `found` whose version these constraints have otherwise or not at all: "numpy 2.5.0, not 2.4.6"."""
    pins = dict(line.split("==") for line in pinned.splitlines() if "==" in line)
    pins = {plain(name): version.strip() for name, version in pins.items()}
    return [
        f"{name} {version}, not {pins.get(plain(name), 'pinned')}"
        for name, version in sorted(found.items())
        if pins.get(plain(name)) != version.partition("+")[0]
    ]


def plain(name: str) -> str:
    """A package's name as indexes compare it."""
    return name.lower().replace("_", "-").replace(".", "-")


if __name__ == "__main__":
    pins = (HERE / "cpu.txt").read_text()
    (torch,) = (line for line in pins.splitlines() if line.startswith("torch=="))
    different = others(newest(torch), pins)
    same = "all versions are those of constraints/cpu.txt, with which the tests run"
    print(f"newest: {'; '.join(different) or same}")
    sys.exit(bool(different))
