"""The sample of a teacher's outcomes: exactly K, with weights that sum to 1, and unbiased sums."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.objectives import parse
from limbeck.objectives.fused import value_and_gradient
from limbeck.teachers.draw import sample_outcomes, top_k
from limbeck.types import Chunk, Signal


def log_p_of(n, vocab, sharpness, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (sharpness * torch.randn(n, vocab, generator=generator)).log_softmax(-1)


@given(st.integers(1, 12), st.sampled_from([0.0, 0.5, 2.0, 5.0, 12.0, 60.0]), st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_a_sample_has_distinct_outcomes_whose_weights_add_up_to_one(k, sharpness, seed):
    log_p = log_p_of(6, 40, sharpness, seed)
    signal, head = sample_outcomes(log_p, k, torch.rand(6, generator=torch.Generator().manual_seed(seed)))
    assert signal.ids.shape == (6, k)
    assert all(len(set(row)) == k for row in signal.ids.tolist())
    torch.testing.assert_close(signal.weight.sum(-1), torch.ones(6))
    torch.testing.assert_close(signal.log_p, log_p.gather(-1, signal.ids))
    p = signal.log_p.exp()
    for row in range(6):
        h = int(head[row])
        torch.testing.assert_close(signal.weight[row, :h], p[row, :h])  # exact
        assert (signal.weight[row, h:] >= p[row, h:] * (1 - 1e-5)).all()  # never kept more surely than certainly
        torch.testing.assert_close(signal.log_p[row, :h], log_p[row].topk(h).values)
        assert h > 0 or k == 1  # the most probable outcome is always kept


@pytest.mark.parametrize("sharpness", [0.0, 3.0, 20.0, 200.0])
@pytest.mark.parametrize("uniform", [0.0, 1 - 1e-16])
@pytest.mark.parametrize("k", [12, 299])
def test_no_outcome_is_sampled_twice_at_extreme_random_numbers(sharpness, uniform, k):
    log_p = log_p_of(100, 300, sharpness)
    signal, _ = sample_outcomes(log_p, k, torch.full((100,), uniform, dtype=torch.float64))
    assert all(len(set(row)) == k for row in signal.ids.tolist())
    torch.testing.assert_close(signal.weight.sum(-1), torch.ones(100))


@pytest.mark.parametrize("text", ["ForwardKL", "SkewKL", "TotalVariation"])
@pytest.mark.parametrize("sharpness", [0.5, 3.0])
def test_values_and_gradients_of_draws_are_right_in_the_mean(text, sharpness):
    draws, k, vocab = 4000, 5, 30
    log_p = log_p_of(1, vocab, sharpness)
    student = torch.randn(1, vocab, generator=torch.Generator().manual_seed(9))
    objective = parse(text)
    many = Chunk(torch.zeros(draws, dtype=torch.int64), torch.ones(draws))
    uniform = torch.rand(draws, generator=torch.Generator().manual_seed(3))
    signal, _ = sample_outcomes(log_p.expand(draws, -1), k, uniform)
    nats, gradient = value_and_gradient(objective, student.expand(draws, -1), signal, many)
    one = Chunk(torch.zeros(1, dtype=torch.int64), torch.ones(1))
    true_nats, true_gradient = objective.value_and_gradient(student, Signal(log_p), one)
    for seen, truth in ((nats[:, None], true_nats[:, None]), (gradient, true_gradient)):
        error = seen.std(0) / math.sqrt(draws)
        assert ((seen.mean(0) - truth[0]).abs() <= 4.5 * error + 1e-5).all()


def test_an_exact_head_with_a_sampled_rest_is_closer_than_sampling_with_replacement():
    log_p = log_p_of(400, 200, 2.0)
    student = log_p_of(400, 200, 2.0, seed=5)
    chunk = Chunk(torch.zeros(400, dtype=torch.int64), torch.ones(400))
    _, truth = parse("ForwardKL").value_and_gradient(student, Signal(log_p), chunk)
    signal, _ = sample_outcomes(log_p, 12, torch.rand(400, generator=torch.Generator().manual_seed(1)))
    _, ours = value_and_gradient(parse("ForwardKL"), student, signal, chunk)
    ids = torch.multinomial(log_p.exp(), 12, replacement=True, generator=torch.Generator().manual_seed(1))
    plain = student.softmax(-1).scatter_add(-1, ids, torch.full((400, 12), -1 / 12))
    assert (ours - truth).square().sum() < 0.7 * (plain - truth).square().sum()


def test_the_likeliest_leave_the_rest():
    log_p = log_p_of(5, 40, 2.0)
    signal = top_k(log_p, 7)
    torch.testing.assert_close(signal.weight.sum(-1) + signal.rest.exp(), torch.ones(5))
