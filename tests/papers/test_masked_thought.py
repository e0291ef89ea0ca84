"""The recipe masked-thought: what its arms read, which weights they are measured with, and the criteria."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import limbeck
from limbeck.papers.lab import lines
from limbeck.papers.masked_thought import training
from limbeck.papers.masked_thought.judging import Plain, judge_clause, judged_by_plain
from limbeck.papers.masked_thought.recipe import SCALES, best, judged
from limbeck.papers.masked_thought.training import (
    ARMS,
    CLAUSE,
    LONG,
    MASK,
    MASKED,
    PLAIN,
    SAME,
    SFT,
    Best,
    Cell,
    Sets,
    _corpus,
    train_cell,
    with_dropout,
)
from limbeck.probes.interval import difference_interval

CELL = Cell("one", SFT, 3, 3e-3, 2, 4, 40, 2, 16, 1, 2, 20)


def test_chains_of_tests_and_selection_are_in_no_training_and_the_same_for_all_seeds():
    one, other = Sets.of(CELL), Sets.of(replace(CELL, seed=4))
    assert (one.tests, one.selection) == (other.tests, other.selection)
    assert one.known != other.known
    held_out = {*one.selection, *(chain for chains in one.tests.values() for chain in chains)}
    assert not held_out & {*one.known, *other.known}
    assert [len(chains) for chains in one.tests.values()] == [20, 20, 20]
    assert len(one.known) == 40
    assert all(chain.clause for chain in one.tests[CLAUSE])
    assert not any(chain.clause for chain in one.tests[SAME])
    assert {len(chain.operations) for chain in one.tests[LONG]} == {4}
    assert 0 < sum(bool(chain.clause) for chain in one.known) < 20


def test_arms_read_the_same_lines_and_masked_ones_only_lose_tokens_of_derivations():
    known = Sets.of(CELL).known
    read = {name: _corpus(CELL, arm, known, 1).take(40) for name, arm in ARMS.items()}
    plain = read[SFT]
    assert all(torch.equal(batch.tokens, plain.tokens) for batch in read.values())
    for name in MASKED:
        changed = read[name].for_student().tokens != plain.tokens
        assert changed.any()
        asked = torch.zeros_like(changed)
        asked[:, 1:] = plain.weight[:, :-1] > 0
        assert not (changed & ~asked).any()
        assert ARMS[name].random or set(read[name].for_student().tokens[changed].tolist()) == {MASK}
    assert all(read[name].student_inputs is None for name in PLAIN)


def test_dropout_is_of_trainings_alone():
    model = lines.new_decoder(CELL).model
    tokens = torch.randint(128, (2, 5))
    before = model.eval()(input_ids=tokens, use_cache=False).logits
    with_dropout(model, 0.5)
    assert torch.equal(model(input_ids=tokens, use_cache=False).logits, before)
    assert not torch.equal(model.train()(input_ids=tokens, use_cache=False).logits, before)


def test_the_best_validation_is_kept_and_the_lower_loss_of_equal_ones():
    layer, found = torch.nn.Linear(1, 1), Best()
    for step, (validation, nats, train) in enumerate(
        [(0.1, 2.0, 0.5), (0.3, 1.0, 0.99), (0.3, 0.9, 1.0), (0.2, 0.1, 1.0)], 1
    ):
        torch.nn.init.constant_(layer.weight, step)
        found.see(step, validation, nats, train, layer)
    assert (found.step, found.fitted, found.train) == (3, 2, 1.0)
    assert float(found.weights["weight"]) == 3


@pytest.mark.long
def test_the_same_cell_ends_with_the_same_numbers_and_half_the_epochs_are_half_the_steps(monkeypatch):
    monkeypatch.setattr(training, "_SELECTION", 4)
    monkeypatch.setattr(training, "_LEARNED", 4)
    cell = replace(CELL, arm="dropout 0.2", tested=4)
    assert train_cell(cell, "cpu") == train_cell(cell, "cpu")
    assert train_cell(replace(CELL, arm="SFT, half the epochs", tested=4), "cpu")["trained_steps"] == 1


def right(share, seed=0, chains=500):
    """Right answers to chains, other ones for each of three seeds."""
    return (np.random.default_rng(seed).random((3, chains)) < share).astype(float)


@pytest.mark.parametrize(
    ("ours", "theirs", "verdict"),
    [
        (0.5, 0.4, "confirmed"),
        (0.42, 0.4, "inconclusive"),  # less than three points
        (0.4, 0.5, "refuted"),
    ],
)
def test_a_claim_needs_three_points_and_its_whole_interval(ours, theirs, verdict):
    assert judge_clause(right(ours), right(theirs), ("mask", "plain")).verdict == verdict


def test_what_may_be_three_points_is_not_refuted():
    ours, theirs = right(0.43, seed=1), right(0.4, seed=21)
    found = judge_clause(ours, theirs, ("mask", "plain"))
    assert (
        difference_interval(ours, theirs, np.ones(500)).low
        < 0
        < 0.03
        < difference_interval(ours, theirs, np.ones(500)).high
    )
    assert found.verdict == "inconclusive"
    same = [right(0.4, seed=seed, chains=20_000) for seed in (3, 4)]
    assert judge_clause(*same, ("mask", "plain")).verdict == "refuted"


@pytest.mark.parametrize(
    ("plain", "verdict"),
    [
        (Plain([0.3, 0.5, 0.9], [0.1, 0.2, 0.5]), "confirmed"),
        (Plain([0.3, 0.5, 0.97], [0.1, 0.2, 0.25]), "inconclusive"),  # no room
        (Plain([0.05, 0.5, 0.9], [0.1, 0.2, 0.25]), "inconclusive"),
        (Plain([0.3, 0.5, 0.9], [0.1, 0.2, 0.6]), "inconclusive"),  # too short a budget
        (Plain([0.3, 0.5, 0.9], [0.1, 0.2, None]), "inconclusive"),
    ],
)
def test_plain_training_has_room_and_time(plain, verdict):
    assert judged_by_plain(judge_clause(right(0.5), right(0.4), ("mask", "plain")), plain).verdict == verdict


def test_the_arms_that_are_compared_are_those_of_the_best_validation():
    def rows(arm):
        share = {"mask 0.2": 0.8, "mask 0.4": 0.7, "dropout 0.1": 0.6}.get(arm, 0.5)
        tests = {test: right(share)[0].tolist() for test in (SAME, CLAUSE, LONG)}
        return [{"right": tests, "validation": share, "fitted": 1, "steps": 100, "failed": False} for _ in range(3)]

    found = {arm: rows(arm) for arm in ARMS}
    assert (best(found, MASKED), best(found, PLAIN)) == ("mask 0.2", "dropout 0.1")
    results = judged(found)
    assert [one.verdict for one in results] == ["confirmed"] * 4
    assert "mask 0.2 from dropout 0.1" in results[0].seen
    assert "mask 0.4 from mask 0.4, no warm-up" in results[3].seen


def test_the_budget_is_the_same_for_all_arms_but_half_the_epochs():
    assert [name for name, arm in ARMS.items() if arm.part != 1] == ["SFT, half the epochs"]
    assert SCALES["small"].tested >= 300


@pytest.mark.recipe
def test_the_recipe_runs_and_continues(tmp_path):
    keys = {"scale": "smoke", "out": tmp_path / "out", "seeds": 2, "workers": 1}
    first = limbeck.reproduce("masked-thought", **keys)
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("result.json")}
    assert len(files) == 2 * len(ARMS)
    assert {one["verdict"] for one in first.judged} == {"inconclusive"}
    again = limbeck.reproduce("masked-thought", **keys)
    assert {path: path.stat().st_mtime_ns for path in files} == files
    assert again.judged == first.judged
    assert "with a clause" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
