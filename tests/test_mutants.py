"""Tests of the tests: the statistics core changed on purpose, in a copy of the package, and the tests that must notice."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import limbeck
from tests.helpers.mutants import MUTANTS, Mutant

ROOT = Path(__file__).parent.parent
WARM = ROOT / "tests" / "helpers" / "warm.py"
IMPORTED = "ignore::pytest.PytestAssertRewriteWarning"  # plugins of pytest among what is imported by then
named = pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)


@named
def test_what_a_mutant_changes_is_there_once(mutant: Mutant):
    text = (Path(limbeck.__file__).parent / mutant.file).read_text(encoding="utf-8")
    assert text.count(mutant.original) == 1, f"{mutant.file}: write the mutant {mutant.name!r} anew"
    assert mutant.original != mutant.mutated


Failed = Callable[..., tuple[set[str], str]]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package, in which it is imported from."""
    folder = tmp_path_factory.mktemp("mutants")
    package = Path(limbeck.__file__).parent
    shutil.copytree(package, folder / "limbeck", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="module")
def failed(copy: Path) -> Iterator[Failed]:
    """Runs tests with the copy; gives which of them fail, and what pytest said."""
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, WARM], cwd=ROOT, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    pipes = process.stdin, process.stdout

    def run(*tests: str) -> tuple[set[str], str]:
        said = copy / "said"
        asked = {
            "package": str(copy),
            "arguments": ["-p", "no:xdist", "-p", "no:randomly", "-rf", "-W", IMPORTED, *tests],
        }
        print(json.dumps(asked | {"said": str(said)}), file=pipes[0], flush=True)
        status, text = pipes[1].readline(), said.read_text(encoding="utf-8")
        assert status.strip() in ("0", "1"), text
        return set(re.findall(r"^FAILED (\S+)", text, re.MULTILINE)), text

    with process:
        yield run
        process.stdin.close()


@pytest.mark.long
def test_the_tests_that_must_notice_pass_as_long_as_nothing_is_changed(failed: Failed):
    found, said = failed(*dict.fromkeys(test for mutant in MUTANTS for test in mutant.tests))
    assert not found, said


@pytest.mark.long
@named
def test_a_mutant_is_noticed(mutant: Mutant, copy: Path, failed: Failed):
    file = copy / "limbeck" / mutant.file
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace(mutant.original, mutant.mutated), encoding="utf-8")
    try:
        found, said = failed(*mutant.tests)
    finally:
        file.write_text(text, encoding="utf-8")
    for test in mutant.tests:
        assert any(one == test or one.startswith(f"{test}[") for one in found), said
