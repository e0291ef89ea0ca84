"""The recipe latro: what is cut and scored of a sample, what each arm trains on, and the criteria."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import limbeck
from limbeck.corpora.tasks.chains import Chain
from limbeck.generation.local import Continuation
from limbeck.papers.lab import lines
from limbeck.papers.latro import training
from limbeck.papers.latro.judging import Gaps, judge_answer_half, judge_reward, judge_verifier, judged_from
from limbeck.papers.latro.recipe import ARMS
from limbeck.papers.latro.training import ANSWERS, EXACT, LATRO, LIKELIHOOD, RELEASE, STAR, WARM_UP, Cell, train_cell
from limbeck.run.policy import Scores

CHAIN = Chain(7, (("+", 5), ("-", 3)))  # 9
CELL = Cell("start", WARM_UP, "", 0, 3e-3, 3, 2, 40, 16, 1, 2, 2, 3, 12)


def test_a_rationale_ends_at_the_marker_and_the_answer_is_the_right_one():
    found = training._rollout(CHAIN, lines.ids_of("7+5=2;#4"))
    assert [lines.text_of(part) for part in (found.prompt, found.sampled, found.answer)] == ["7+5-3>", "7+5=2;#", "9\0"]
    without = training._rollout(CHAIN, lines.ids_of("7+5=2;"))
    assert (lines.text_of(without.sampled), lines.text_of(without.answer)) == ("7+5=2;", "#9\0")


def test_chains_of_a_test_are_in_no_training():
    sets = [training._Sets.of(replace(CELL, seed=seed), 2, 3000) for seed in (0, 1)]
    held_out = {*sets[0].test, *sets[0].selection}
    assert len(held_out) == 12 + 200
    assert sets[0].test == sets[1].test
    assert not held_out & {*sets[0].known, *sets[1].known}
    assert sets[0].known[:50] != sets[1].known[:50]


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nets")
    return folder, train_cell(CELL, "cpu", folder=folder)


def test_a_start_without_tuning_is_itself(started):
    folder, start = started
    still = train_cell(replace(CELL, name="tuned", arm=LATRO, start="start", steps=0), "cpu", folder=folder)
    assert {**still, "trained_steps": 3} == start
    assert start["kl"] == 0
    assert len(start["right"]) == 12


@pytest.mark.long
@pytest.mark.parametrize("arm", [LATRO, ANSWERS])
def test_the_same_cell_ends_with_the_same_numbers(started, arm):
    folder, start = started
    cell = replace(CELL, name="tuned", arm=arm, start="start", rate=1e-2, steps=2)
    found = train_cell(cell, "cpu", folder=folder)
    assert found == train_cell(cell, "cpu", folder=folder)
    assert found["own"] != start["own"]


@pytest.mark.parametrize(
    ("arm", "loss"),
    [
        # of one chain two samples: the second is right, and each is as likely as at the start
        (LIKELIHOOD, lambda z, y: -y.mean()),
        (STAR, lambda z, y: -(z[1] + y[1])),
        (EXACT, lambda z, y: -(z[1] - z[0]) / 2),  # advantages of 1 and -1
        (RELEASE, lambda z, y: -float(y[0] - y[1]) * (z[0] - z[1]) / 2),
        (LATRO, lambda z, y: -float(y[0] - y[1]) * (z[0] - z[1]) / 2 - y.mean()),
    ],
)
def test_each_arm_has_its_loss(monkeypatch, arm, loss):
    z, y = torch.tensor([[-3.0, -5.0]]), torch.tensor([[-2.0, -0.5]])
    texts = ["7+5=3;#1", "7+5=2;2-3=9;#9"]
    found = [[Continuation(tuple(lines.ids_of(text)), 0) for text in texts]]
    monkeypatch.setattr(lines, "sampled", lambda *given: found)
    monkeypatch.setattr(training, "scores", lambda *given: Scores(z, y))
    cell = replace(CELL, arm=arm, samples=2)
    model = lines.new_decoder(CELL)
    torch.testing.assert_close(training._loss_of_samples(cell, model, model, [CHAIN], 1), loss(z[0], y[0]))


def right(share, seeds=3):
    """Right answers to 500 chains, other ones for each seed."""
    return (np.random.default_rng(0).random((seeds, 500)) < share).astype(float)


GAPS = Gaps((3.0, 2.0, 2.5), (4.0, 1.1, 2.5))


@pytest.mark.parametrize(
    ("half", "star", "gaps", "verdict"),
    [
        (0.2, 0.4, GAPS, "confirmed"),
        (0.2, 0.5, GAPS, "inconclusive"),  # as good as STaR
        (0.5, 0.4, GAPS, "refuted"),  # no better than the likelihood alone
        (0.2, 0.4, replace(GAPS, after=(4.0, 0.9, 2.5)), "inconclusive"),  # below half of the start's
        (0.2, 0.4, replace(GAPS, after=(0.1, 0.1, 0.05)), "refuted"),  # not read
    ],
)
def test_the_reward_has_to_beat_its_parts_and_rationales_have_to_be_read(half, star, gaps, verdict):
    assert judge_reward(right(0.5), right(half), right(star), gaps).verdict == verdict


def test_the_other_criteria():
    assert judge_answer_half(right(0.5), right(0.4)).verdict == "confirmed"
    assert judge_answer_half(right(0.4), right(0.5)).verdict == "refuted"
    assert judge_verifier(right(0.5), right(0.51)).verdict == "confirmed"
    assert judge_verifier(right(0.4), right(0.55)).verdict == "refuted"
    confirmed = judge_answer_half(right(0.5), right(0.4))
    assert judged_from(confirmed, (0.4, 0.5, 0.35)).verdict == "confirmed"
    assert judged_from(confirmed, (0.4, 0.1, 0.35)).verdict == "inconclusive"
    assert "difference +" in confirmed.seen


@pytest.mark.recipe
def test_the_recipe_runs_and_continues(tmp_path):
    keys = {"scale": "smoke", "out": tmp_path / "out", "seeds": 2, "workers": 1}
    first = limbeck.reproduce("latro", **keys)
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("result.json")}
    assert len(files) == 2 * (1 + len(ARMS))
    assert {one["verdict"] for one in first.judged} == {"inconclusive"}
    again = limbeck.reproduce("latro", **keys)
    assert {path: path.stat().st_mtime_ns for path in files} == files
    assert again.judged == first.judged
    assert ANSWERS in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
