"""Outcomes as bytes and back: ids exactly, probabilities to a step, without loss of mass."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.errors import BadSetting
from limbeck.teachers.codec import Sampled, TopK
from limbeck.teachers.draw import sample_outcomes, top_k
from limbeck.types import Sparse


def log_p_of(n, vocab, sharpness, seed=0):
    return (sharpness * torch.randn(n, vocab, generator=torch.Generator().manual_seed(seed))).log_softmax(-1)


SHARP = st.sampled_from([0.0, 0.5, 2.0, 6.0, 40.0])


@given(st.integers(3, 400), st.integers(2, 20), SHARP, st.integers(0, 1000))
@settings(max_examples=80, deadline=None)
def test_sampled_outcomes_are_decoded_unchanged(vocab, k, sharpness, seed):
    codec = Sampled(vocab, min(k, vocab - 1))
    uniform = torch.rand(9, generator=torch.Generator().manual_seed(seed))
    signal, head = sample_outcomes(log_p_of(9, vocab, sharpness, seed), codec.k, uniform)
    packed = codec.encode(signal, head)
    assert packed.shape == (9, codec.bytes)
    back = codec.decode(packed)
    assert torch.equal(back.ids, signal.ids)
    torch.testing.assert_close(back.weight.sum(-1), torch.ones(9))
    torch.testing.assert_close(back.weight, signal.weight, rtol=0.03, atol=1e-6)
    torch.testing.assert_close(back.log_p, signal.log_p.clamp(min=-24), rtol=0, atol=0.03)


@given(st.integers(3, 400), st.integers(1, 70), SHARP, st.integers(0, 1000))
@settings(max_examples=80, deadline=None)
def test_the_likeliest_and_the_rest_come_back(vocab, k, sharpness, seed):
    codec = TopK(vocab, min(k, vocab - 1), p_bits=10)
    signal = top_k(log_p_of(9, vocab, sharpness, seed), codec.k)
    packed = codec.encode(signal)
    assert packed.shape == (9, codec.bytes)
    back = codec.decode(packed)
    order = signal.ids.argsort(-1)
    assert torch.equal(back.ids, signal.ids.gather(-1, order))
    torch.testing.assert_close(back.weight.sum(-1) + back.rest.exp(), torch.ones(9))
    torch.testing.assert_close(back.weight, signal.weight.gather(-1, order), rtol=0.03, atol=1e-6)


@pytest.mark.parametrize("vocab", [32_000, 128_256, 152_064])
def test_a_few_bytes_hold_what_training_needs(vocab):
    assert Sampled.within(vocab, 48).k >= 12
    assert Sampled.within(vocab, 48).bytes <= 48
    assert TopK.within(vocab, 64, 160).bytes <= 160


@pytest.mark.parametrize("make", [lambda: Sampled.within(152_064, 9), lambda: TopK.within(152_064, 64, 100)])
def test_too_few_bytes_are_an_error_with_the_number_needed(make):
    with pytest.raises(BadSetting, match=r"give \d+ or more"):
        make()


def test_any_position_is_found_by_its_number():
    codec = Sampled(1000, 12)
    signal, head = sample_outcomes(log_p_of(50, 1000, 2.0), 12, torch.rand(50))
    packed = codec.encode(signal, head)
    some = codec.decode(packed[[41, 7]])
    assert torch.equal(some.ids, signal.ids[[41, 7]])


def test_positions_without_a_target_differ_from_certain_ones():
    """Top-k with the rest can encode that a position has no target, and no distribution has that code, however certain."""
    codec = TopK(300, 4)
    log_p = torch.tensor([[0.0, -50.0, -50.0, -50.0], [0.0] * 4, [-100.0] * 4, [-1.4, -1.4, -1.4, -1.4]])
    rest = torch.tensor([-50.0, -math.inf, 0.0, -6.0])
    weight = log_p.exp()
    weight[1] = 0
    decoded = codec.decode(codec.encode(Sparse(torch.arange(4).expand(4, 4), log_p, weight, 300, rest)))
    assert decoded.known.tolist() == [True, False, True, True]
    assert decoded.part(slice(1, 2)).weight.sum() == 0
    decoded.part(torch.tensor([0, 2, 3])).require_known()
