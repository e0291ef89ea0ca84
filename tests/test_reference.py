"""The reference pages, the stub of the Python functions and the run files are what the settings make of them."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from limbeck.config import DistilSettings, PlanSettings, settings_in
from limbeck.config.values import shown_count
from limbeck.planning.laws.distillation import COMPUTE_OPTIMAL
from limbeck.run.optim import COSINE

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def generate():
    return runpy.run_path(str(ROOT / "docs" / "reference" / "generate.py"))


def test_the_pages_are_those_of_todays_settings():
    command = [sys.executable, str(ROOT / "docs" / "reference" / "generate.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), "run docs/reference/generate.py"


def test_every_run_file_of_the_page_is_read_with_and_without_its_examples(generate):
    generate["check_run_files"]()
    page = (ROOT / "docs" / "reference" / "toml.md").read_text(encoding="utf-8")
    assert page.count("```toml") == 6


def test_the_example_of_the_python_page_runs_as_it_stands(generate, tmp_path):
    """Its names are right: what it trains is left out."""
    example = generate["EXAMPLE"].replace("limbeck.distil(", "result_of(")
    reading = '{"value": 2.0, "low": 1.9, "high": 2.1, "unit": "nats/token", "n": 5}'
    before = "from pathlib import Path\nfrom limbeck import DistilResult\n"
    before += f"row = {{'verdict': 'better', 'readings': {{'student': {{'held_out': {reading}}}}}}}\n"
    before += "result_of = lambda **keys: DistilResult.of(row, Path(keys['out']))\n"
    done = subprocess.run([sys.executable, "-c", before + example], capture_output=True, text=True, check=True)
    assert done.stdout == "better\n2.0 runs/first/report.html\n"


def test_defaults_in_words_are_those_of_the_code():
    """Help says these in words; where they stand a criterion may reach them, so that they cannot stand in the settings."""
    assert f"of {shown_count(COSINE)} parameters" in settings_in(DistilSettings)["schedule"].default_text
    assert settings_in(PlanSettings)["teacher_tokens"].default_text.startswith(f"{COMPUTE_OPTIMAL} for each")
    assert settings_in(PlanSettings)["tokens"].default_text.endswith(f" {COMPUTE_OPTIMAL} a parameter")
