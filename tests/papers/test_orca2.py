"""The recipe orca2: the teacher's answers, the lines of its arms, and the criteria."""

from dataclasses import replace

import numpy as np
import pytest

import limbeck
from limbeck.corpora.tasks.strategies import KINDS, STYLES, fitting, items_of, style_of
from limbeck.papers.lab import lines
from limbeck.papers.orca2 import training
from limbeck.papers.orca2.judging import judge_erasure, judge_instructed, judge_single
from limbeck.papers.orca2.recipe import READINGS, judged
from limbeck.papers.orca2.training import (
    ARMS,
    ERASED,
    FEWER,
    INSTRUCTED,
    INSTRUCTIONS,
    KEPT,
    RANDOM,
    SINGLE,
    Cell,
    Sets,
    questions_of,
    train_cell,
)

CELL = Cell("one", ERASED, 3, 3e-3, 2, 64, 60, 12, 16, 1, 2)


def right_answer(item):
    """The answer by another way than the teacher's: from the prompt alone."""
    body = item.prompt[1:-1]
    if item.kind == "last digit":
        return body[-1]
    if item.kind == "addition":
        return str(sum(map(int, body.split("+"))))
    if item.kind == "chain":
        value = int(body[0])
        for sign, number in zip(body[1::2], body[2::2], strict=True):
            value = {"+": value + int(number), "-": value - int(number), "*": value * int(number)}[sign] % 10
        return str(value)
    table, _, asked = body.partition("?")
    if item.kind == "hop":
        leads = dict(table.split(","))
        return leads[leads[asked]]
    entries = dict(zip(table[::2], table[1::2], strict=True))
    return str(sum(int(entries[name]) for name in asked.split("+")) % 10)


def test_the_teacher_is_right_in_every_style_and_its_styles_can_be_told_apart():
    items = items_of(np.random.default_rng(5), 120)
    assert len({item.prompt for item in items}) == 120
    assert [item.kind for item in items] == [*KINDS] * 20
    for item in items:
        assert item.right == right_answer(item)
        for style in STYLES:
            answer = item.answer(style)
            assert item.passes(answer)
            assert style_of(answer) == style
            assert not item.passes(answer[:-1] + "x")
    assert not items[0].passes("")
    assert not items[0].passes(items[0].right)


def test_steps_of_an_addition_are_its_columns():
    item = next(item for item in items_of(np.random.default_rng(5), 12) if item.kind == "addition")
    one, other = item.prompt[1:-1].split("+")
    carry = 0
    for (a, b), column in zip(zip(one[::-1], other[::-1], strict=True), item.answer("steps").split("."), strict=False):
        total = int(a) + int(b) + carry
        assert column == f"{a}+{b}+{carry}={total}"
        carry = total // 10


def test_tests_are_in_no_training_and_the_same_for_all_seeds():
    one, other = Sets.of(CELL), Sets.of(replace(CELL, seed=4))
    assert (one.test, one.selection) == (other.test, other.selection)
    assert one.known != other.known
    assert not {item.prompt for item in one.test + one.selection} & {item.prompt for item in one.known + other.known}


def test_arms_have_the_same_tasks_and_only_kept_ones_read_instructions():
    items = items_of(np.random.default_rng(5), 300)
    made = {name: questions_of(arm, items, 7) for name, arm in ARMS.items()}
    told = {name: [q.prompt != item.prompt for q, item in zip(row, items, strict=True)] for name, row in made.items()}
    for name, row in made.items():
        assert all(q.prompt.endswith(item.prompt) and item.passes(q.answer) for q, item in zip(row, items, strict=True))
        text = " ".join(q.prompt + q.answer for q in row)
        assert any(instruction in text for instruction in INSTRUCTIONS.values()) == (name in (KEPT, "half kept"))
    assert all(told[KEPT])
    assert 100 < sum(told["half kept"]) < 200
    assert [q.answer for q in made[KEPT]] == [q.answer for q in made[ERASED]]
    assert all(q.prompt == INSTRUCTIONS[fitting(item)] + item.prompt for q, item in zip(made[KEPT], items, strict=True))
    assert [sum(style_of(q.answer) == style for q in made[RANDOM]) > 70 for style in STYLES] == [True] * 3
    for name in SINGLE:
        assert {style_of(q.answer) for q in made[name]} == {ARMS[name].style}


def test_a_cell_reads_about_its_tokens_and_kept_instructions_are_measured_with_and_without(monkeypatch):
    monkeypatch.setattr(training, "_SELECTION", 1)
    cell = replace(CELL, arm=KEPT, tested=2)
    found = train_cell(cell, "cpu")
    assert set(found["readings"]) == {KEPT, INSTRUCTED}
    questions = questions_of(ARMS[KEPT], Sets.of(cell).known, cell.seed)
    line = lines.tokens_of(questions) / len(questions)
    assert found["rows"] == round(64 / line)
    assert found["tokens"] == round(2 * found["rows"] * line)
    fewer = train_cell(replace(cell, arm=FEWER), "cpu")
    assert fewer["rows"] == found["rows"] < train_cell(replace(cell, arm=ERASED), "cpu")["rows"]


def right(share, seed=0, tasks=400):
    """Right answers to tasks, other ones for each of three seeds; a larger share has those of a smaller one too."""
    return (np.random.default_rng(seed).random((3, tasks)) < share).astype(float)


@pytest.mark.parametrize(
    ("ours", "theirs", "verdict"),
    [
        (0.6, 0.4, "confirmed"),
        (0.5, 0.5, "refuted"),
        (0.98, 0.97, "inconclusive"),  # no room for five points
    ],
)
def test_erasure_needs_five_points_and_room_for_them(ours, theirs, verdict):
    assert judge_erasure(right(ours), right(theirs)).verdict == verdict


@pytest.mark.parametrize(
    ("ours", "tokens", "verdict"),
    [
        (0.9, (8.0, 12.0), "confirmed"),
        (0.9, (11.0, 12.0), "inconclusive"),  # hardly shorter
        (0.9, (13.0, 12.0), "refuted"),  # longer
        (0.7, (8.0, 12.0), "refuted"),  # less accurate
    ],
)
def test_fitting_strategies_are_as_accurate_and_shorter(ours, tokens, verdict):
    assert judge_single(right(ours), right(0.9), tokens, "always steps").verdict == verdict


def test_nothing_is_judged_of_students_that_learned_nothing():
    none = right(0.1)
    assert judge_instructed(none, none).verdict == "inconclusive"
    assert judge_erasure(none, none).verdict == "inconclusive"
    assert judge_erasure(right(0.25), none).verdict == "inconclusive", "a gain of models that answer so few is none"
    assert judge_single(none, none, (8.0, 12.0), "always steps").verdict == "inconclusive"


@pytest.mark.parametrize(("ours", "verdict"), [(0.9, "confirmed"), (0.88, "inconclusive"), (0.8, "refuted")])
def test_what_erasure_costs_is_judged_within_two_points(ours, verdict):
    assert judge_instructed(right(ours), right(0.9)).verdict == verdict


def test_the_single_strategy_is_the_one_of_the_best_validation_and_instructed_answers_are_of_the_kept_arm():
    share = {ERASED: 0.9, FEWER: 0.9, "always steps": 0.85, "always look up": 0.7, INSTRUCTED: 0.9}

    def reading(name, seed):
        answers = right(share.get(name, 0.5), seed)[seed].tolist()
        return {"right": answers, "tokens": [5 if name == ERASED else 9] * len(answers), "style": [0] * len(answers)}

    def rows(arm):
        names = (arm, INSTRUCTED) if arm == KEPT else (arm,)
        return [
            {
                "failed": False,
                "validation": share.get(arm, 0.5),
                "readings": {name: reading(name, seed) for name in names},
            }
            for seed in range(3)
        ]

    results = judged({arm: rows(arm) for arm in ARMS})
    assert [one.verdict for one in results] == ["confirmed", "confirmed", "confirmed", "confirmed"]
    assert "from always steps; 0.56 of its tokens" in results[2].seen
    assert set(READINGS) == {*ARMS, INSTRUCTED}


@pytest.mark.recipe
def test_the_recipe_runs_and_continues(tmp_path):
    keys = {"scale": "smoke", "out": tmp_path / "out", "seeds": 2, "workers": 1}
    first = limbeck.reproduce("orca2", **keys)
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("result.json")}
    assert len(files) == 2 * len(ARMS)
    assert len(first.judged) == 4
    again = limbeck.reproduce("orca2", **keys)
    assert {path: path.stat().st_mtime_ns for path in files} == files
    assert again.judged == first.judged
    assert "in the fitting style" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
