"""All models of a recipe are trained and measured on one device, which one function chooses."""

import ast
from pathlib import Path

import pytest
import torch

from limbeck import papers
from limbeck.papers.lab import tuning
from limbeck.papers.lab.recipe import RecipeContext
from limbeck.papers.lab.trainings import Trainings, device_of
from limbeck.papers.taid_gap import scenarios

PACKAGE = Path(papers.__file__).parent


def context(device: str) -> RecipeContext:
    return RecipeContext(Path("out"), "small", None, 0, 3, 1, device)


@pytest.mark.parametrize("cuda", [True, False])
@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:1"])
def test_auto_is_cuda_where_there_is_one(monkeypatch, device, cuda):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    expected = {"auto": "cuda" if cuda else "cpu"}.get(device, device)
    assert device_of(context(device)) == expected
    assert Trainings(context(device), lambda cell, where: {})._device == expected


def test_masses_are_measured_where_models_were_tuned():
    assert scenarios.device_of is tuning.device_of is device_of


def test_no_other_file_of_a_recipe_chooses_a_device():
    """`reproduce.py` only refuses scale gpu without one."""
    choosing = {
        str(file.relative_to(PACKAGE))
        for file in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr == "is_available"
    }
    assert choosing == {"lab/trainings.py", "reproduce.py"}
    assert not [file for file in PACKAGE.rglob("*.py") if 'replace("auto"' in file.read_text(encoding="utf-8")]
