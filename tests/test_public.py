"""What a user finds at `limbeck` and at its command line: names, types, suggestions."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import limbeck
from limbeck.cli import app
from limbeck.config import DistilSettings, likely_key, resolve
from limbeck.errors import BadObjective, BadSetting
from limbeck.objectives import parse


def shown(*arguments: str, **environment: str) -> tuple[int, str]:
    """Exit status and output of a command."""
    process = subprocess.run(
        [sys.executable, "-m", "limbeck", *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return process.returncode, process.stdout + process.stderr


def test_every_public_name_is_there_and_has_a_type():
    tree = ast.parse(Path(limbeck.__file__).read_text(encoding="utf-8"))
    typed = {
        name.asname: node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for name in node.names
    }
    typed = {name: module for name, module in typed.items() if name in limbeck.__all__}
    kept = {name: module for module, names in limbeck._PUBLIC.items() for name in names}
    assert typed == kept
    assert all(hasattr(limbeck, name) for name in limbeck.__all__)
    assert {"ALM", "ULD", "LimbeckError", "plan"} <= set(limbeck.__all__)
    assert limbeck.ALM is limbeck.objectives.ALM


def test_plan_is_called_by_its_name_and_is_a_folder_too():
    said = limbeck.plan(params="600M", tokens="10B", candidates=["1.5B", "4B"])
    assert said == limbeck.api.plan(params="600M", tokens="10B", candidates="1.5B,4B")
    assert said["student"]["parameters"] == 600_000_000
    from limbeck.planning.cost.size import Size

    assert limbeck.planning.Size is Size  # the folder was imported by name since
    assert limbeck.plan(params="600M", tokens="10B", candidates=["1.5B", "4B"]) == said
    with pytest.raises(limbeck.LimbeckError, match=r"unknown key 'parms'; did you mean 'params'\?"):
        limbeck.plan(parms="600M")


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("learning_rate", "lr"),
        ("--learning-rate", "lr"),
        ("seq-len", "length"),
        ("max_seq_length", "length"),
        ("batch_size", "batch_tokens"),
        ("output_dir", "out"),
        ("epochs", "tokens"),
        ("objctive", "objective"),
        ("tokns", "tokens"),
        ("zzz", None),
    ],
)
def test_the_key_that_was_meant(said, meant):
    assert likely_key(said, sorted(DistilSettings.model_fields)) == meant


def test_what_a_command_does_not_take_is_not_suggested():
    assert likely_key("learning_rate", ["teacher", "params"]) is None
    with pytest.raises(BadSetting, match=r"unknown key 'learning_rate'; did you mean 'lr'\? The keys are: "):
        resolve(DistilSettings, None, {"learning_rate": 0.1})


@pytest.mark.parametrize(
    ("said", "meant"),
    [("GKD", "JensenShannon"), ("KD", "ForwardKL"), ("MiniLLM", "ReverseKL"), ("sft", "CrossEntropy"), ("TAI", "TAID")],
)
def test_the_objective_that_was_meant(said, meant):
    with pytest.raises(BadObjective, match=rf"there is no {said}; did you mean {meant}\? There are CrossEntropy, "):
        parse(said)


def test_the_command_line_says_its_version_and_the_flag_that_was_meant():
    assert shown("--version") == (0, f"limbeck {limbeck.__version__}\n")
    status, said = shown("distil", "--learning-rate", "3")
    assert status == 2
    assert "--learning-rate" in said
    assert "--lr" in said
    assert "--length" not in said


def test_help_is_as_wide_as_the_terminal():
    widths = [max(map(len, shown("distil", "--help", COLUMNS=str(w))[1].splitlines())) for w in (70, 160)]
    assert 50 < widths[0] <= 70 < 120 < widths[1] <= 160


def test_every_command_has_suggestions():
    from limbeck.cli import _Command

    commands = [
        *app.registered_commands,
        *(c for g in app.registered_groups for c in g.typer_instance.registered_commands),
    ]
    assert {command.cls for command in commands} == {_Command}
