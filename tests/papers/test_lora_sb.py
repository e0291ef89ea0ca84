"""The recipe lora-sb: its text, what its arms train, and the criteria."""

import keyword
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import limbeck
from limbeck.jobs.common.adapters import size_of
from limbeck.models.load import load
from limbeck.papers.lab.from_teacher import TEACHER
from limbeck.papers.lora_sb.judging import judge_start
from limbeck.papers.lora_sb.recipe import EQUAL_FLOPS, SCALES, steps_of
from limbeck.papers.lora_sb.training import renamed
from limbeck.students.adapters import AdapterPlan, linear_layers


@given(st.text())
def test_names_change_and_change_back_and_nothing_else_does(text):
    assert renamed(renamed(text)) == text or any(
        word in keyword.kwlist for word in re.findall("[A-Za-z_]+", renamed(text))
    )
    assert len(renamed(text)) == len(text)
    assert re.sub("[A-Za-z]", "", renamed(text)) == re.sub("[A-Za-z]", "", text)


def test_pythons_own_words_stay():
    assert (
        renamed("def one(two):\n    return None if two_3 else 'x'\n")
        == "def bar(gjb):\n    return None if gjb_3 else 'k'\n"
    )


def test_lora_has_as_many_numbers_as_the_square_matrices_to_five_per_cent():
    shapes = [layer.weight.shape for _, layer in linear_layers(load(TEACHER).model)]
    scale = SCALES["small"]
    lora, square = (
        size_of(plan, shapes).numbers
        for plan in (AdapterPlan(scale.lora_rank, 1.0), AdapterPlan(scale.rank, 1.0, "gradient"))
    )
    assert lora == pytest.approx(square, rel=0.05)


def test_all_weights_have_fewer_steps_for_the_flops_of_adapters():
    """Of a forward and a backward pass of twice as much, adapters leave out a third."""
    scale = SCALES["small"]
    assert steps_of(scale, EQUAL_FLOPS) == pytest.approx(scale.steps * 2 / 3, rel=0.05)


def losses(level, spread, seed):
    """Losses of three seeds and forty documents of ten tokens."""
    noise = np.random.default_rng(seed).normal(0, spread, (3, 40))
    return np.stack([10 * (level + noise), np.full((3, 40), 10.0)], -1)


@pytest.mark.parametrize(
    ("other", "ours", "spread", "verdict"),
    [
        (3.1, 3.0, 0.01, "confirmed"),
        (3.0, 3.0, 0.001, "refuted"),  # within 0.01 nats
        (3.0, 3.1, 0.01, "refuted"),
        (3.0, 3.0, 0.5, "inconclusive"),
    ],
)
def test_a_claim_needs_its_whole_interval(other, ours, spread, verdict):
    assert judge_start(losses(other, spread, 1), losses(ours, spread, 2)).verdict == verdict


@pytest.mark.recipe
def test_the_recipe_runs_and_continues(tmp_path):
    keys = {"scale": "smoke", "out": tmp_path / "out", "seeds": 2, "workers": 1}
    first = limbeck.reproduce("lora-sb", **keys)
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("result.json")}
    assert {one["verdict"] for one in first.judged} == {"inconclusive"}
    again = limbeck.reproduce("lora-sb", **keys)
    assert {path: path.stat().st_mtime_ns for path in files} == files
    assert again.judged == first.judged
