"""The recipe light-if: what each arm trains on, where the one of equal entropy stops, the reward, and the criteria."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import limbeck
from limbeck.corpora.tasks.ruled_strings import RuledString
from limbeck.generation.local import Continuation
from limbeck.objectives import CrossEntropy, EntropySelect
from limbeck.objectives.policy import PolicyGradient
from limbeck.papers.lab import lines
from limbeck.papers.light_if import training
from limbeck.papers.light_if.judging import judge_entropy, judge_plain, judge_reward, judge_selection
from limbeck.papers.light_if.recipe import ARMS
from limbeck.papers.light_if.training import (
    ALL,
    DROP,
    EACH,
    EARLY,
    KEEP,
    SELECT,
    SPARSE,
    START,
    Cell,
    Reward,
    held_out,
    train_cell,
)

BEGUN = Cell("start", START, "", 0, 3e-3, 4, 4, 0, 1, 16, 1, 2)
CELL = replace(
    BEGUN,
    name="tuned",
    arm=ALL,
    start="start",
    rate=1e-2,
    steps=12,
    shown=30,
    rules=2,
    samples=2,
    tested=6,
    prompts=2,
    reward_steps=1,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("nets")
    assert train_cell(BEGUN, "cpu", folder=found) == {"failed": False}
    return found


def test_prompts_of_a_test_are_in_no_tuning_and_no_reward():
    test, selection = held_out(2, 50)
    assert len(test) == 50
    assert len(selection) == 200
    known = {one.prompt for one in (*test, *selection)}
    assert len(known) == 250
    for use in (training._SHOWN, training._REWARDED):
        others = training._others(replace(CELL, seed=3), use, 3000, known)
        assert len(others) == 3000
        assert not known & {one.prompt for one in others}


def test_answers_are_rewarded_by_their_rules():
    one = RuledString(("#3", "+a"), "abc")
    question = training._asked(one)

    def judged(text, stop, each=EACH):
        return Reward(each).judged(question, Continuation(tuple(lines.ids_of(text)), stop))

    assert judged("abc", 0).reward == pytest.approx(1.16)
    assert judged("abcd", 0).reward == pytest.approx(0.08)
    assert judged("bbcd", 0).reward == judged("abc", None).reward == 0
    assert (judged("abc", 0, 0.0).reward, judged("abcd", 0, 0.0).reward) == (1, 0)
    assert judged("abc", 0).rollout.sampled == (*lines.ids_of("abc"), 0)


def test_each_arm_tunes_by_its_objective(folder, monkeypatch):
    seen = []
    step = training.train_step

    def spied(student, terms, *given, **named):
        if not isinstance(terms[0].objective, PolicyGradient):
            seen.append((type(terms[0].objective), float(terms[0].batch.weight.mean())))
        return step(student, terms, *given, **named)

    monkeypatch.setattr(training, "train_step", spied)
    for arm in (ALL, SELECT, DROP):
        train_cell(replace(CELL, arm=arm, steps=40), "cpu", folder=folder)
    of_arm = [seen[:40], seen[40:80], seen[80:]]
    assert [{kind for kind, _ in one} for one in of_arm] == [{CrossEntropy}, {EntropySelect}, {CrossEntropy}]
    every, selected, dropped = (np.array([weight for _, weight in one]) for one in of_arm)
    assert np.array_equal(every, selected)
    assert (dropped / every).mean() == pytest.approx(KEEP, abs=0.05)


def test_the_control_of_equal_entropy_has_the_weights_that_are_nearest(folder):
    train = {"folder": folder}
    whole = train_cell(CELL, "cpu", **train)
    at_ten = train_cell(replace(CELL, steps=10), "cpu", **train)
    early = train_cell(replace(CELL, arm=EARLY, entropy=at_ten["shown"]["uncertainty"]), "cpu", **train)
    assert early["steps"] == 10
    assert early["shown"]["uncertainty"] == at_ten["shown"]["uncertainty"] != whole["shown"]["uncertainty"]
    start = train_cell(replace(CELL, steps=0), "cpu", **train)["shown"]["uncertainty"]
    assert train_cell(replace(CELL, arm=EARLY, entropy=start), "cpu", **train)["steps"] == 0


def test_a_reward_changes_the_model_and_the_same_cell_ends_with_the_same_numbers(folder):
    cell = replace(CELL, steps=3, reward_rate=1e-2, reward_steps=3)
    found = train_cell(cell, "cpu", folder=folder)
    assert found == train_cell(cell, "cpu", folder=folder)
    assert found["shown"]["entropy"] != found["rewarded"]["entropy"]


def test_what_is_measured_of_samples(folder, monkeypatch):
    model = training.load(folder / "start", device="cpu", train=False)
    one, other = RuledString(("#2",), "ab"), RuledString(("#1",), "a")
    texts = [("ab", 0), ("a", 0), ("a", 0), ("b", 0)]
    found = [Continuation(tuple(lines.ids_of(text)), stop) for text, stop in texts]
    monkeypatch.setattr("limbeck.run.samples.continued", lambda *given, **named: found)
    got = training.measured(replace(CELL, samples=2), model, [one, other])
    assert (got["right"], got["any"]) == ([0.5, 1.0], [1.0, 1.0])
    assert got["alike"] == {"dense": 0.5, "sparse": 0.5}
    uniform = np.log(lines.VOCAB)
    with torch.no_grad():
        for parameter in model.model.parameters():
            parameter.zero_()
    flat = training.measured(replace(CELL, samples=2), model, [one, other])
    assert flat["entropy"] == pytest.approx([uniform] * 2, rel=1e-5)


def right(share, seeds=3):
    """The share of right samples to 500 prompts, other ones for each seed."""
    return (np.random.default_rng(0).random((seeds, 500)) < share).astype(float)


@pytest.mark.parametrize(
    ("dropped", "early", "verdict"),
    [(0.4, 0.4, "confirmed"), (0.4, 0.5, "refuted"), (0.6, 0.4, "refuted"), (0.4, 0.47, "inconclusive")],
)
def test_selection_has_to_beat_both_controls(dropped, early, verdict):
    select = right(0.5)
    few = (np.random.default_rng(1).random((3, 60)) < 0.47).astype(float)
    controls = {DROP: right(dropped), EARLY: right(early)}
    if verdict == "inconclusive":
        select, controls = select[:, :60], {DROP: right(dropped)[:, :60], EARLY: few}
    assert judge_selection(select, controls).verdict == verdict


def test_the_other_criteria():
    assert judge_plain(right(0.5), right(0.4)).verdict == "confirmed"
    assert judge_plain(right(0.4), right(0.5)).verdict == "refuted"
    assert judge_plain(right(0.2), right(0.1)).verdict == "inconclusive"  # too few to compare
    assert judge_plain(right(0.96), right(0.96)).verdict == "inconclusive"  # no room
    assert judge_entropy(1.5 + right(0.5), 1.2 + right(0.5)).verdict == "confirmed"
    assert judge_entropy(1.2 + right(0.5), 1.5 + right(0.5)).verdict == "refuted"
    found = judge_reward(right(0.5), right(0.4), {"dense": 0.05, "sparse": 0.7})
    assert found.verdict == "confirmed"
    assert "5.0 %, by the sparse reward 70.0 %" in found.seen


@pytest.mark.recipe
def test_the_recipe_runs_and_continues(tmp_path):
    keys = {"scale": "smoke", "out": tmp_path / "out", "seeds": 2, "workers": 1}
    first = limbeck.reproduce("light-if", **keys)
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("result.json")}
    assert len(files) == 2 * (1 + len(ARMS))
    assert {one["verdict"] for one in first.judged} == {"inconclusive"}
    again = limbeck.reproduce("light-if", **keys)
    assert {path: path.stat().st_mtime_ns for path in files} == files
    assert again.judged == first.judged
    assert SPARSE in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
