"""Scores on standard tasks: pairing, retention, flips and margins with exact values, and files of tasks."""

import json
import math

import numpy as np
import pytest

from limbeck.errors import BadFolder, BadSetting, BadTask, Mismatch
from limbeck.probes.standard import evaluate
from limbeck.probes.standard.compare import above_chance, differences, level, levels, mcnemar, retention
from limbeck.probes.standard.local import local_task
from limbeck.probes.standard.scores import TaskScores, load_scores, pooled, save_scores


def scores(acc, *, task="t", chance=0.5, group="", hashed="h", **columns) -> TaskScores:
    n = len(acc)
    items = tuple((str(i), f"{hashed}{i}", f"p{i}") for i in range(n))
    found = {"acc": np.array(acc, dtype=float)} | {name: np.array(one, dtype=float) for name, one in columns.items()}
    return TaskScores(task, "none", group, items, np.full(n, chance), found)


def by_name(readings):
    return {reading.name: reading for reading in readings}


def test_mcnemar_is_the_exact_binomial_test():
    a = np.array([1] * 5 + [0] * 1 + [1] * 4, dtype=bool)
    b = np.array([0] * 5 + [1] * 1 + [1] * 4, dtype=bool)
    gained, lost, p = mcnemar(a, b)
    assert (gained, lost) == (5, 1)
    assert p == pytest.approx(2 * (1 + 6) / 64)  # P(at most 1 of 6 coins), twice
    assert mcnemar(a, a) == (0, 0, 1.0)
    assert mcnemar(a[:2], b[:2])[2] == pytest.approx(0.5)


def test_differences_are_paired_by_item():
    teacher = scores([1] * 80 + [0] * 20)
    student = scores([1] * 60 + [0] * 40)
    found = by_name(differences("student", [student], "teacher", [teacher]))
    assert found["acc_minus_teacher, t"].value == pytest.approx(-0.2)
    assert found["acc_minus_teacher, t"].high < 0
    assert found["acc_retention_of_teacher, t"].value == pytest.approx((0.6 - 0.5) / (0.8 - 0.5))
    assert found["acc_gained_on_teacher, t"].value == 0
    assert found["acc_lost_to_teacher, t"].value == 20
    assert found["acc_mcnemar_p_teacher, t"].value == pytest.approx(2 * 0.5**20)
    paired = found["acc_minus_teacher, t"]
    alone = level([student], "acc").half + level([teacher], "acc").half
    assert paired.high - paired.low < 2 * alone  # items that both get right add nothing to it


def test_retention_is_not_given_of_a_teacher_at_chance():
    guessing = scores([0, 1] * 50)
    assert retention([scores([1] * 100)], [guessing], "acc") is None
    assert not above_chance([guessing])
    assert above_chance([scores([1] * 90 + [0] * 10)])
    # a column of zeros after the chance was taken is still an item: three in four over chances of their own
    mixed = TaskScores("t", "none", "", guessing.items, np.full(100, 0.0), {"acc": np.array([1.0, 0.0] * 50)})
    kept = retention([mixed], [mixed], "acc")
    assert kept is not None
    assert (kept.value, kept.n) == (1.0, 100)


def test_a_teacher_at_chance_in_some_resamples_gives_no_warning(recwarn):
    few = scores([1] * 4 + [0] * 11, chance=0.0)
    assert above_chance([few])
    kept = retention([scores([1] * 2 + [0] * 13, chance=0.0)], [few], "acc")
    assert kept is not None
    assert kept.value == pytest.approx(0.5)
    assert not recwarn.list


def test_models_that_never_differ_have_an_interval_still():
    one = scores([1, 0] * 30)
    found = by_name(differences("student", [one], "teacher", [one]))["acc_minus_teacher, t"]
    assert found.value == 0
    assert -0.1 < found.low < 0 < found.high < 0.1


def test_bits_per_byte_is_a_ratio_of_sums_and_paired():
    nats = np.array([2.0, 4.0, 6.0, 8.0]) * math.log(2)
    ours = scores([0, 0, 0, 0], nats=nats, bytes=[1, 2, 3, 4], margin=[1, -1, 2, -2])
    theirs = scores([0, 0, 0, 0], nats=nats / 2, bytes=[1, 2, 3, 4], margin=[2, 0, 3, -1])
    assert by_name(levels("m", [ours]))["bits_per_byte, t"].value == pytest.approx(2.0)
    found = by_name(differences("m", [ours], "teacher", [theirs]))
    assert found["bits_per_byte_minus_teacher, t"].value == pytest.approx(1.0)
    assert found["margin_minus_teacher, t"].value == pytest.approx(-1.0)
    assert found["margin_minus_teacher, t"].unit == "nats"


def test_levels_have_wilsons_interval_and_chance():
    found = by_name(levels("m", [scores([1] * 8 + [0] * 2, chance=0.25)]))
    assert found["acc, t"].value == pytest.approx(0.8)
    assert (found["acc, t"].low, found["acc, t"].high) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert (found["chance, t"].value, found["chance, t"].n) == (0.25, 1)


def test_seeds_are_averaged_and_a_teacher_stands_beside_each():
    runs = [scores([1, 1, 1, 0] * 10), scores([1, 0, 1, 0] * 10)]
    teacher = [scores([1, 1, 1, 1] * 10)]
    found = by_name(differences("student", runs, "teacher", teacher))
    assert found["acc_minus_teacher, t"].value == pytest.approx(-0.375)
    assert "acc_mcnemar_p_teacher, t" not in found  # of single runs alone


def test_other_items_or_prompts_are_refused():
    with pytest.raises(Mismatch, match="other text in item 0"):
        differences("student", [scores([1, 0])], "teacher", [scores([1, 0], hashed="other")])
    with pytest.raises(Mismatch, match="2 and 3 items"):
        differences("student", [scores([1, 0])], "teacher", [scores([1, 0, 1])])


def test_a_group_counts_each_item_once():
    parts = [scores([1, 1], task="a", chance=0.5), scores([0, 0, 0, 1], task="b", chance=0.25, extra=[1, 1, 1, 1])]
    whole = pooled("both", parts)
    assert level([whole], "acc").value == pytest.approx(3 / 6)
    assert whole.items[2][0] == "b/0"
    assert list(whole.columns) == ["acc"]
    assert whole.chance.tolist() == [0.5, 0.5, 0.25, 0.25, 0.25, 0.25]


def test_scores_survive_their_file(tmp_path):
    before = [scores([1, 0], nats=[0.1, 1 / 3], bytes=[3, 4], group="g")]
    file = tmp_path / "measurements" / "tasks-teacher-seed0.json"
    save_scores(file, before)
    assert [one.row() for one in load_scores(file)] == [one.row() for one in before]
    file.write_text(file.read_text().replace("0.1", "0.2"))
    with pytest.raises(BadFolder, match="SHA-256"):
        load_scores(file)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([{"prompt": "a", "choices": ["b", "c"]}], r":1: .*add 'gold'"),
        ([{"prompt": "a", "choices": ["b", "c"], "gold": 2}], r":1: expected 'gold' .*0 to 1, got 2"),
        ([{"prompt": "a", "choices": ["b", "c"], "gold": None}], r":1: expected 'gold'"),
        ([{"prompt": "a", "choices": ["b"], "gold": 0}], "at least 2"),
        ([{"prompt": "a", "target": ""}], "'target'"),
        ([{"question": "a"}], "expected the keys"),
        ([{"text": "a"}, {"prompt": "a", "target": "b"}], r":2: expected the form of the first line"),
        ([], "got none"),
    ],
)
def test_a_task_file_without_right_answers_is_refused(tmp_path, lines, message):
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(BadTask, match=message):
        local_task(file)


def test_forms_of_a_task_file(tmp_path):
    def read(line):
        file = tmp_path / "mine.jsonl"
        file.write_text(json.dumps(line) + "\n")
        return local_task(file)

    pair = {"sentence_good": "a b", "sentence_bad": "b a", "UID": "x"}
    assert read(pair) == ("multiple_choice", [{"prompt": "", "choices": ["a b", "b a"], "gold": 0}])
    row = {"prompt": "a", "target": " b"}
    assert read(row) == ("loglikelihood", [row])
    assert read({"text": "a"}) == ("loglikelihood_rolling", [{"text": "a"}])


def test_lm_eval_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setattr("limbeck.packages.find_spec", lambda name: None)
    with pytest.raises(BadSetting, match=r"pip install 'limbeck\[eval\]'"):
        evaluate.load_tasks(("piqa",))
