"""The pages on adding an objective, mixer, probe, source, paper and exporter: what they show is installed as written and run."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.models import texts, write_corpus, write_teacher

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs" / "how-to").glob("add-*.md"))


def blocks(page: Path, kind: str) -> list[str]:
    """The code of a kind in a page."""
    return re.findall(rf"^```{kind}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("extending")
    write_teacher(folder)
    write_corpus(folder)
    (folder / "notes.txt").write_text("\n\n".join(texts(60)), encoding="utf-8")
    return folder


def installed(folder: Path, page: Path) -> dict[str, str]:
    """The page's package as pip leaves it, and the environment of a process that has it."""
    (code, *_), (entries,) = blocks(page, "python"), blocks(page, "toml")
    (folder / "mine.py").write_text(code, encoding="utf-8")
    info = folder / "mine-0.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 0.1\n")
    entries = re.sub(r'\[project\.entry-points\."(.*)"\]', r"[\1]", entries).replace('"', "")
    (info / "entry_points.txt").write_text(entries)
    return {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}


def test_there_is_a_page_for_each_kind():
    kinds = {"objective", "mixer", "probe", "source", "paper", "exporter"}
    assert {page.stem.removeprefix("add-a-").removeprefix("add-an-") for page in PAGES} == kinds


@pytest.mark.long
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_a_page_shows_runs(page, place, tmp_path):
    (tmp_path / "site").mkdir()
    env = installed(tmp_path / "site", page)
    commands = [line for text in blocks(page, "sh") for line in text.splitlines()]
    assert commands
    for command in commands:
        name, *words = shlex.split(command)
        assert name == "limbeck"
        done = subprocess.run(
            [sys.executable, "-m", "limbeck", *words], cwd=place, env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


@pytest.mark.long
@pytest.mark.parametrize("kind", ["a-mixer", "a-probe", "an-objective"])
def test_the_test_of_a_page_passes(kind, tmp_path):
    page = ROOT / "docs" / "how-to" / f"add-{kind}.md"
    env = installed(tmp_path, page)
    _, test = blocks(page, "python")
    (tmp_path / "test_mine.py").write_text(test, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "test_mine.py"], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
