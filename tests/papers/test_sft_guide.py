"""The recipe sft-guide: its samples and orders, its early signals, and the criteria."""

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

import limbeck
from limbeck.corpora.tasks.spelled import Question
from limbeck.corpora.tasks.strategies import KINDS
from limbeck.models.load import load
from limbeck.papers.lab import lines
from limbeck.papers.sft_guide import training
from limbeck.papers.sft_guide.judging import Group, judge_batch, judge_loss, judge_norm, judge_schedule
from limbeck.papers.sft_guide.recipe import SCALES, chosen, groups, judged, right, tunings
from limbeck.papers.sft_guide.training import SKILLS, Cell, Sets, Tuning, _order, base_text, train_cell

SMOKE = SCALES["smoke"]
TUNING = Tuning(4, 1e-3, 40)
CELL = Cell("one", 3, SMOKE.size, TUNING)


def test_samples_are_the_same_in_all_settings_and_tests_are_in_none():
    sets, other = Sets.of(CELL), Sets.of(replace(CELL, tuning=Tuning(2, 1e-4, 8), order=1))
    assert sets == other
    assert (Sets.of(replace(CELL, seed=4)).test, sets.selection) == (
        sets.test,
        Sets.of(replace(CELL, seed=4)).selection,
    )
    asked = {item.prompt for item in sets.test + sets.selection}
    assert not asked & {question.prompt for question in sets.known}
    assert {item.kind for item in sets.test} == set(SKILLS)
    facts = [question for question in sets.known if question.prompt.startswith("F")]
    assert len(sets.known) == SMOKE.size.skills + SMOKE.size.facts * SMOKE.size.repeats
    assert {question.prompt for question in facts} == {fact.prompt for fact in sets.facts}
    assert all(
        fact.passes(question.answer) for fact in sets.facts for question in facts if question.prompt == fact.prompt
    )


def test_an_epoch_has_every_sample_once_and_orders_differ():
    known = Sets.of(CELL).known
    epochs = {
        order: torch.cat([*islice(_order(replace(CELL, order=order), TUNING, known), len(known) // 4)])
        for order in (0, 1)
    }
    assert all(sorted(epoch.tolist()) == [*range(len(known))] for epoch in epochs.values())
    assert not torch.equal(epochs[0], epochs[1])


def test_phases_have_short_answers_and_then_long_ones_with_a_few_short():
    known = [Question("p", "a" * length) for length in range(1, 101)]
    tuning = replace(TUNING, phased=True, samples=408, batch=4)
    batches = [batch.tolist() for batch in _order(CELL, tuning, known)]
    assert len(batches) == tuning.steps == 102
    first, second = ([number for batch in part for number in batch] for part in (batches[:51], batches[51:]))
    assert set(first) == {*range(50)}
    assert len(set(second) & {*range(50)}) == 1
    assert set(second) >= {*range(50, 100)}


def test_a_tuning_begins_with_its_base_and_says_what_happened_early(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "_SELECTION", 2)
    monkeypatch.setattr(training, "_KEPT", 4)
    base = train_cell(Cell("base-seed3", 3, SMOKE.size), "cpu", folder=tmp_path)
    assert (tmp_path / "base-seed3" / "model.safetensors").is_file()
    found = train_cell(CELL, "cpu", folder=tmp_path)
    assert (found["steps"], found["samples"], found["trained_steps"]) == (10, 40, 10)
    assert len(found["right"]) == SMOKE.size.tested
    assert len(found["facts"]) == SMOKE.size.facts
    unmoved = replace(TUNING, rate=0.0)
    still = train_cell(replace(CELL, tuning=unmoved), "cpu", folder=tmp_path)
    assert still["kept"] == pytest.approx(base["kept"], abs=1e-5)  # saved in float32 as it was
    model = load(tmp_path / "base-seed3", train=True)
    rows = lines.lines_of(Sets.of(CELL).known)
    norms, losses = [], []
    for batch in islice(_order(CELL, unmoved, Sets.of(CELL).known), 2):
        model.model.zero_grad()
        loss = lines.line_loss(model, rows.rows(batch))
        loss.backward()
        losses.append(loss.item())
        norms.append(float(torch.nn.utils.get_total_norm([p.grad for p in model.model.parameters()])))
    assert still["early_loss"] == pytest.approx(np.mean(losses), rel=1e-4)
    assert still["early_norm"] == pytest.approx(np.mean(norms), rel=1e-4)


def test_a_base_reads_no_tested_skill():
    asked = {question.prompt for question in base_text(1, 60)}
    fewer = {question.prompt for question in base_text(1, 60, frozenset([*asked][:30]))}
    assert len(asked) == len(fewer) == 60
    assert not fewer & {*[*asked][:30]}
    assert base_text(1, 8) != base_text(2, 8)


def test_the_correlation_is_spearmans_and_none_where_nothing_differs():
    signal, accuracy = [3.0, 1.0, 2.0, 2.0], [0.1, 0.4, 0.2, 0.3]
    assert Group(signal, accuracy).correlation == pytest.approx(spearmanr(signal, accuracy).statistic)
    assert Group([1.0, 1.0], [0.1, 0.2]).correlation is None


def made(slope, n=20):
    """Groups whose accuracy is a signal's multiple with noise."""
    random = np.random.default_rng(0)
    signals = random.normal(size=(n, 6))
    return [Group(row.tolist(), (slope * row + random.normal(size=6)).tolist()) for row in signals]


@pytest.mark.parametrize(("slope", "norm", "loss"), [(-2.0, "confirmed", "refuted"), (2.0, "refuted", "confirmed")])
def test_signals_have_a_sign(slope, norm, loss):
    assert judge_norm(made(slope)).verdict == norm
    assert judge_loss(made(slope)).verdict == loss


def test_no_correlation_refutes_and_few_groups_decide_nothing():
    assert judge_norm(made(0.0, n=60)).verdict == "refuted"
    assert judge_norm(made(-0.4, n=4)).verdict == "inconclusive"
    assert judge_norm([Group([1.0, 1.0], [0.1, 0.2])]).verdict == "inconclusive"


def answers(share, skills=400, seeds=3):
    """Right answers to skills, other ones for each seed; a larger share has those of a smaller one too."""
    return (np.random.default_rng(0).random((seeds, skills)) < share).astype(float)


@pytest.mark.parametrize(("large", "verdict"), [(0.6, "confirmed"), (0.5, "refuted"), (0.4, "refuted")])
def test_the_largest_batch_needs_two_points(large, verdict):
    assert judge_batch(answers(large), answers(0.5), ("64", "4"), inside=True).verdict == verdict


@pytest.mark.parametrize(("constant", "verdict"), [(0.5, "confirmed"), (0.48, "inconclusive"), (0.4, "refuted")])
def test_a_constant_rate_is_judged_within_two_points(constant, verdict):
    assert judge_schedule(answers(constant), answers(0.5)).verdict == verdict


def test_settings_are_compared_at_their_best_validation_and_choices_follow_their_signal():
    runs = {}
    for tuning, orders in tunings(SMOKE).items():
        good = tuning.batch == 4 or tuning.schedule == "decay"
        one = {
            "failed": False,
            "right": [1, 1] if good else [1, 0],
            "validation": float(good),
            "early_norm": 1.0 if good else 2.0,
            "early_loss": 1.0,
            "early_validation": 2.0 if good else 1.0,
        }
        runs[tuning] = {(seed, order): one for seed in range(3) for order in range(orders)}
    grid = [one for one in runs if one.samples == SMOKE.samples and one.schedule == "constant" and not one.phased]
    assert chosen(grid, runs, "early_norm").tolist() == [[1, 1]] * 3
    assert chosen(grid, runs, "early_validation").tolist() == [[1, 0]] * 3
    assert all(group.correlation is None for group in groups(grid, runs, "early_norm"))
    assert right(runs, grid[0], [0]).shape == (3, 2)
    found = judged(SMOKE, runs)
    assert [one.verdict for one in found[:2]] == ["inconclusive"] * 2
    assert "4 samples a step at 0.001 from 2 samples a step at 0.001" in found[2].seen


def test_batches_have_equally_many_samples_or_steps():
    scale = SCALES["small"]
    settings = tunings(scale)
    grid = {one for one, orders in settings.items() if orders == scale.orders}
    assert {one.steps * one.batch for one in grid} == {scale.samples}
    others = {one for one, orders in settings.items() if orders == 1}
    assert {one.steps for one in others} == {scale.samples // scale.middle}
    assert {one.batch for one in others} == {4, 64}
    assert min(one.steps for one in settings) >= 96


@pytest.mark.parametrize("scale", ["small", "gpu"])
def test_there_are_more_prompts_of_each_kind_than_a_base_reads(scale):
    assert SCALES[scale].size.base_lines / len(KINDS) < 10**5 / 2  # strings of five digits


def test_nothing_is_judged_of_models_that_learned_nothing_or_at_the_edge_of_the_rates():
    assert judge_schedule(answers(0.1), answers(0.1)).verdict == "inconclusive"
    assert judge_batch(answers(0.1), answers(0.1), ("64", "4"), inside=True).verdict == "inconclusive"
    found = judge_batch(answers(0.6), answers(0.5), ("64", "4"), inside=False)
    assert (found.verdict, "at the edge of the rates" in found.seen) == ("inconclusive", True)


def test_runs_of_different_settings_do_not_begin_with_the_same_samples():
    known = Sets.of(CELL).known
    settings = (TUNING, replace(TUNING, rate=3e-3), replace(TUNING, samples=80))
    first = [next(_order(CELL, tuning, known)).tolist() for tuning in settings]
    assert len({tuple(batch) for batch in first}) == 3


@pytest.mark.recipe
def test_the_recipe_runs_and_continues(tmp_path):
    keys = {"scale": "smoke", "out": tmp_path / "out", "seeds": 2, "workers": 1}
    first = limbeck.reproduce("sft-guide", **keys)
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("result.json")}
    assert len(files) == 2 * (1 + sum(tunings(SMOKE).values()))
    assert len(first.judged) == 6
    again = limbeck.reproduce("sft-guide", **keys)
    assert {path: path.stat().st_mtime_ns for path in files} == files
    assert again.judged == first.judged
    assert "warm-up, cosine" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
