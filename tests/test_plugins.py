"""Registries: limbeck's own are found by their decorators, those of packages by entry points; faults name the package."""

import ast
import sys
from pathlib import Path

import pytest

from limbeck.errors import BadObjective, BadPlugin, BadSetting
from limbeck.models.mixers.mixer import Mixer
from limbeck.models.mixers.named import MIXERS
from limbeck.objectives.named import OBJECTIVES
from limbeck.objectives.parse import parse
from limbeck.papers import PAPERS, recipe
from limbeck.plugins import ROOT, Marked, Registry


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Puts a package on the path, as pip would: its module's text, and its entry points by group."""
    registries = (OBJECTIVES, MIXERS, PAPERS)

    def install(name: str, text: str, **groups: dict[str, str]) -> None:
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
        info = tmp_path / f"{name}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
        lines = [
            line
            for group, found in groups.items()
            for line in (f"[limbeck.{group}]", *(f"{key} = {value}" for key, value in found.items()))
        ]
        (info / "entry_points.txt").write_text("\n".join(lines))
        for registry in registries:
            registry.refresh()

    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield install
    monkeypatch.undo()
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").parent == tmp_path:
            del sys.modules[name]
    for registry in registries:
        registry.refresh()


MINE = "from limbeck.objectives.basic import ForwardKL\n\nclass Mine(ForwardKL):\n    pass\n"


def test_an_objective_of_a_package_is_parsed_by_name(installed):
    installed("sample", MINE, objectives={"Mine": "sample:Mine"})
    assert str(parse("0.5*mine + 0.5*CrossEntropy")).startswith("0.5 * Mine(")
    assert str(parse(str(parse("Mine")))) == str(parse("Mine"))
    with pytest.raises(BadObjective, match="did you mean Mine"):
        parse("Min")


def test_nothing_of_a_package_is_imported_until_its_name_is_looked_up(installed):
    installed("sample", "raise RuntimeError('imported')\n", objectives={"Mine": "sample:Mine"})
    assert "Mine" in list(OBJECTIVES)
    assert str(parse("ForwardKL")).startswith("ForwardKL")
    assert "sample" not in sys.modules
    said = "objective 'Mine' of the package sample 1.2 .sample:Mine. cannot be imported: RuntimeError: imported. Update sample"
    with pytest.raises(BadPlugin, match=said):
        parse("Mine")


@pytest.mark.parametrize(
    ("text", "value", "said"),
    [
        (MINE, "sample:Gone", "cannot be imported: AttributeError: module 'sample' has no attribute 'Gone'"),
        (MINE, "gone:Mine", "cannot be imported: ModuleNotFoundError: No module named 'gone'"),
        ("Mine = 3\n", "sample:Mine", "cannot be used: expected a class that inherits from limbeck.Objective"),
        (MINE, "sample:ForwardKL", "cannot be used: expected its name to be that of its class, ForwardKL"),
    ],
)
def test_a_broken_package_is_named_with_what_to_do(installed, text, value, said):
    installed("sample", text, objectives={"Mine": value})
    with pytest.raises(BadPlugin, match=rf"of the package sample 1.2 .*{said}.*Update sample 1.2, or uninstall it"):
        parse("Mine")


def test_a_name_that_limbeck_has_is_an_error(installed):
    installed("sample", MINE, objectives={"TAID": "sample:Mine"})
    with pytest.raises(
        BadPlugin, match=r"sample 1.2 adds the objective 'TAID', which limbeck has itself: uninstall it"
    ):
        parse("CrossEntropy")


def test_one_name_of_two_packages_is_an_error(installed):
    installed("sample", MINE, objectives={"Mine": "sample:Mine"})
    installed("other", MINE, objectives={"Mine": "other:Mine"})
    with pytest.raises(BadPlugin, match=r"packages other 1.2 and sample 1.2 both add the objective 'Mine'"):
        parse("Mine")


def test_a_paper_must_be_a_recipe_of_its_name(installed):
    installed("sample", "PAPER = 3\n", papers={"mine": "sample:PAPER"})
    with pytest.raises(BadPlugin, match=r"paper 'mine' .* expected a limbeck.papers.lab.recipe.Recipe"):
        recipe("mine")
    with pytest.raises(
        BadSetting, match=r"unknown paper 'minee'; did you mean 'mine'\? There are: arithmetic, based, .*, mine\."
    ):
        recipe("minee")


# Limbeck's own


def subclasses(kind: type) -> set[type]:
    return {kind, *(below for one in kind.__subclasses__() for below in subclasses(one))}


@pytest.mark.parametrize("registry", [OBJECTIVES, MIXERS])
def test_every_own_name_is_found_in_the_source_and_is_what_python_finds(registry: Registry):
    assert registry.own
    for name, place in registry.own.items():
        module, _, attribute = place.partition(":")
        assert registry[name] is getattr(sys.modules[module], attribute)


def test_every_mixer_of_the_folder_has_a_name():
    found = [MIXERS[name] for name in MIXERS.own]
    ours = {kind for kind in subclasses(Mixer) if kind.__module__.startswith("limbeck.")} - {Mixer}
    assert set(found) == ours


def test_marks_are_found_as_python_reads_them():
    """The source is read line by line; here it is parsed."""
    for folder, word in (("objectives", "objective"), ("models/mixers", "mixer")):
        expected = set()
        for file in (ROOT / folder).rglob("*.py"):
            for node in ast.parse(file.read_text(encoding="utf-8")).body:
                for mark in getattr(node, "decorator_list", ()):
                    called = mark.func if isinstance(mark, ast.Call) else mark
                    if isinstance(called, ast.Name) and called.id == word:
                        expected.add(mark.args[0].value if isinstance(mark, ast.Call) else node.name)
        assert expected == set(Marked(folder, word)())


def test_papers_are_the_folders():
    assert {"zoology", "capacity-gap", "self-pretraining"} <= set(PAPERS.own)
    assert "lab" not in PAPERS.own
    assert all(recipe(name).name == name for name in PAPERS.own)
