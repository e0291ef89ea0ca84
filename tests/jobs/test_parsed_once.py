"""Texts of the settings are read once by a job, and by nothing after that."""

import ast
import json
from pathlib import Path

import pytest

import limbeck
from limbeck.objectives import spec as spec_module
from tests.helpers.models import texts, write_teacher

JOBS = Path(limbeck.__file__).parent / "jobs"


@pytest.mark.long
def test_a_run_parses_its_objective_once(tmp_path, monkeypatch):
    parsed = []
    parse = spec_module.parse
    monkeypatch.setattr(spec_module, "parse", lambda text: parsed.append(text) or parse(text))
    write_teacher(tmp_path)
    (tmp_path / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts(60)))
    asked = {"teacher": str(tmp_path / "teacher"), "data": str(tmp_path / "text.jsonl"), "params": "9k", "threads": 1}
    limbeck.distil(**asked, out=str(tmp_path / "out"), tokens="1k", baselines="cut+ce", objective="ReverseKL")
    assert parsed == ["ReverseKL"]


def test_no_job_looks_at_what_a_text_names_but_where_it_is_parsed():
    """Of names that look at the texts of --teacher or --objective a job may use those that make a value of them."""
    forbidden = {"is_served", "parse", "is_captured", "Address"}
    found = {}
    for file in sorted(JOBS.rglob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        names = {name.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for name in node.names}
        if used := names & forbidden:
            found[str(file.relative_to(JOBS))] = used
    assert found == {}
