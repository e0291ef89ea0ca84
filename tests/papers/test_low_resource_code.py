"""The recipe low-resource-code: its text, its tunings, and the criteria."""

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

import limbeck
from limbeck.corpora.tasks.small_languages import POOR, RICH, passes
from limbeck.papers.low_resource_code.judging import (
    judge_forgetting,
    judge_interaction,
    judge_replay,
    judge_small,
    judge_translation,
    slope,
)
from limbeck.papers.low_resource_code.recipe import SCALES, SHOWN, judged, series
from limbeck.papers.low_resource_code.training import (
    ARMS,
    REPLAYED,
    SHOTS,
    TRANSLATED,
    TUNED,
    Cell,
    _order,
    base_text,
    held_out,
    pairs_of,
    shown,
    train_cell,
)

SMOKE = SCALES["smoke"]
BASE = Cell("base", 3, SMOKE.sizes[0], SMOKE.budget, most=20)
TUNING = replace(BASE, name="tuning", base="base", arm=TUNED, pairs=10)


def test_tests_are_in_no_training():
    tests, pairs = held_out(SMOKE.budget), pairs_of(3, 20, SMOKE.budget)
    assert held_out(SMOKE.budget) == tests
    assert pairs_of(4, 20, SMOKE.budget) != pairs
    assert not set(tests) & set(pairs)
    text = base_text(3, 100, 2, tests)
    read = [one for question in text for one in question.prompt[1:].replace(";", ">").split(">")]
    assert not set(tests) & set(read)


def test_a_base_reads_programs_of_the_known_language_and_episodes_of_others():
    text = base_text(3, 100, 2, [])
    assert len(text) == 100
    known = [one for one in text if one.prompt.startswith("R")]
    assert len(known) == 50
    assert all(passes(one.answer, one.prompt[1:-1], RICH) for one in known)
    for one in text:
        if one.prompt.startswith("E"):
            assert one.prompt.count(";") == SHOTS
            asked = one.prompt[1:-1].split(";")[-1]
            assert not passes(one.answer, asked, POOR), "the language of few examples is in no episode"


def test_pairs_in_context_have_all_operations():
    assert shown(POOR, "at3", ["apb", "blc"]) == "Eapb>@ab;blc>&bc;at3>"


@pytest.mark.parametrize("arm", ARMS)
def test_all_arms_learn_the_same_pairs(arm):
    known = pairs_of(3, 20, SMOKE.budget)[2:10]
    cell = replace(TUNING, arm=arm, budget=replace(SMOKE.budget, steps=6, tokens=300))
    steps = [*islice(_order(cell, known), 6)]
    lines = {one for step in steps for one in step}
    kinds = {one.prompt[0] for one in lines}
    assert kinds == {TUNED: {"P"}, TRANSLATED: {"P", "T"}, REPLAYED: {"P", "R"}}[arm]
    assert {one.prompt[1:-1] for one in lines if one.prompt[0] == "P"} <= set(known)
    if arm == TRANSLATED:
        assert [{one.prompt[0] for one in step} for step in steps] == [{"T"}] * 3 + [{"P"}] * 3
    if arm == REPLAYED:
        assert all(one.prompt[1:-1] not in held_out(SMOKE.budget) for one in lines if one.prompt[0] == "R")
        shares = [sum(one.prompt[0] == "R" for one in step) / len(step) for step in steps]
        assert shares == pytest.approx([0.1] * 6, abs=0.05)


def test_a_tuning_keeps_the_weights_that_are_best_on_its_own_pairs(tmp_path):
    base = train_cell(BASE, "cpu", folder=tmp_path)
    assert (len(base["rich"]), len(base["poor"])) == (12, 12)
    found = train_cell(TUNING, "cpu", folder=tmp_path)
    assert 0 <= found["dev"] <= 1
    assert found["kept"] in range(1, SMOKE.budget.steps + 1)
    translated = train_cell(replace(TUNING, arm=TRANSLATED), "cpu", folder=tmp_path)
    assert translated["kept"] > SMOKE.budget.steps // 2, "no weights of translations are kept"


def right(share, seed=0, tasks=400):
    """Right programs for three seeds; a larger share has those of a smaller one too."""
    return (np.random.default_rng(seed).random((3, tasks)) < share).astype(float)


@pytest.mark.parametrize(
    ("tuned", "in_context", "verdict"),
    [(0.6, 0.4, "confirmed"), (0.4, 0.6, "refuted"), (0.5, 0.5, "inconclusive"), (0.2, 0.1, "inconclusive")],
)
def test_small_models(tuned, in_context, verdict):
    assert judge_small(right(tuned), right(in_context)).verdict == verdict


def test_the_gain_of_tuning_by_size():
    tuned = [right(0.5), right(0.6), right(0.7)]
    assert judge_interaction(tuned, [right(0.1), right(0.4), right(0.7)]).verdict == "confirmed"
    assert judge_interaction(tuned, [right(0.4), right(0.4), right(0.4)]).verdict == "refuted"
    assert judge_interaction(tuned, [right(0.1)] * 3).verdict == "inconclusive", "nothing is written in context"


def test_the_slope_is_that_of_least_squares():
    generator = np.random.default_rng(0)
    tuned, others = ([generator.random((3, 50)) for _ in range(4)] for _ in range(2))
    gains = [float((one - other).mean()) for one, other in zip(tuned, others, strict=True)]
    assert slope(tuned, others).value == pytest.approx(np.polyfit(range(4), gains, 1)[0])


@pytest.mark.parametrize(("ours", "verdict"), [(0.6, "confirmed"), (0.5, "refuted"), (0.4, "refuted")])
def test_translation_needs_two_points(ours, verdict):
    assert judge_translation(right(ours), right(0.5)).verdict == verdict


@pytest.mark.parametrize(("after", "verdict"), [(0.5, "confirmed"), (0.9, "refuted")])
def test_forgetting_needs_two_points(after, verdict):
    assert judge_forgetting(right(0.9), right(after)).verdict == verdict


@pytest.mark.parametrize(
    ("replayed", "poor", "verdict"),
    [
        (0.88, (0.6, 0.6), "confirmed"),
        (0.7, (0.6, 0.6), "refuted"),  # half is still lost
        (0.88, (0.5, 0.6), "refuted"),  # at a price
        (0.82, (0.6, 0.6), "inconclusive"),  # about eight tenths
    ],
)
def test_replay_prevents_most_at_no_cost(replayed, poor, verdict):
    assert judge_replay(right(0.9), right(0.5), right(replayed), tuple(map(right, poor))).verdict == verdict
    assert judge_replay(right(0.9), right(0.9), right(replayed), tuple(map(right, poor))).verdict == "inconclusive"


def test_claims_are_of_the_right_models():
    scale = replace(SCALES["small"])
    poor = {"": (0.1, 0.3, 0.5), TUNED: (0.5, 0.6, 0.6), TRANSLATED: (0.5, 0.6, 0.7), REPLAYED: (0.5, 0.6, 0.6)}
    rich = {"": 0.9, TUNED: 0.5, TRANSLATED: 0.4, REPLAYED: 0.89}
    results = {
        (size.width, arm, pairs): [
            {"poor": right(poor[arm][number])[seed].tolist(), "rich": right(rich[arm])[seed].tolist(), "failed": False}
            for seed in range(3)
        ]
        for number, size in enumerate(scale.sizes)
        for arm in poor
        for pairs in (scale.pairs if arm else (0,))
    }
    assert [one.verdict for one in judged(scale, results)] == ["confirmed"] * 5
    assert [*series(scale, results)] == ["width 24", "width 48", "width 96"]
    assert [*series(scale, results)["width 24"]] == [SHOWN, *ARMS]


@pytest.mark.recipe
def test_the_recipe_runs_and_continues(tmp_path):
    keys = {"scale": "smoke", "out": tmp_path / "out", "seeds": 2, "workers": 1}
    first = limbeck.reproduce("low-resource-code", **keys)
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("result.json")}
    assert len(files) == 2 * 2 * (1 + len(ARMS) * 2)
    assert len(first.judged) == 5
    again = limbeck.reproduce("low-resource-code", **keys)
    assert {path: path.stat().st_mtime_ns for path in files} == files
    assert again.judged == first.judged
    assert "right in the new language" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
