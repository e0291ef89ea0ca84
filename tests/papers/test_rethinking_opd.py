"""The recipe rethinking-opd: what students and teachers learn, what a distillation trains on, and the criteria."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from limbeck.generation.local import Continuation
from limbeck.papers.lab import lines
from limbeck.papers.lab.on_policy import OFF, ON, rows_of
from limbeck.papers.rethinking_opd import training
from limbeck.papers.rethinking_opd.judging import (
    correlation,
    judge_knowledge,
    judge_on_policy,
    judge_overlap,
    judge_pattern,
)
from limbeck.papers.rethinking_opd.training import START, Cell, distillation_loss, train_cell

CELL = Cell("student", START, 0, 3e-3, 2, 2, 30, "same", 16, 1, 2, 4, 6)


def test_a_teachers_chains_begin_with_the_students_and_none_is_a_test():
    few, many = training.learned_chains(CELL), training.learned_chains(replace(CELL, examples=90))
    assert len(few) == 30
    assert len({*many}) == 90
    assert many[:30] == few
    test, selection = training.held_out(CELL)
    assert len({*test, *selection}) == 6 + 200
    assert not {*test, *selection} & {*many, *training.asked(CELL, 1), *training.asked(CELL, 2)}


def test_the_end_of_an_answer_counts_only_where_it_was_written():
    tokens = tuple(lines.ids_of("7+5=2"))
    rows = rows_of(["7+5>", "7+5-3>"], [Continuation(tokens, 0), Continuation(tokens, None)])
    learned = [rows.targets[i][rows.weight[i] > 0].tolist() for i in range(2)]
    assert learned == [[*tokens, 0], [*tokens]]


def test_the_losses_are_the_two_divergences():
    student, teacher = (lines.new_decoder(replace(CELL, seed=seed)) for seed in (1, 2))
    rows = rows_of(["7+5>"], [Continuation(tuple(lines.ids_of("12")), 0)])
    q, p = (model(rows).logits(rows.counted).double().softmax(-1) for model in (student, teacher))
    forward, reverse = ((a * (a / b).log()).sum(-1).mean() for a, b in ((p, q), (q, p)))
    torch.testing.assert_close(distillation_loss(OFF, student, teacher, rows).double(), forward, rtol=1e-4, atol=0)
    torch.testing.assert_close(distillation_loss(ON, student, teacher, rows).double(), reverse, rtol=1e-4, atol=0)
    itself = distillation_loss(ON, student, student, rows)
    itself.backward()
    assert itself.item() == 0
    assert all(one.grad is None or not one.grad.abs().max() > 1e-6 for one in student.model.parameters())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nets")
    for cell in (CELL, replace(CELL, name="teacher", width=24, pattern="other", seed=1)):
        train_cell(cell, "cpu", folder=folder)
    return folder


@pytest.mark.long
@pytest.mark.parametrize("kind", [ON, OFF])
def test_a_distillation_ends_with_its_tokens_and_off_policy_with_the_flops_of_on_policy_too(folder, kind):
    cell = replace(CELL, name="d", kind=kind, start="student", teacher="teacher", tokens=300, rate=1e-2)
    found = train_cell(cell, "cpu", folder=folder)
    assert found == train_cell(cell, "cpu", folder=folder)
    assert len(found["right"]) == len(found["tokens"]) == (1 if kind == ON else 2)
    most = CELL.rows * (CELL.most + 1)  # of one step
    assert 300 <= found["tokens"][0] < 300 + most
    n, m = (sum(one.numel() for one in lines.new_decoder(replace(CELL, width=w)).model.parameters()) for w in (16, 24))
    assert found["flops"][0] == found["tokens"][0] * ((8 if kind == ON else 6) * n + 2 * m)
    if kind == OFF:
        assert 300 * (8 * n + 2 * m) <= found["flops"][1] < (300 + most) * (8 * n + 2 * m)
    assert 0 <= found["before"]["overlap"] <= 1
    assert found["before"]["kl"] > 0


def test_correlations_are_those_of_ranks_and_others_are_taken_out():
    drawing = np.random.default_rng(0)
    x, y, z = drawing.normal(size=(3, 12))
    assert correlation(x, y).value == pytest.approx(spearmanr(x, y).statistic)
    xy, xz, yz = (spearmanr(a, b).statistic for a, b in ((x, y), (x, z), (y, z)))
    partial = (xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2))
    assert correlation(x, y, (z,)).value == pytest.approx(partial)
    assert np.isnan(correlation(x, np.ones(12)).low)
    assert correlation(x, x**3).low > 0.9
    both = correlation(x, x + z, (z,))
    assert both.low > 0 > correlation(x, -x - z, (z,)).high


def right(share, *, use=0, seeds=3, chains=2000):
    drawing = np.random.default_rng([round(1000 * share), use])
    return (drawing.random((seeds, chains)) < share).astype(float)


def test_overlap_predicts_if_it_does_among_teachers_of_a_pattern_and_beside_the_rivals_too():
    drawing = np.random.default_rng(2)
    overlap, divergence, accuracy = drawing.normal(size=(3, 15))
    patterns = [kind for kind in ("same", "mixed", "other") for _ in range(5)]
    given = (divergence, accuracy)
    assert judge_overlap(overlap, *given, overlap + 0.1 * divergence, patterns).verdict == "confirmed"
    assert judge_overlap(overlap, *given, -overlap, patterns).verdict == "refuted"
    assert judge_overlap(overlap, *given, drawing.normal(size=15), patterns).verdict == "inconclusive"
    # through the divergence alone: it says nothing more, which 15 pairs do not refute
    assert judge_overlap(divergence + 0.1 * overlap, *given, divergence, patterns).verdict != "confirmed"


def test_a_difference_between_patterns_alone_confirms_no_more_than_chance_does():
    drawing, verdicts = np.random.default_rng(3), []
    patterns = [kind for kind in ("same", "mixed", "other") for _ in range(5)]
    for _ in range(200):
        of_pattern = np.repeat(drawing.normal(size=(4, 3)), 5, axis=1)
        verdicts.append(judge_overlap(*(of_pattern + 0.1 * drawing.normal(size=(4, 15))), patterns).verdict)
    assert verdicts.count("confirmed") <= 10


def test_a_pattern_is_judged_only_between_teachers_that_know_as_much():
    assert judge_pattern(right(0.5), right(0.3), (0.95, 0.9)).verdict == "confirmed"
    assert judge_pattern(right(0.3), right(0.5), (0.95, 0.9)).verdict == "refuted"
    assert judge_pattern(right(0.5), right(0.3), (0.95, 0.8)).verdict == "inconclusive"
    assert judge_pattern(right(0.5), right(0.5, use=1), (0.95, 0.9)).verdict == "inconclusive"


def test_the_known_is_judged_by_the_share_of_the_gap_that_is_closed():
    start, seen, new = right(0.2), right(0.5), right(0.95)
    assert judge_knowledge(start, (right(0.22), seen), (right(0.6), new)).verdict == "confirmed"
    assert judge_knowledge(start, (right(0.4), seen), (right(0.6), new)).verdict == "refuted"
    assert judge_knowledge(start, (right(0.22), right(0.25)), (right(0.6), new)).verdict == "inconclusive"


def test_own_answers_must_teach_more_at_equal_tokens_and_at_equal_flops():
    assert judge_on_policy(right(0.6), right(0.4), right(0.45)).verdict == "confirmed"
    assert judge_on_policy(right(0.6), right(0.4), right(0.6, use=1)).verdict == "inconclusive"
    assert judge_on_policy(right(0.4), right(0.6), right(0.65)).verdict == "refuted"
