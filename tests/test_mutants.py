"""Tests of the tests: the statistics core changed on purpose, in a copy of the package, and the tests that must notice."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import limbeck
from tests.helpers.mutants import MUTANTS, Mutant

ROOT = Path(__file__).parent.parent
named = pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)


@named
def test_what_a_mutant_changes_is_there_once(mutant: Mutant):
    text = (Path(limbeck.__file__).parent / mutant.file).read_text(encoding="utf-8")
    assert text.count(mutant.original) == 1, f"{mutant.file}: write the mutant {mutant.name!r} anew"
    assert mutant.original != mutant.mutated


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package, in which it is imported from."""
    folder = tmp_path_factory.mktemp("mutants")
    package = Path(limbeck.__file__).parent
    shutil.copytree(package, folder / "limbeck", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def failed(folder: Path, tests: tuple[str, ...]) -> tuple[set[str], str]:
    """Which of the tests fail with the package in a folder, and what pytest said."""
    environment = os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    asked = [sys.executable, "-m", "pytest", "-p", "no:xdist", "-p", "no:randomly", "-rf", *tests]
    answer = subprocess.run(asked, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert answer.returncode in (0, 1), answer.stdout + answer.stderr
    return set(re.findall(r"^FAILED (\S+)", answer.stdout, re.MULTILINE)), answer.stdout


@pytest.mark.long
def test_the_tests_that_must_notice_pass_as_long_as_nothing_is_changed(copy):
    found, said = failed(copy, tuple(dict.fromkeys(test for mutant in MUTANTS for test in mutant.tests)))
    assert not found, said


@pytest.mark.long
@named
def test_a_mutant_is_noticed(mutant: Mutant, copy: Path):
    file = copy / "limbeck" / mutant.file
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace(mutant.original, mutant.mutated), encoding="utf-8")
    try:
        found, said = failed(copy, mutant.tests)
    finally:
        file.write_text(text, encoding="utf-8")
    for test in mutant.tests:
        assert any(one == test or one.startswith(f"{test}[") for one in found), said
