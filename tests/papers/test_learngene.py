"""The recipe learngene: what each arm spends, and the criteria."""

import numpy as np
import pytest

import limbeck
from limbeck.papers.learngene.judging import judge_layers
from limbeck.papers.learngene.recipe import ARMS, EQUAL_FLOPS, SCALES, own_steps
from limbeck.papers.learngene.training import FROM_TEACHER, LAYERS, SHARED, flops_a_token

DEPTHS = (2, 3, 4)


def test_every_arm_has_equal_tokens_in_all():
    """Of 60 steps a student of shared layers has 30 of its own, and 30 of the auxiliary's 90."""
    for arm in ARMS:
        share = 30 if arm in SHARED else 0
        assert {own + share for own in own_steps(arm, 60, DEPTHS, 256)} == {60}


def test_equal_flops_count_the_auxiliarys_share():
    auxiliary = sum(flops_a_token(4, 256))
    for depth, steps in zip(DEPTHS, own_steps(EQUAL_FLOPS, 60, DEPTHS, 256), strict=True):
        step = sum(flops_a_token(depth, 256))
        assert abs(steps * step - 30 * (step + auxiliary)) <= step / 2
    assert own_steps(EQUAL_FLOPS, 60, DEPTHS, 256)[-1] == 60  # as deep as the auxiliary
    student, teacher = flops_a_token(5, 256)
    assert student == 3 * teacher


def losses(*nats):
    """Losses by depth of three seeds and forty documents of ten tokens."""
    noise = np.random.default_rng(0).normal(0, 0.01, (3, 40))
    return {
        depth: np.stack([10 * (level + noise), np.full((3, 40), 10.0)], -1)
        for depth, level in zip(DEPTHS, nats, strict=True)
    }


@pytest.mark.parametrize(
    ("ours", "verdict"),
    [
        ((2.5, 2.5, 3.5), "confirmed"),  # better at two of three depths
        ((2.5, 3.5, 3.5), "inconclusive"),
        ((3.5, 3.5, 3.5), "refuted"),
        ((3.0, 3.0, 3.0), "refuted"),  # equal: lower at none
    ],
)
def test_a_claim_holds_at_two_thirds_of_the_depths(ours, verdict):
    assert judge_layers(losses(3.0, 3.0, 3.0), losses(*ours)).verdict == verdict


def test_the_scale_has_the_arms_of_the_claims():
    assert {FROM_TEACHER, LAYERS} < set(ARMS)
    assert SCALES["small"].stages <= min(SCALES["small"].depths)


@pytest.mark.recipe
def test_the_recipe_runs_and_continues(tmp_path):
    keys = {"scale": "smoke", "out": tmp_path / "out", "seeds": 2, "workers": 1}
    first = limbeck.reproduce("learngene", **keys)
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("result.json")}
    assert {one["verdict"] for one in first.judged} == {"inconclusive"}
    again = limbeck.reproduce("learngene", **keys)
    assert {path: path.stat().st_mtime_ns for path in files} == files
    assert again.judged == first.judged
