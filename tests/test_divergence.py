"""The formulas: never negative, 0 only at equality, blind to the order of the vocabulary, finite as far as they can be."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from limbeck import divergence

FORMULAS = {
    "kl": divergence.kl,
    "reverse_kl": divergence.reverse_kl,
    "jensen_shannon": lambda p, q: divergence.jensen_shannon(p, q, beta=0.3),
    "skew_kl": divergence.skew_kl,
    "skew_reverse_kl": divergence.skew_reverse_kl,
    "total_variation": divergence.total_variation,
}
BOUNDED = [name for name in FORMULAS if name not in ("kl", "reverse_kl")]

numbers = st.floats(-60, 60, width=32, allow_subnormal=False)
pairs = st.integers(2, 12).flatmap(
    lambda v: st.tuples(st.lists(numbers, min_size=v, max_size=v), st.lists(numbers, min_size=v, max_size=v))
)


def log_softmax(values, dtype=torch.float64):
    return torch.tensor(values, dtype=dtype).log_softmax(-1)


@pytest.mark.parametrize("name", FORMULAS)
@given(values=pairs)
def test_never_negative(name, values):
    for dtype in (torch.float32, torch.float64):
        assert FORMULAS[name](log_softmax(values[0], dtype), log_softmax(values[1], dtype)) >= 0


@pytest.mark.parametrize("name", FORMULAS)
@given(values=pairs)
def test_zero_at_equality_and_only_there(name, values):
    log_p, log_q = map(log_softmax, values)
    assert FORMULAS[name](log_p, log_p.clone()) < 1e-15  # a mixture of two equals rounds
    if (log_p.exp() - log_q.exp()).abs().max() > 1e-3:
        assert FORMULAS[name](log_p, log_q) > 1e-8


@pytest.mark.parametrize("name", FORMULAS)
@given(values=pairs, seed=st.integers(0, 1000))
def test_order_of_the_vocabulary_does_not_matter(name, values, seed):
    log_p, log_q = map(log_softmax, values)
    order = torch.randperm(len(log_p), generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(FORMULAS[name](log_p[order], log_q[order]), FORMULAS[name](log_p, log_q))


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_finite_with_finite_gradient_200_logits_apart(name, dtype):
    p = torch.tensor([200.0, 0.0, -3.0], dtype=dtype, requires_grad=True)
    q = torch.tensor([0.0, 200.0, -3.0], dtype=dtype, requires_grad=True)
    nats = FORMULAS[name](p.log_softmax(-1), q.log_softmax(-1))
    nats.backward()
    assert nats.isfinite()
    assert p.grad.isfinite().all()
    assert q.grad.isfinite().all()


@pytest.mark.parametrize("name", FORMULAS)
def test_impossible_outcomes_change_nothing(name):
    p, q = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64), torch.tensor([0.3, 1.0, -1.0], dtype=torch.float64)
    never = torch.tensor([-math.inf, -math.inf], dtype=torch.float64)
    wide_p, wide_q = torch.cat([p, never]).requires_grad_(), torch.cat([q, never]).requires_grad_()
    nats = FORMULAS[name](wide_p.log_softmax(-1), wide_q.log_softmax(-1))
    nats.backward()
    torch.testing.assert_close(nats, FORMULAS[name](p.log_softmax(-1), q.log_softmax(-1)))
    assert wide_p.grad.isfinite().all()
    assert wide_q.grad.isfinite().all()


@pytest.mark.parametrize("name", BOUNDED)
def test_divergences_are_bounded_where_one_probability_is_zero(name):
    log_p, log_q = torch.tensor([0.0, -math.inf]), torch.tensor([math.log(0.25), math.log(0.75)])
    assert FORMULAS[name](log_p, log_q).isfinite()
    assert FORMULAS[name](log_q, log_p).isfinite()


def test_kl_is_infinite_exactly_where_q_is_zero_and_p_is_not():
    never, may = torch.tensor([0.0, -math.inf]), torch.tensor([math.log(0.25), math.log(0.75)])
    assert divergence.kl(may, never) == math.inf
    hardly = torch.tensor([0.0, -120.0])  # e^-120 is no number in float32
    assert divergence.kl(hardly, never) == divergence.both_ways(hardly, never)[0] == 0
    assert divergence.kl(never, may) == pytest.approx(math.log(4))
    assert divergence.reverse_kl(never, may) == math.inf


def test_values_by_hand():
    log_p = torch.tensor([0.5, 0.5], dtype=torch.float64).log()
    log_q = torch.tensor([0.25, 0.75], dtype=torch.float64).log()
    assert divergence.kl(log_p, log_q) == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))
    assert divergence.reverse_kl(log_p, log_q) == pytest.approx(0.25 * math.log(0.5) + 0.75 * math.log(1.5))
    assert divergence.total_variation(log_p, log_q) == pytest.approx(0.25)
    m = torch.tensor([0.35, 0.65], dtype=torch.float64).log()  # 0.4 p + 0.6 q
    expected = 0.4 * divergence.kl(log_p, m) + 0.6 * divergence.kl(log_q, m)
    assert divergence.jensen_shannon(log_p, log_q, beta=0.4) == pytest.approx(float(expected))
    assert divergence.skew_kl(log_p, log_q, alpha=0.4) == pytest.approx(float(divergence.kl(log_p, m)))
    assert divergence.skew_reverse_kl(log_p, log_q, alpha=0.6) == pytest.approx(float(divergence.kl(log_q, m)))


def test_jensen_shannon_nears_the_two_kls_at_its_ends():
    log_p, log_q = torch.randn(2, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    small = 1e-6
    near_p = divergence.jensen_shannon(log_p, log_q, beta=small) / small
    near_q = divergence.jensen_shannon(log_p, log_q, beta=1 - small) / small
    torch.testing.assert_close(near_p, divergence.kl(log_p, log_q), rtol=1e-4, atol=0)
    torch.testing.assert_close(near_q, divergence.reverse_kl(log_p, log_q), rtol=1e-4, atol=0)


def test_gradients_match_their_closed_forms():
    generator = torch.Generator().manual_seed(1)
    z_p, z_q = torch.randn(2, 4, 11, dtype=torch.float64, generator=generator)
    z_q.requires_grad_()
    p, q = z_p.softmax(-1), z_q.detach().softmax(-1)
    (forward,) = torch.autograd.grad(divergence.kl(z_p.log_softmax(-1), z_q.log_softmax(-1)).sum(), z_q)
    torch.testing.assert_close(forward, q - p)
    (reverse,) = torch.autograd.grad(divergence.reverse_kl(z_p.log_softmax(-1), z_q.log_softmax(-1)).sum(), z_q)
    gap = z_q.detach() - z_p
    torch.testing.assert_close(reverse, q * (gap - (q * gap).sum(-1, keepdim=True)))


@given(values=pairs)
def test_all_at_once_are_the_same_bits(values):
    log_p, log_q = (log_softmax(one, torch.float32) for one in values)
    for cut_p, cut_q in ((0, 0), (1, 0), (0, 1), (1, 1)):  # with a first outcome that is impossible, too
        p, q = log_p.clone(), log_q.clone()
        p[:cut_p], q[:cut_q] = -math.inf, -math.inf
        found = divergence.both_ways(p, q)
        for one, formula in zip(found, ("kl", "reverse_kl", "total_variation"), strict=True):
            torch.testing.assert_close(one, FORMULAS[formula](p, q), rtol=0, atol=0, equal_nan=True)
