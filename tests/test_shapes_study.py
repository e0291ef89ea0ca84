"""The study of shapes: its criterion stands, its rules fill one budget, made results are judged by it, and its page written."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from limbeck.models.anatomy import Anatomy
from limbeck.models.configuration import load_config
from limbeck.models.save import save
from limbeck.probes import Measurements
from limbeck.probes.interval import Interval
from limbeck.students.shape import Shape, check
from limbeck.teachers.ref import teacher_ref
from tests.helpers.models import llama, tokenizer, write_corpus
from tests.helpers.pages import check_page
from tests.test_smollm2 import RESULTS, measured, script

DIGEST = "ccfc549e76ba2631"  # of the criterion; it stood before the first run, and a change needs other seeds


@pytest.fixture
def criterion():
    return script("shapes_criterion")


def test_the_criterion_is_that_which_stood_before_the_first_run(criterion):
    assert criterion.digest() == DIGEST


def config_of(teacher):
    if teacher == "deep":
        return llama(layers=8, hidden=128, tok=tokenizer()).config
    return load_config(teacher_ref(teacher).config_source)


@pytest.mark.parametrize("teacher", ["builtin:stdlib", "deep"])
def test_rules_fill_one_budget_and_give_up_what_they_say(teacher, criterion):
    config = config_of(teacher)
    anatomy = Anatomy.of(config)
    full, shapes = Shape.of_anatomy(anatomy), criterion.shapes_of(anatomy)
    budget = anatomy.count(**asdict(full)) // 2
    for rule in criterion.OTHERS:
        check(config, shapes[rule])
        assert 0.94 * budget <= anatomy.count(**asdict(shapes[rule])) <= budget
    width, depth, neurons = (shapes[rule] for rule in criterion.OTHERS)
    assert width.layers == neurons.layers == full.layers
    assert depth.layers < full.layers
    assert depth.hidden > width.hidden
    assert neurons.ffn < width.ffn
    assert neurons.hidden >= width.hidden


def test_equal_flops_are_those_of_the_even_student(criterion):
    anatomy = Anatomy.of(config_of("builtin:stdlib"))
    flops = {rule: criterion.training_flops(anatomy, shape) for rule, shape in criterion.shapes_of(anatomy).items()}
    for rule in criterion.RULES:
        assert criterion.tokens_at("equal tokens", flops, rule) == criterion.TOKENS
        spent = criterion.tokens_at("equal FLOPs", flops, rule) * flops[rule]
        assert spent == pytest.approx(criterion.TOKENS * flops["even"], rel=0.02)


def gain(value):
    return Interval(value, value - 0.01, value + 0.01, 40), 0.001 if abs(value) > 0.01 else 0.5


@pytest.mark.parametrize(
    ("values", "seeds", "verdict"),
    [
        ((0.1, 0.1, 0.1), 3, "confirmed"),
        ((0.1, 0.1, 0.0), 3, "confirmed"),
        ((0.1, 0.1, -0.1), 3, "inconclusive"),
        ((0.1, 0.0, 0.0), 3, "inconclusive"),
        ((-0.1, -0.1, 0.1), 3, "refuted"),
        ((0.1, 0.1, 0.1), 2, "inconclusive"),
    ],
)
def test_a_rule_is_judged_by_three_teachers(values, seeds, verdict, criterion):
    assert criterion.judged([gain(value) for value in values], seeds) == verdict


def test_losses_on_unlike_tokens_are_not_compared(criterion):
    one = Measurements(np.full(40, 100.0), np.full(40, 200.0), np.ones((40, 15, 3)))
    other = replace(one, tokens=one.tokens + 1)
    with pytest.raises(ValueError, match="on the same held-out tokens"):
        criterion.compared([one, one, one], [one, one, other])


def test_the_default_changes_only_where_both_budgets_agree(criterion):
    verdicts = dict.fromkeys(criterion.CLAIMS, "inconclusive") | {"depth, equal tokens": "confirmed"}
    gains = {"width": 0.3, "depth": 0.1, "neurons": 0.2}
    assert criterion.default(verdicts, gains) == "even"
    verdicts |= {"depth, equal FLOPs": "confirmed"}
    assert criterion.default(verdicts, gains) == "depth"
    assert criterion.default(dict.fromkeys(criterion.CLAIMS, "confirmed"), gains) == "width"


@pytest.fixture
def folder(tmp_path, criterion):
    """Results of folders as runs leave them, in which students of less depth are better with every teacher."""
    study = script("shapes")
    about = {
        name: {
            rule: {
                "shape": f"layers={number}", "parameters": 123_456, "lr_factor": 1.0, "flops_per_token": 1e6,
                "tokens": {"equal tokens": 102_400, "equal FLOPs": 102_400 + 2048 * number},
            }
            for number, rule in enumerate(criterion.RULES)
        }
        for name in criterion.TEACHERS
    }  # fmt: skip
    for name, rules in about.items():
        for rule in rules:
            for budget in criterion.BUDGETS:
                for seed in criterion.SEEDS:
                    for part in (f"measurements/student-seed{seed}", "same-text/student"):  # the latter of other tokens
                        file = study.folder(tmp_path, name, rule, budget, seed) / f"{part}.safetensors"
                        measured(file, 2.0 - 0.1 * (rule == "depth"), seed)
    out = tmp_path / "out"
    out.mkdir()
    found = study.judge(tmp_path, about) | {"students": about, "seeds": list(criterion.SEEDS)}
    (out / "results.json").write_text(json.dumps(found))
    return out


def test_runs_in_which_fewer_layers_are_better_change_the_default(folder):
    found = json.loads((folder / "results.json").read_text())
    verdicts = {claim: one["verdict"] for claim, one in found["claims"].items()}
    assert {claim for claim, verdict in verdicts.items() if verdict == "confirmed"} == {
        "depth, equal tokens",
        "depth, equal FLOPs",
    }
    assert found["default"] == "depth"
    assert found["claims"]["depth, equal tokens"]["gains"]["stories"]["value"] == pytest.approx(0.1)


def test_the_page_is_written_from_the_results(folder):
    script("shapes").write(str(folder))
    check_page(folder)
    assert "6 claims: 2 confirmed, 4 inconclusive." in (folder / "README.md").read_text(encoding="utf-8")


def test_the_committed_page_is_that_of_its_files():
    """The page is there as soon as results are, and not before."""
    if not (RESULTS / "shapes" / "results.json").exists():
        assert not (RESULTS / "shapes" / "README.md").exists(), "figures that stand in for results are not published"
        return
    written = (RESULTS / "shapes" / "README.md").read_text(encoding="utf-8")
    assert written == script("shapes").page(), "run: python docs/results/shapes.py"


@pytest.mark.recipe
def test_a_tiny_study_trains_judges_and_continues(tmp_path, monkeypatch, criterion):
    study = script("shapes")
    few = {"LENGTH": 32, "ROWS_OF_STEP": 4, "SEEDS": (0, 1), "RULES": ("even", "depth"), "OTHERS": ("depth",)}
    for place in (criterion, study):
        for name, value in few.items():
            monkeypatch.setattr(place, name, value)
    monkeypatch.setattr(criterion, "TOKENS", 512)
    monkeypatch.setattr(criterion, "TUNING_TOKENS", 256)
    monkeypatch.setattr(criterion, "FACTORS", (1.0, 2.0))
    save(llama(layers=4, hidden=64, tok=tokenizer()), tmp_path / "teacher")
    pair = (str(tmp_path / "teacher"), str(write_corpus(tmp_path)))
    monkeypatch.setattr(study, "teachers", lambda data: {"tiny": pair})
    study.run(str(tmp_path / "work"), "", str(tmp_path / "out"))
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert set(found["claims"]) == {"depth, equal tokens", "depth, equal FLOPs"}
    assert {one["verdict"] for one in found["claims"].values()} == {"inconclusive"}  # two seeds
    assert all(one["tokens"]["equal tokens"] == 512 for one in found["students"]["tiny"].values())
    kept = {file: file.stat().st_mtime_ns for file in (tmp_path / "work").rglob("model.safetensors")}
    assert len(kept) >= 12  # of each rule: two rates of one seed, and two seeds of one budget or two
    study.run(str(tmp_path / "work"), "", str(tmp_path / "out"))
    assert kept == {file: file.stat().st_mtime_ns for file in (tmp_path / "work").rglob("model.safetensors")}
    assert np.isfinite(found["levels"]["tiny"]["equal FLOPs"]["depth"]["value"])
    assert Path(tmp_path, "out", "README.md").exists()
